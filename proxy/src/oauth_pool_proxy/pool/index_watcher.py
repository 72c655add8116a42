"""Notices changes of the pool index and hands the complete new state on, from a ConfigMap or from a folder.

Both sources run for ever, keep the last good state while theirs is out of reach, and never stop the proxy.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import msgspec

from oauth_pool_proxy.pool.kube_api import KubeApi, KubeApiError

log = logging.getLogger(__name__)

OnIndex = Callable[[Mapping[str, str]], None]

SHARDS = "oauthpool.dev/shards"
MOST_SHARDS = 10
WATCH_SECONDS = 290
"""How long the API server is asked to keep a watch open: a little less than its own limit of five minutes."""


class Backoff:
    """Waits that double, each shortened at random so that many proxies do not come back at once."""

    def __init__(self, first: float = 0.5, longest: float = 30) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    def next(self) -> float:
        wait, self._next = self._next, min(self._next * 2, self._longest)
        return wait * random.uniform(0.5, 1)


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
    holds up nobody: nothing was in it before its announcement, and accounts do not move.
    """

    def __init__(self, api: KubeApi, name: str, on_index: OnIndex, backoff: Callable[[], Backoff] = Backoff) -> None:
        self._api, self._name, self._on_index, self._new_backoff = api, name, on_index, backoff
        self._parts: dict[int, Mapping[str, str]] = {}
        self._reflectors: dict[int, _Reflector] = {}
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
        self._parts.clear()
        self._reflectors.clear()
        self._was_complete = False
        async with asyncio.TaskGroup() as group:
            self._follow(0, group)

    def _follow(self, number: int, group: asyncio.TaskGroup) -> None:
        name = f"{self._name}-{number}" if number else self._name
        reflector = _Reflector(self._api, name, lambda found: self._changed(number, found, group), self._new_backoff())
        self._reflectors[number] = reflector
        group.create_task(reflector.run())

    def _changed(self, number: int, found: _ConfigMap | None, group: asyncio.TaskGroup) -> None:
        # No ConfigMap means no account, which is a state like any other.
        self._parts[number] = (found.data if found else None) or {}
        if number == 0:
            for further in range(len(self._reflectors), _shards(found)):
                self._follow(further, group)
        if self._was_complete or len(self._parts) == len(self._reflectors):
            self._was_complete = True
            merged: dict[str, str] = {}
            for part in sorted(self._parts, reverse=True):
                merged.update(self._parts[part])
            self._on_index(merged)


def _shards(found: _ConfigMap | None) -> int:
    """How many ConfigMaps there are, by the word of the first."""
    text = ((found.metadata.annotations if found else None) or {}).get(SHARDS, "")
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
        self.last_success: float | None = None
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
                self.last_success = time.time()
                self._backoff.reset()
        return seen

    def _request(self, params: Mapping[str, str]) -> AbstractAsyncContextManager[httpx2.Response]:
        path = f"/api/v1/namespaces/{self._api.namespace}/configmaps"
        return self._api.request("GET", path, {"fieldSelector": f"metadata.name={self._name}", **params})

    def _changed(self, found: _ConfigMap | None) -> None:
        self._outage.worked()
        self.last_success = time.time()
        self._on_change(found)


class FolderIndex:
    """Looks into a folder about once a second: a file per account, named like its key. Works for a mounted ConfigMap."""

    def __init__(self, folder: Path, on_index: OnIndex) -> None:
        self._folder, self._on_index = folder, on_index
        self._outage = _Outage("the pool index")
        self._signature: object = None
        self.last_success: float | None = None
        self.lists = 0
        """How often the whole index was read."""

    async def run(self, every: float = 1) -> None:
        while True:
            await self.look()
            await asyncio.sleep(every)

    async def look(self) -> None:
        """Hand the state on if it is another than the last time."""
        try:
            signature, data = await asyncio.to_thread(self._read)
        except OSError as error:
            self._outage.failed(error)
            return
        self._outage.worked()
        self.last_success = time.time()
        if data is not None:
            self.lists += 1
            self._on_index(data)
            self._signature = signature

    def _read(self) -> tuple[object, dict[str, str] | None]:
        """The folder's state, and its contents if that state is new."""
        # Hidden names are a mounted ConfigMap's own (`..data`), or a file that somebody is still writing.
        paths = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
        signature = [
            (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path in paths if (stat := path.stat())
        ]
        if signature == self._signature:
            return signature, None
        return signature, {path.name: path.read_bytes().decode("utf-8", "replace") for path in paths}


def _reason(status: bytes) -> str:
    try:
        return str(msgspec.json.decode(status).get("code", "unknown"))
    except (msgspec.DecodeError, AttributeError):
        return "unknown"
