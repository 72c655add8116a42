"""Follows what the operator writes into one ConfigMap, and into further ones if one is not enough.

The pool index and the sealed access tokens are in such ConfigMaps. Interpreting them is up to their readers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.index_source import Outage
from oauth_pool_proxy.pool.kube_api import KubeAnswer, KubeApi, KubeApiError

log = logging.getLogger(__name__)

SHARDS = "oauthpool.dev/shards"
MOST_SHARDS = 10
WATCH_SECONDS = 290
"""How long a watch asks to stay open: slightly less than the API server's own limit of five minutes."""


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
    """The watch reports that it cannot go on. Most often 410: the version that it starts from is too old."""


Parts = Sequence[Mapping[str, str]]
"""The data of each ConfigMap, in numerical order."""


class ConfigMaps:
    """A ConfigMap and, if one is not enough, further ones: `NAME-1`, `NAME-2`, …

    An annotation of the first says how many there are. Each is followed separately, and the parts are passed on as soon as all
    have been read. A ConfigMap added later does not delay the others: it held nothing before it was announced. The part of a
    deleted one is kept, unless the first one has announced that there are fewer.

    `what` names them in log lines. `gone` is the message for a ConfigMap that has disappeared.
    """

    def __init__(
        self,
        api: KubeApi,
        name: str,
        on_parts: Callable[[Parts], None],
        *,
        what: str,
        gone: str,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._api, self._name, self._on_parts, self._new_backoff = api, name, on_parts, backoff
        self._what, self._gone_text = what, gone
        self._parts: dict[int, Mapping[str, str]] = {}
        self._reflectors: dict[int, _Reflector] = {}
        self._heard_of: set[int] = set()
        self._gone: set[int] = set()
        self._announced = 1
        self._was_complete = False

    @property
    def last_success(self) -> float | None:
        """When all of it was last known to be current."""
        instants = [reflector.last_success for reflector in self._reflectors.values()]
        return min((instant for instant in instants if instant is not None), default=None) if all(instants) else None

    @property
    def lists(self) -> int:
        """How many times a whole ConfigMap was read."""
        return sum(reflector.lists for reflector in self._reflectors.values())

    async def run(self) -> None:
        self._reflectors.clear()
        self._heard_of.clear()
        self._was_complete = False
        async with asyncio.TaskGroup() as group:
            self._follow(0, group)

    def _follow(self, number: int, group: asyncio.TaskGroup) -> None:
        name = f"{self._name}-{number}" if number else self._name
        reflector = _Reflector(
            self._api,
            name,
            lambda found: self._changed(number, found, group),
            self._new_backoff(),
            Outage(self._what),
            self._gone_text,
        )
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
            self._on_parts(self._current())

    def _current(self) -> Parts:
        return [
            self._parts[number]
            for number in sorted(self._parts)
            if number < self._announced or number not in self._gone
        ]


def _shards(first: _ConfigMap) -> int:
    """How many ConfigMaps there are, according to the first."""
    text = (first.metadata.annotations or {}).get(SHARDS, "")
    return min(int(text), MOST_SHARDS) if text.isascii() and text.isdigit() else 1


class _Reflector:
    """Lists, then watches from there. After any trouble, it waits a little and lists again.

    A list is complete, so nothing missed meanwhile matters. A watch that ends normally is resumed without a list. A watch
    that ends without a single event (a bookmark comes every minute) is trouble.
    """

    def __init__(
        self,
        api: KubeApi,
        name: str,
        on_change: Callable[[_ConfigMap | None], None],
        backoff: Backoff,
        outage: Outage,
        gone: str,
    ) -> None:
        self._api, self._name, self._on_change, self._backoff = api, name, on_change, backoff
        self._outage, self._gone_text = outage, gone
        self._was_found = False
        self._is_gone = False
        self.last_success: float | None = None
        """When the ConfigMap was last known to be as it was read. It stands still while the ConfigMap is gone."""
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
            found = msgspec.json.decode(await response.whole(), type=_List)
        self.lists += 1
        self._changed(found.items[0] if found.items else None)
        return found.metadata.resource_version

    async def _watch(self, version: str) -> str:
        """Follow the changes since that version. Returns the version to go on from, empty if the watch brought no event."""
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        seen = ""
        async with self._request(params) as response:
            async for line in response.lines():
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

    def _request(self, params: Mapping[str, str]) -> AbstractAsyncContextManager[KubeAnswer]:
        path = f"/api/v1/namespaces/{self._api.namespace}/configmaps"
        return self._api.request("GET", path, {"fieldSelector": f"metadata.name={self._name}", **params})

    def _changed(self, found: _ConfigMap | None) -> None:
        self._outage.worked()
        if found:
            self._was_found, self._is_gone = True, False
        elif self._was_found and not self._is_gone:
            self._is_gone = True
            log.warning(self._gone_text, extra={"fields": {"config_map": self._name}})
        self._is_current()
        self._on_change(found)

    def _is_current(self) -> None:
        if not self._is_gone:
            self.last_success = time.time()


def _reason(status: bytes) -> str:
    try:
        return str(msgspec.json.decode(status).get("code", "unknown"))
    except (msgspec.DecodeError, AttributeError):
        return "unknown"
