"""The pool index: the one task that writes its ConfigMaps.

One key per account, named after it. Whoever publishes awaits the write that carries its key; all keys of a ConfigMap that
became dirty meanwhile travel in one patch, because the API server serialises writes of one object. Which account is in
which ConfigMap is decided in `index_shards`. Proxies, which may not list them, hear from the first how many there are,
and hear it before there is anything in a further one.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account.index_entry import Entry
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.cluster.api import IndexMap
from oauth_pool_operator.cluster.index_shards import MOST_SHARDS, Shards, Slot

log = logging.getLogger(__name__)

LOAD_SECONDS = 5.0


class IndexMaps(Protocol):
    """Where the index is kept: ConfigMaps, numbered from 0, as `cluster` offers them."""

    async def read_index(self, shard: int) -> IndexMap: ...

    async def write_index(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None: ...


class IndexPublisher:
    """Keeps the ConfigMaps equal to what was published. Start it with `run`."""

    def __init__(self, maps: IndexMaps, shards: Shards | None = None) -> None:
        self._maps = maps
        self._shards = shards if shards is not None else Shards()
        self._announced = 1  # how many ConfigMaps there are by the word of the first; it never shrinks
        self._waiting: dict[Slot, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._writes = 0
        self._is_writing = False
        self._loaded = asyncio.Event()

    async def load(self, accounts: set[str]) -> None:
        """Start from what is there; keys of accounts that do not exist any more are removed."""
        found, self._announced = await self._read(MOST_SHARDS)
        self._shards.total = max(self._shards.total, self._announced)
        self._shards.load(found, accounts)
        self._loaded.set()
        for number, shard in enumerate(self._shards):
            for key in shard.written.keys() - shard.wanted.keys():
                log.info("index: removing %s, of which there is no account", key)
                self._mark(Slot(number, key))

    def unload(self) -> None:
        """Somebody else may write from now on: publish nothing before the next `load`."""
        self._loaded.clear()

    @property
    def shards(self) -> int:
        """How many ConfigMaps are in use."""
        return self._shards.in_use

    async def publish(self, entry: Entry) -> None:
        """Return when a ConfigMap holds the entry; raise what its write raised, `TimeoutError` before `load`, or `IndexFull`."""
        await self._be_loaded()
        value = msgspec.json.encode(entry).decode()
        slot = self._shards.put(entry.name, value)
        if self._shards[slot.shard].written.get(slot.key) != value:
            await asyncio.shield(self._mark(slot))

    async def withdraw(self, account: Account) -> None:
        """Return when the index no longer lists this very object (a newer one of the same name stays)."""
        await self._be_loaded()
        slot = self._shards.slot(account.name)
        if slot is None:
            return
        listed = self.listed(account.name)
        if listed is not None and listed.uid != account.uid:
            return
        shard = self._shards[slot.shard]
        shard.want(slot.key, None)
        await asyncio.shield(self._mark(slot))
        if slot.key not in shard.wanted:
            self._shards.forget(slot.key)

    def listed(self, name: str) -> Entry | None:
        """What is published under the name now; None for nothing, and for what is not an entry."""
        slot = self._shards.slot(name)
        if slot is None:
            return None
        shard = self._shards[slot.shard]
        try:
            return msgspec.json.decode(shard.wanted.get(name, shard.written.get(name, "")), type=Entry)
        except msgspec.DecodeError:
            return None

    async def run(self) -> None:
        """Write what is dirty, in one patch a ConfigMap at a time, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, {}
            self._is_writing = True
            try:
                for number in sorted({slot.shard for slot in batch}):
                    await self._write(
                        number, {slot.key: waiter for slot, waiter in batch.items() if slot.shard == number}
                    )
            finally:
                self._is_writing = False
                self._writes += 1

    async def repair(self) -> None:
        """Write again what somebody else has changed or deleted since we wrote it."""
        await self._be_loaded()
        writes = self._writes
        found, announced = await self._read(self._shards.total)
        if self._waiting or self._is_writing or self._writes != writes:
            return  # what was read may be from before a write of our own; the next look will tell
        self._announced, self._shards.total = announced, max(announced, self._shards.total)
        if announced < self._shards.total:
            log.warning(
                "index: readers hear of %d ConfigMaps only, and there are %d; saying so", announced, self._shards.total
            )
            await self._announce()
        changed = [slot for number, data in enumerate(found) for slot in self._changed(number, data)]
        if changed:
            log.warning(
                "index: somebody else changed %s; writing it again", ", ".join(sorted(slot.key for slot in changed))
            )
            await asyncio.gather(*(asyncio.shield(self._mark(slot)) for slot in changed))

    def _changed(self, number: int, found: Mapping[str, str]) -> list[Slot]:
        """What is not as it should be; from now on it is known what is there instead."""
        shard = self._shards[number]
        shard.written = dict(found)
        return [Slot(number, key) for key in shard.changes(found.keys() | shard.wanted.keys())]

    async def _read(self, count: int) -> tuple[Sequence[Mapping[str, str]], int]:
        """What is in the first so many, and how many the first one speaks of."""
        found = await asyncio.gather(*(self._maps.read_index(number) for number in range(count)))
        return [one.data for one in found], min(found[0].shards, MOST_SHARDS)

    async def _write(self, number: int, batch: Mapping[str, asyncio.Future[None]]) -> None:
        """One ConfigMap; what goes wrong is handed to whoever waits: their reconciles try again, later and later."""
        try:
            await self._write_changes(number, self._shards[number].changes(batch.keys()))
        except Exception as error:  # noqa: BLE001 (whatever it was, the waiters get it)
            for waiter in batch.values():
                waiter.set_exception(error)
        else:
            for waiter in batch.values():
                waiter.set_result(None)

    async def _write_changes(self, number: int, changes: dict[str, str | None]) -> None:
        if not changes:
            return
        if number >= self._announced:
            await self._announce()
        await self._patch(number, changes)
        size = self._shards[number].bytes_written
        metrics.INDEX_BYTES.labels(str(number)).set(size)
        log.debug("index: wrote %d keys of ConfigMap %d, which has %d bytes now", len(changes), number, size)

    async def _announce(self) -> None:
        """Have the first ConfigMap say how many there are; every write of it does."""
        await self._patch(0, {})

    async def _patch(self, number: int, changes: dict[str, str | None]) -> None:
        shard, total = self._shards[number], self._shards.total
        await self._maps.write_index(number, changes, whole=dict(shard.wanted), shards=total)
        if number == 0:
            self._announced = total
        shard.wrote(changes)

    async def _be_loaded(self) -> None:
        """Not for ever: whoever publishes has tokens to refresh, whether the index can be read or not."""
        async with asyncio.timeout(LOAD_SECONDS):
            await self._loaded.wait()

    def _mark(self, slot: Slot) -> asyncio.Future[None]:
        waiter = self._waiting.get(slot)
        if waiter is None:
            waiter = self._waiting[slot] = asyncio.get_running_loop().create_future()
            waiter.add_done_callback(_retrieve)  # a failed write that nobody waits for is not worth a warning
        self._wake.set()
        return waiter


def _retrieve(waiter: asyncio.Future[None]) -> None:
    if not waiter.cancelled():
        waiter.exception()
