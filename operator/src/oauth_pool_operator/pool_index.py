"""The pool index: the one task that writes its ConfigMaps.

One key per account, named after it. Whoever publishes awaits the write that carries its key; all keys that became dirty
meanwhile travel in one patch, because the API server serialises writes of one object. One ConfigMap is enough for some
2,000 accounts; for more there are further ones, `<name>-1`, `<name>-2` and so on. Proxies, which may not list them, hear
from the first how many there are, and hear it before there is anything in a further one.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from . import metrics
from .accounts import Account
from .cluster import IndexMap
from .errors import IndexFull
from .index_entry import Entry

log = logging.getLogger(__name__)

LOAD_SECONDS = 5.0
# A ConfigMap holds 1 MiB at most (the API server's limit).
SHARD_BYTES = 900 * 1024
# As many as the operator's Role names; enough for more than 20,000 accounts.
MOST_SHARDS = 10
# An entry gets longer when it gets a token or a cooldown, and must not have to move for it.
ROOM_TO_GROW = 100


class IndexMaps(Protocol):
    """Where the index is kept: ConfigMaps, numbered from 0, as `cluster` offers them."""

    async def read_index(self, shard: int) -> IndexMap: ...

    async def write_index(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None: ...


class Slot(NamedTuple):
    """Where an account's entry is: the number of the ConfigMap, and the key in it."""

    shard: int
    key: str


