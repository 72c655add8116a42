"""The one task that writes the ConfigMaps of a family: the pool index, or the sealed tokens.

A caller awaits the write that carries its key. All keys of a ConfigMap that became dirty meanwhile go into one patch, because
the API server serialises writes of one object. `shards` decides which entry is in which ConfigMap. Readers may not list them:
the first one says how many there are, before another has any content.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from prometheus_client import Gauge

from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.cluster.shards import MOST_SHARDS, Shards, Slot

log = logging.getLogger(__name__)

LOAD_SECONDS = 5.0
MOST_REST_SECONDS = 0.5


class Reading(Protocol):
    """Reads one ConfigMap of the family; they are numbered from 0."""

    async def __call__(self, shard: int) -> SharedMap: ...


class Writing(Protocol):
    """Merges changes into one of them, or makes it with all of `whole`; the first says how many there are."""

    async def __call__(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None: ...


class Publisher:
    """Keeps the ConfigMaps equal to what was put. Start it with `run`. `what` names the family in log lines.

    After each batch it rests `rest` times as long as the batch took, at most 0.5 s, so that more goes into the next: with long
    entries, each patch costs the API server a lot. A caller that publishes while nothing is in progress does not wait.
    """

    def __init__(
        self, read: Reading, write: Writing, shards: Shards, *, what: str, sizes: Gauge, rest: float = 0
    ) -> None:
        self._read_one = read
        self._write_one = write
        self._shards = shards
        self._what = what
        self._sizes = sizes
        self._rest = rest
        self._announced = 1  # how many ConfigMaps there are by the word of the first; it never shrinks
        self._waiting: dict[Slot, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._gathering = asyncio.Lock()
        self._writes = 0
        self._is_writing = False
        self._loaded = asyncio.Event()

    async def load(self, keys: Collection[str]) -> None:
        """Start from what is there; other keys than these are removed."""
        found, self._announced = await self._read(MOST_SHARDS)
        self._shards.total = max(self._shards.total, self._announced)
        self._shards.load(found, keys)
        self._loaded.set()
        for number, shard in enumerate(self._shards):
            for key in shard.written.keys() - shard.wanted.keys():
                why = "which is there twice" if key in keys else "for which there is no account"
                log.info("%s: removing %s, %s", self._what, key, why)
                self._mark(Slot(number, key))

    def unload(self) -> None:
        """Another operator may write from now on: publish nothing before the next `load`."""
        self._loaded.clear()

    @property
    def is_loaded(self) -> bool:
        return self._loaded.is_set()

    async def be_loaded(self) -> None:
        """Wait for `load`, but not forever: the caller has tokens to refresh, whether this can be read or not.

        Raises `TimeoutError`.
        """
        async with asyncio.timeout(LOAD_SECONDS):
            await self._loaded.wait()

    @asynccontextmanager
    async def gathering(self) -> AsyncIterator[None]:
        """What is put meanwhile is written afterwards, in one patch a ConfigMap."""
        async with self._gathering:
            yield

    def put(self, key: str, value: str) -> asyncio.Future[None]:
        """The entry is to be this. The result is there when a ConfigMap holds it; it raises what the write raised.

        Raises `NoRoom` at once.
        """
        slot = self._shards.put(key, value)
        # while something is being written, what we know of the ConfigMaps may be old
        if self._is_writing or self._shards[slot.shard].written.get(key) != value or len(self._shards.slots(key)) > 1:
            return self._mark(slot)
        return _nothing_to_do()

    def remove(self, key: str) -> asyncio.Future[Any]:
        """The entry is to be nowhere; the result is there when that is so."""
        slots = self._shards.slots(key)
        self._shards.left(key)
        for slot in slots:
            self._shards[slot.shard].want(key, None)
        return asyncio.gather(*map(self._mark, slots))

    @property
    def keys(self) -> Collection[str]:
        """Of all entries."""
        return self._shards.keys

    @property
    def shards(self) -> int:
        """How many ConfigMaps are in use; may be called from any thread."""
        return self._shards.in_use

    def largest(self, key: str) -> int:
        """The length of the longest value that `put` takes for this key; negative when it takes none."""
        return self._shards.largest(key)

    def value(self, key: str) -> str | None:
        """What the entry is, or is about to be; None when there is none."""
        slot = self._shards.slot(key)
        if slot is None:
            return None
        shard = self._shards[slot.shard]
        return shard.wanted.get(key, shard.written.get(key))

    async def run(self) -> None:
        """Write what is dirty, in one patch a ConfigMap at a time, until cancelled."""
        while True:
            await self._wake.wait()
            async with self._gathering:
                self._wake.clear()
                batch, self._waiting = self._waiting, {}
            self._is_writing, began = True, time.monotonic()
            try:
                for number in sorted({slot.shard for slot in batch}):
                    await self._write(
                        number, {slot.key: waiter for slot, waiter in batch.items() if slot.shard == number}
                    )
            finally:
                self._is_writing = False
                self._writes += 1
            await asyncio.sleep(min(self._rest * (time.monotonic() - began), MOST_REST_SECONDS))

    async def repair(self) -> None:
        """Write again what somebody else has changed or deleted since we wrote it."""
        await self.be_loaded()
        writes = self._writes
        found, announced = await self._read(self._shards.total)
        if self._waiting or self._is_writing or self._writes != writes:
            return  # what was read may be from before a write of our own; the next look will tell
        self._announced, self._shards.total = announced, max(announced, self._shards.total)
        if announced < self._shards.total:
            log.warning(
                "%s: readers know of only %d ConfigMaps, but there are %d; telling them",
                *(self._what, announced, self._shards.total),
            )
            await self._announce()
        changed = [slot for number, data in enumerate(found) for slot in self._changed(number, data)]
        if changed:
            names = ", ".join(sorted(slot.key for slot in changed))
            log.warning("%s: somebody else changed %s; writing it again", self._what, names)
            await asyncio.gather(*(asyncio.shield(self._mark(slot)) for slot in changed))

    def _changed(self, number: int, found: Mapping[str, str]) -> list[Slot]:
        """What differs from what we wrote; afterwards, we know what is there instead."""
        shard = self._shards[number]
        shard.written = dict(found)
        return [Slot(number, key) for key in shard.changes(found.keys() | shard.wanted.keys())]

    async def _read(self, count: int) -> tuple[Sequence[Mapping[str, str]], int]:
        """What is in the first so many, and how many the first one speaks of."""
        found = await asyncio.gather(*(self._read_one(number) for number in range(count)))
        return [one.data for one in found], min(found[0].shards, MOST_SHARDS)

    async def _write(self, number: int, batch: Mapping[str, asyncio.Future[None]]) -> None:
        """One ConfigMap; what goes wrong is handed to whoever waits: their reconciles try again, later and later."""
        try:
            await self._write_changes(number, self._shards[number].changes(batch.keys()))
        except Exception as error:  # noqa: BLE001 (whatever it was, the waiters get it)
            for waiter in batch.values():
                waiter.set_exception(error)
        else:
            self._settle(number, batch.keys())
            for waiter in batch.values():
                waiter.set_result(None)

    def _settle(self, number: int, keys: Collection[str]) -> None:
        """What moved here leaves the place where it was; what is gone may come again anywhere."""
        for key in keys:
            if self._shards.slot(key) != Slot(number, key):
                continue
            for slot in self._shards.left(key):
                self._mark(slot)
            if key not in self._shards[number].wanted:
                self._shards.forget(key)

    async def _write_changes(self, number: int, changes: dict[str, str | None]) -> None:
        if not changes:
            return
        if number >= self._announced:
            await self._announce()
        await self._patch(number, changes)
        size = self._shards[number].bytes_written
        self._sizes.labels(str(number)).set(size)
        log.debug("%s: wrote %d keys of ConfigMap %d, which now has %d bytes", self._what, len(changes), number, size)

    async def _announce(self) -> None:
        """Have the first ConfigMap say how many there are; every write of it does."""
        await self._patch(0, {})

    async def _patch(self, number: int, changes: dict[str, str | None]) -> None:
        shard, total = self._shards[number], self._shards.total
        await self._write_one(number, changes, whole=dict(shard.wanted), shards=total)
        if number == 0:
            self._announced = total
        shard.wrote(changes)

    def _mark(self, slot: Slot) -> asyncio.Future[None]:
        waiter = self._waiting.get(slot)
        if waiter is None:
            waiter = self._waiting[slot] = asyncio.get_running_loop().create_future()
            waiter.add_done_callback(_retrieve)  # a failed write that nobody waits for is not worth a warning
        self._wake.set()
        return waiter


def _nothing_to_do() -> asyncio.Future[None]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def _retrieve(waiter: asyncio.Future[None]) -> None:
    if not waiter.cancelled():
        waiter.exception()
