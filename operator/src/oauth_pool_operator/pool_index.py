"""The pool index: rendering one account's entry, and the one task that writes the ConfigMaps.

Nothing in an entry is secret. One key per account, named after it. Whoever publishes awaits the write that carries its
key; all keys that became dirty meanwhile travel in one patch, because the API server serialises writes of one object.
One ConfigMap is enough for some 2,000 accounts; for more there are further ones, `<name>-1`, `<name>-2` and so on.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from . import conditions as c
from . import metrics
from .accounts import Account, parse_duration, rfc3339
from .documents import fingerprint
from .errors import IndexFull
from .facts import Facts
from .policies import readiness

log = logging.getLogger(__name__)

VERSION = 1
LOAD_SECONDS = 5.0
# A ConfigMap holds 1 MiB at most (the API server's limit).
SHARD_BYTES = 900 * 1024
# As many as the operator's Role names; enough for more than 20,000 accounts.
MOST_SHARDS = 10
# An entry gets longer when it gets a token or a cooldown, and must not have to move for it.
ROOM_TO_GROW = 100


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One account as proxies see it (design: the wire format). The order of the members is part of the golden files."""

    version: int
    name: str
    uid: str
    provider: str
    status: str
    priority: int
    weight: int
    max_concurrent_requests: int
    generation: int
    fingerprint: str
    expires: str | None
    cooldown_until: str | None
    cooldown_seconds: int


def render_entry(facts: Facts) -> Entry:
    """The same facts always give the same entry. To proxies, a probe is an account that takes one request at a time."""
    account, credential = facts.account, facts.credential
    status, probe = readiness(facts).reason, facts.probe
    if probe is not None and status == c.COOLING_DOWN:
        status = c.AVAILABLE
    cooldown = facts.cooldown if probe is None else None
    return Entry(
        version=VERSION,
        name=account.name,
        uid=account.uid,
        provider=account.spec.provider,
        status=status,
        priority=account.spec.priority,
        weight=account.spec.weight if probe is None else 1,
        max_concurrent_requests=account.spec.max_concurrent_requests if probe is None else 1,
        generation=credential.generation if credential else 0,
        fingerprint=fingerprint(credential.access_token) if credential else "",
        expires=rfc3339(credential.expires) if credential else None,
        cooldown_until=rfc3339(cooldown.until) if cooldown else None,
        cooldown_seconds=int(parse_duration(account.spec.cooldown).total_seconds()),
    )


class IndexMaps(Protocol):
    """Where the index is kept: ConfigMaps, numbered from 0, as `cluster` offers them."""

    async def read_index(self, shard: int) -> dict[str, str]: ...

    async def write_index(self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str]) -> None: ...


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
        self._waiting: dict[Slot, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._writes = 0
        self._is_writing = False
        self._loaded = asyncio.Event()

    async def load(self, accounts: set[str]) -> None:
        """Start from what is there; keys of accounts that do not exist any more are removed."""
        self._written = await self._read(range(MOST_SHARDS))
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
        found = await self._read(range(max((slot.shard for slot in self._wanted), default=0) + 1))
        if self._waiting or self._is_writing or self._writes != writes:
            return  # what was read may be from before a write of our own; the next look will tell
        changed = {slot for slot in found.keys() | self._wanted.keys() if found.get(slot) != self._wanted.get(slot)}
        if changed:
            keys = ", ".join(sorted(slot.key for slot in changed))
            log.warning("index: somebody else changed %s; writing it again", keys)
            self._written = found
            await asyncio.gather(*(asyncio.shield(self._mark(slot)) for slot in changed))

    async def _read(self, shards: Iterable[int]) -> dict[Slot, str]:
        shards = list(shards)
        found = await asyncio.gather(*(self._maps.read_index(shard) for shard in shards))
        return {
            Slot(shard, key): value for shard, data in zip(shards, found, strict=True) for key, value in data.items()
        }

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
        changes = {slot.key: self._wanted.get(slot) for slot in slots}
        whole = {slot.key: value for slot, value in self._wanted.items() if slot.shard == shard}
        await self._maps.write_index(shard, changes, whole=whole)
        for key, value in changes.items():
            if value is None:
                self._written.pop(Slot(shard, key), None)
            else:
                self._written[Slot(shard, key)] = value
        size = sum(len(slot.key) + len(value) for slot, value in self._written.items() if slot.shard == shard)
        metrics.INDEX_BYTES.labels(str(shard)).set(size)
        log.debug("index: wrote %d keys of ConfigMap %d, which has %d bytes now", len(changes), shard, size)

    def _free_slot(self, key: str, value: str) -> Slot:
        """In the first ConfigMap that has room, so that there is one for as long as one is enough."""
        for shard in range(MOST_SHARDS):
            if self._reserved[shard] + _reserve(key, value) <= self._shard_bytes:
                return Slot(shard, key)
        raise IndexFull(f"{MOST_SHARDS} ConfigMaps of {self._shard_bytes} bytes are full")

    def _place(self, slot: Slot, value: str) -> Slot:
        self._slots[slot.key] = slot
        self._reserved[slot.shard] += _reserve(slot.key, value)
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