class IndexPublisher:
    """Keeps the ConfigMaps equal to what was published. Start it with `run`.

    An account stays in the ConfigMap that it was first put into; a new one goes into the first that has room.
    """

    def __init__(self, maps: IndexMaps, *, shard_bytes: int = SHARD_BYTES) -> None:
        self._maps = maps
        self._shard_bytes = shard_bytes
        self._written: dict[Slot, str] = {}
        self._wanted: dict[Slot, str] = {}
        self._slots: dict[str, Slot] = {}  # by key: every account that is wanted has one
        self._reserved: Counter[int] = Counter()  # bytes, by shard
        # how many ConfigMaps there are, by the word of the first and in truth; neither ever shrinks
        self._announced = self._total = 1
        self._waiting: dict[Slot, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._writes = 0
        self._is_writing = False
        self._loaded = asyncio.Event()

    async def load(self, accounts: set[str]) -> None:
        """Start from what is there; keys of accounts that do not exist any more are removed."""
        self._written, self._announced = await self._read(range(MOST_SHARDS))
        self._total = max(self._announced, *(slot.shard + 1 for slot in self._written), 1)
        self._wanted, self._slots, self._reserved = {}, {}, Counter()
        for slot, value in sorted(self._written.items()):
            if slot.key in accounts and slot.key not in self._slots:
                self._place(slot, value)
                self._wanted[slot] = value
        self._loaded.set()
        for slot in self._written.keys() - self._wanted.keys():
            log.info("index: removing %s, of which there is no account", slot.key)
            self._mark(slot)

    def unload(self) -> None:
        """Somebody else may write from now on: publish nothing before the next `load`."""
        self._loaded.clear()

    @property
    def shards(self) -> int:
        """How many ConfigMaps are in use."""
        return len({slot.shard for slot in list(self._slots.values())})

    async def publish(self, entry: Entry) -> None:
        """Return when a ConfigMap holds the entry; raise what its write raised, or `TimeoutError` before `load`."""
        await self._be_loaded()
        value = msgspec.json.encode(entry).decode()
        slot = self._slots.get(entry.name) or self._place(self._free_slot(entry.name, value), value)
        self._wanted[slot] = value
        if self._written.get(slot) != value:
            await asyncio.shield(self._mark(slot))

    async def withdraw(self, account: Account) -> None:
        """Return when the index no longer lists this very object (a newer one of the same name stays)."""
        await self._be_loaded()
        slot = self._slots.get(account.name)
        if slot is None:
            return
        listed = self.listed(account.name)
        if listed is not None and listed.uid != account.uid:
            return
        if (value := self._wanted.pop(slot, None)) is not None:
            self._reserved[slot.shard] -= _reserve(slot.key, value)
        await asyncio.shield(self._mark(slot))
        if slot not in self._wanted:
            self._slots.pop(account.name, None)

    def listed(self, name: str) -> Entry | None:
        """What is published under the name now; None for nothing, and for what is not an entry."""
        slot = self._slots.get(name)
        if slot is None:
            return None
        try:
            return msgspec.json.decode(self._wanted.get(slot, self._written.get(slot, "")), type=Entry)
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
                for shard in sorted({slot.shard for slot in batch}):
                    await self._write(shard, {slot: waiter for slot, waiter in batch.items() if slot.shard == shard})
            finally:
                self._is_writing = False
                self._writes += 1

    async def repair(self) -> None:
        """Write again what somebody else has changed or deleted since we wrote it."""
        await self._be_loaded()
        writes = self._writes
        found, announced = await self._read(range(self._total))
        if self._waiting or self._is_writing or self._writes != writes:
            return  # what was read may be from before a write of our own; the next look will tell
        self._announced, self._total = announced, max(announced, self._total)
        if announced < self._total:
            log.warning(
                "index: readers hear of %d ConfigMaps only, and there are %d; saying so", announced, self._total
            )
            await self._announce()
        changed = {slot for slot in found.keys() | self._wanted.keys() if found.get(slot) != self._wanted.get(slot)}
        if changed:
            keys = ", ".join(sorted(slot.key for slot in changed))
            log.warning("index: somebody else changed %s; writing it again", keys)
            self._written = found
            await asyncio.gather(*(asyncio.shield(self._mark(slot)) for slot in changed))

    async def _read(self, shards: Sequence[int]) -> tuple[dict[Slot, str], int]:
        """What is there, and how many ConfigMaps the first one speaks of."""
        found = await asyncio.gather(*(self._maps.read_index(shard) for shard in shards))
        values = {Slot(shard, key): value for shard in shards for key, value in found[shard].data.items()}
        return values, min(found[0].shards, MOST_SHARDS)

    async def _write(self, shard: int, batch: Mapping[Slot, asyncio.Future[None]]) -> None:
        """One ConfigMap; what goes wrong is handed to whoever waits: their reconciles try again, later and later."""
        try:
            await self._write_changes(shard, [s for s in batch if self._wanted.get(s) != self._written.get(s)])
        except Exception as error:  # noqa: BLE001 (whatever it was, the waiters get it)
            for waiter in batch.values():
                waiter.set_exception(error)
        else:
            for waiter in batch.values():
                waiter.set_result(None)

    async def _write_changes(self, shard: int, slots: list[Slot]) -> None:
        if not slots:
            return
        if shard >= self._announced:
            await self._announce()
        await self._patch(shard, {slot.key: self._wanted.get(slot) for slot in slots})
        size = sum(len(slot.key) + len(value) for slot, value in self._written.items() if slot.shard == shard)
        metrics.INDEX_BYTES.labels(str(shard)).set(size)
        log.debug("index: wrote %d keys of ConfigMap %d, which has %d bytes now", len(slots), shard, size)

    async def _announce(self) -> None:
        """Have the first ConfigMap say how many there are; every write of it does."""
        await self._patch(0, {})

    async def _patch(self, shard: int, changes: dict[str, str | None]) -> None:
        whole, total = {slot.key: value for slot, value in self._wanted.items() if slot.shard == shard}, self._total
        await self._maps.write_index(shard, changes, whole=whole, shards=total)
        if shard == 0:
            self._announced = total
        for key, value in changes.items():
            if value is None:
                self._written.pop(Slot(shard, key), None)
            else:
                self._written[Slot(shard, key)] = value

    def _free_slot(self, key: str, value: str) -> Slot:
        """In the first ConfigMap that has room, so that there is one for as long as one is enough."""
        for shard in range(MOST_SHARDS):
            if self._reserved[shard] + _reserve(key, value) <= self._shard_bytes:
                return Slot(shard, key)
        raise IndexFull(f"{MOST_SHARDS} ConfigMaps of {self._shard_bytes} bytes are full")

    def _place(self, slot: Slot, value: str) -> Slot:
        self._slots[slot.key] = slot
        self._reserved[slot.shard] += _reserve(slot.key, value)
        self._total = max(self._total, slot.shard + 1)
        return slot

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


def _reserve(key: str, value: str) -> int:
    return len(key) + len(value) + ROOM_TO_GROW


def _retrieve(waiter: asyncio.Future[None]) -> None:
    if not waiter.cancelled():
        waiter.exception()
