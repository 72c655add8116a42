"""Notices changes of the pool index and hands the complete new state on, from a ConfigMap or from a folder.

Both sources run for ever, keep the last good state while theirs is out of reach, and never stop the proxy. An index that
is gone says nothing: the last state is kept, and its accounts are used until their access tokens end. One that is there
and names no account empties the pool.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import msgspec

from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.kube_api import KubeApi, KubeApiError

log = logging.getLogger(__name__)

OnIndex = Callable[[Mapping[str, str]], None]

SHARDS = "oauthpool.dev/shards"
MOST_SHARDS = 10
WATCH_SECONDS = 290
"""How long the API server is asked to keep a watch open: a little less than its own limit of five minutes."""


_GONE = "the pool index is gone; its accounts are used until their access tokens end"


class _Outage:
    """Says once that something is out of reach, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_out = False

    def failed(self, error: Exception) -> None:
        level = logging.DEBUG if self._is_out else logging.WARNING
        log.log(
            level, "%s cannot be read; going on with what is known", self._what, extra={"fields": {"error": str(error)}}
        )
        self._is_out = True

    def worked(self) -> None:
        if self._is_out:
            log.info("%s can be read again", self._what)
        self._is_out = False


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _ConfigMap(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


class _List(msgspec.Struct):
    metadata: _Meta
    items: list[_ConfigMap]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _EventError(Exception):
    """The watch says that it cannot go on: most often 410, because the version it starts from is too old."""


class ConfigMapIndex:
    """The pool index in a ConfigMap and, when one is not enough, in further ones: `NAME-1`, `NAME-2`, …

    The first one says in an annotation how many there are. Each is followed by itself, and the union is handed on as soon
    as every one has been read; an account that stands in two counts where the number is lower. One that is added later
    holds up nobody: nothing was in it before its announcement, and accounts do not move. One that is deleted keeps its
    part, unless the first one has said that there are fewer.
    """

    def __init__(self, api: KubeApi, name: str, on_index: OnIndex, backoff: Callable[[], Backoff] = Backoff) -> None:
        self._api, self._name, self._on_index, self._new_backoff = api, name, on_index, backoff
        self._parts: dict[int, Mapping[str, str]] = {}
        self._reflectors: dict[int, _Reflector] = {}
        self._heard_of: set[int] = set()
        self._gone: set[int] = set()
        self._announced = 1
        self._was_complete = False

    @property
    def last_success(self) -> float | None:
        """When all of the index was last known to be current."""
        instants = [reflector.last_success for reflector in self._reflectors.values()]
        return min((instant for instant in instants if instant is not None), default=None) if all(instants) else None

    @property
    def lists(self) -> int:
        """How often a whole ConfigMap was read."""
        return sum(reflector.lists for reflector in self._reflectors.values())

    async def run(self) -> None:
        self._reflectors.clear()
        self._heard_of.clear()
        self._was_complete = False
        async with asyncio.TaskGroup() as group:
            self._follow(0, group)

    def _follow(self, number: int, group: asyncio.TaskGroup) -> None:
        name = f"{self._name}-{number}" if number else self._name
        reflector = _Reflector(self._api, name, lambda found: self._changed(number, found, group), self._new_backoff())
        self._reflectors[number] = reflector
        group.create_task(reflector.run())

    def _changed(self, number: int, found: _ConfigMap | None, group: asyncio.TaskGroup) -> None:
        self._heard_of.add(number)
        if found is None:
            self._gone.add(number)
        else:
            self._gone.discard(number)
            self._parts[number] = found.data or {}
            if number == 0:
                self._announced = _shards(found)
                for further in range(len(self._reflectors), self._announced):
                    self._follow(further, group)
        if self._was_complete or len(self._heard_of) == len(self._reflectors):
            self._was_complete = True
            self._on_index(self._merged())

    def _merged(self) -> Mapping[str, str]:
        merged: dict[str, str] = {}
        for number in sorted(self._parts, reverse=True):
            if number < self._announced or number not in self._gone:
                merged.update(self._parts[number])
        return merged


def _shards(first: _ConfigMap) -> int:
    """How many ConfigMaps there are, by the word of the first."""
    text = (first.metadata.annotations or {}).get(SHARDS, "")
    return min(int(text), MOST_SHARDS) if text.isascii() and text.isdigit() else 1


class _Reflector:
    """List, then watch from there; after any trouble, wait a little and list again.

    A list is the whole truth, so nothing that was missed meanwhile matters. A watch that ends in peace is resumed
    without a list, one that ends without having said anything (a bookmark comes every minute) is trouble.
    """

    def __init__(
        self, api: KubeApi, name: str, on_change: Callable[[_ConfigMap | None], None], backoff: Backoff
    ) -> None:
        self._api, self._name, self._on_change, self._backoff = api, name, on_change, backoff
        self._outage = _Outage("the pool index")
        self._was_found = False
        self._is_gone = False
        self.last_success: float | None = None
        """When the ConfigMap was last known to be as it was read; not while one that was there is gone."""
        self.lists = 0

    async def run(self) -> None:
        while True:
            try:
                version = await self._list()
                while version:
                    version = await self._watch(version)
            except (KubeApiError, _EventError, msgspec.DecodeError) as error:
                self._outage.failed(error)
            await asyncio.sleep(self._backoff.next())

    async def _list(self) -> str:
        async with self._request({}) as response:
            found = msgspec.json.decode(await response.aread(), type=_List)
        self.lists += 1
        self._changed(found.items[0] if found.items else None)
        return found.metadata.resource_version

    async def _watch(self, version: str) -> str:
        """Follow the changes since that version. Returns where to go on; empty if the watch had nothing to say."""
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        seen = ""
        async with self._request(params) as response:
            async for line in response.aiter_lines():
                event = msgspec.json.decode(line, type=_Event)
                if event.type == "ERROR":
                    raise _EventError(f"the watch ended: {_reason(event.object)}")
                config_map = msgspec.json.decode(event.object, type=_ConfigMap)
                seen = config_map.metadata.resource_version
                if event.type in ("ADDED", "MODIFIED"):
                    self._changed(config_map)
                elif event.type == "DELETED":
                    self._changed(None)
                self._is_current()
                self._backoff.reset()
        return seen

    def _request(self, params: Mapping[str, str]) -> AbstractAsyncContextManager[httpx2.Response]:
        path = f"/api/v1/namespaces/{self._api.namespace}/configmaps"
        return self._api.request("GET", path, {"fieldSelector": f"metadata.name={self._name}", **params})

    def _changed(self, found: _ConfigMap | None) -> None:
        self._outage.worked()
        if found:
            self._was_found, self._is_gone = True, False
        elif self._was_found and not self._is_gone:
            self._is_gone = True
            log.warning(_GONE, extra={"fields": {"config_map": self._name}})
        self._is_current()
        self._on_change(found)

    def _is_current(self) -> None:
        if not self._is_gone:
            self.last_success = time.time()


_MOUNTED = "..data"
"""The kubelet's link to what a mounted ConfigMap holds now, even if that is nothing."""


class FolderIndex:
    """Looks into a folder about once a second: a file per account, named like its key. Works for a mounted ConfigMap.

    A folder without any file is an index that is gone, unless a ConfigMap without data is mounted there.
    """

    def __init__(self, folder: Path, on_index: OnIndex) -> None:
        self._folder, self._on_index = folder, on_index
        self._outage = _Outage("the pool index")
        self._signature: object = None
        self._has_accounts = False
        self._is_gone = False
        self.last_success: float | None = None
        """When the index was last seen; not while one that was there is gone."""
        self.lists = 0
        """How often the whole index was read."""

    async def run(self, every: float = 1) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(every)

    async def poll(self) -> None:
        """Hand the state on if it is another than the last time."""
        try:
            signature, data = await asyncio.to_thread(self._read)
        except OSError as error:
            self._outage.failed(error)
            return
        self._outage.worked()
        if data is None and self._has_accounts:
            self._note_gone()
            return
        self._is_gone = False
        self.last_success = time.time()
        if signature != self._signature:
            self.lists += 1
            self._has_accounts = bool(data)
            self._on_index(data or {})
            self._signature = signature

    def _note_gone(self) -> None:
        if not self._is_gone:
            log.warning(_GONE, extra={"fields": {"folder": str(self._folder)}})
        self._is_gone = True

    def _read(self) -> tuple[object, dict[str, str] | None]:
        """The folder's state, and its contents if that state is new; none if nothing is there."""
        # Hidden names are a mounted ConfigMap's own (`..data`), or a file that somebody is still writing.
        paths = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
        signature = [
            (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path in paths if (stat := path.stat())
        ]
        if not paths and not (self._folder / _MOUNTED).exists():
            return signature, None
        if signature == self._signature:
            return signature, {}
        return signature, {path.name: path.read_bytes().decode("utf-8", "replace") for path in paths}


def _reason(status: bytes) -> str:
    try:
        return str(msgspec.json.decode(status).get("code", "unknown"))
    except (msgspec.DecodeError, AttributeError):
        return "unknown"
