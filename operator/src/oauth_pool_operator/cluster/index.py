"""The pool index as reconciles see it: one entry per account, under its name. `publisher` writes the ConfigMaps."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account.index_entry import Entry
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.cluster.publisher import Publisher
from oauth_pool_operator.cluster.shards import MOST_SHARDS, NoRoom, Shards
from oauth_pool_operator.errors import IndexFull


class IndexMaps(Protocol):
    """Where the index is kept: ConfigMaps, numbered from 0, as `cluster` offers them."""

    async def read_index(self, shard: int) -> SharedMap: ...

    async def write_index(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None: ...


class IndexPublisher:
    """Keeps the ConfigMaps equal to what was published. Start it with `run`."""

    def __init__(self, maps: IndexMaps, shards: Shards | None = None) -> None:
        self._shards = shards if shards is not None else Shards()
        self._publisher = Publisher(
            maps.read_index, maps.write_index, self._shards, what="index", sizes=metrics.INDEX_BYTES
        )
        self.load, self.unload = self._publisher.load, self._publisher.unload
        self.repair = self._publisher.repair

    @property
    def shards(self) -> int:
        """How many ConfigMaps are in use."""
        return self._publisher.shards

    async def run(self) -> None:
        """Write what is dirty, until cancelled."""
        await self._publisher.run()

    async def publish(self, entry: Entry) -> None:
        """Return when a ConfigMap holds the entry; raise what its write raised, `TimeoutError` before `load`, or `IndexFull`."""
        await self._publisher.be_loaded()
        try:
            written = self._publisher.put(entry.name, msgspec.json.encode(entry).decode())
        except NoRoom:
            raise IndexFull(
                f"the pool index is full: {len(self._shards.keys)} accounts in {MOST_SHARDS} ConfigMaps of "
                f"{self._shards.most_bytes // 1024} KiB; delete accounts, or run a second pool in another namespace"
            ) from None
        await asyncio.shield(written)

    async def withdraw(self, account: Account) -> None:
        """Return when the index no longer lists this very object (a newer one of the same name stays)."""
        await self._publisher.be_loaded()
        listed = self.listed(account.name)
        if listed is None or listed.uid == account.uid:
            await asyncio.shield(self._publisher.remove(account.name))

    def listed(self, name: str) -> Entry | None:
        """What is published under the name now; None for nothing, and for what is not an entry."""
        try:
            return msgspec.json.decode(self._publisher.value(name) or "", type=Entry)
        except (msgspec.DecodeError, RecursionError):
            return None
