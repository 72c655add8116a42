"""The pool index: rendering one account's entry, and the one task that writes the ConfigMap.

Nothing in an entry is secret. One key per account, named after it. Whoever publishes awaits the write that carries its
key; all keys that became dirty meanwhile travel in one patch, because the API server serialises writes of one object.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

import msgspec

from .accounts import Account, parse_duration, rfc3339
from .policies import Facts, readiness
from .store import fingerprint

log = logging.getLogger(__name__)

VERSION = 1
LOAD_SECONDS = 5.0


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
    """The same facts always give the same entry."""
    account, credential, cooldown = facts.account, facts.credential, facts.cooldown
    return Entry(
        version=VERSION,
        name=account.name,
        uid=account.uid,
        provider=account.spec.provider,
        status=readiness(facts).reason,
        priority=account.spec.priority,
        weight=account.spec.weight,
        max_concurrent_requests=account.spec.max_concurrent_requests,
        generation=credential.generation if credential else 0,
        fingerprint=fingerprint(credential.access_token) if credential else "",
        expires=rfc3339(credential.expires) if credential else None,
        cooldown_until=rfc3339(cooldown.until) if cooldown else None,
        cooldown_seconds=int(parse_duration(account.spec.cooldown).total_seconds()),
    )


class IndexMap(Protocol):
    """Where the index is kept: the ConfigMap, as `cluster` offers it."""

    async def read_index(self) -> dict[str, str]: ...

    async def write_index(self, changes: Mapping[str, str | None], *, whole: Mapping[str, str]) -> None: ...


class IndexPublisher:
    """Keeps the ConfigMap equal to what was published. Start it with `run`."""

    def __init__(self, index: IndexMap) -> None:
        self._index = index
        self._written: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._writes = 0
        self._is_writing = False
        self._loaded = asyncio.Event()

    async def load(self, accounts: set[str]) -> None:
        """Start from what is there; keys of accounts that do not exist any more are removed."""
        self._written = await self._index.read_index()
        self._wanted = {key: value for key, value in self._written.items() if key in accounts}
        self._loaded.set()
        for key in self._written.keys() - self._wanted.keys():
            log.info("index: removing %s, of which there is no account", key)
            self._mark(key)

    def unload(self) -> None:
        """Somebody else may write from now on: publish nothing before the next `load`."""
        self._loaded.clear()

    async def publish(self, entry: Entry) -> None:
        """Return when the ConfigMap holds the entry; raise what its write raised, or `TimeoutError` before `load`."""
        await self._be_loaded()
        value = msgspec.json.encode(entry).decode()
        self._wanted[entry.name] = value
        if self._written.get(entry.name) != value:
            await asyncio.shield(self._mark(entry.name))

    async def withdraw(self, account: Account) -> None:
        """Return when the ConfigMap no longer lists this very object (a newer one of the same name stays)."""
        await self._be_loaded()
        if account.name not in self._wanted and account.name not in self._written:
            return
        listed = self.listed(account.name)
        if listed is not None and listed.uid != account.uid:
            return
        self._wanted.pop(account.name, None)
        await asyncio.shield(self._mark(account.name))

    def listed(self, name: str) -> Entry | None:
        """What is published under the name now; None for nothing, and for what is not an entry."""
        try:
            return msgspec.json.decode(self._wanted.get(name, self._written.get(name, "")), type=Entry)
        except msgspec.DecodeError:
            return None

    async def run(self) -> None:
        """Write what is dirty, in one patch at a time, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, {}
            self._is_writing = True
            try:
                await self._write(batch)
            except Exception as error:  # noqa: BLE001 (whatever it was, the waiters get it)
                # handed to whoever waits: their reconciles try again, later and later
                for waiter in batch.values():
                    waiter.set_exception(error)
            else:
                for waiter in batch.values():
                    waiter.set_result(None)
            finally:
                self._is_writing = False
                self._writes += 1

    async def repair(self) -> None:
        """Write again what somebody else has changed or deleted since we wrote it."""
        await self._be_loaded()
        writes = self._writes
        found = await self._index.read_index()
        if self._waiting or self._is_writing or self._writes != writes:
            return  # what was read may be from before a write of our own; the next look will tell
        changed = {key for key in found.keys() | self._wanted.keys() if found.get(key) != self._wanted.get(key)}
        if changed:
            log.warning("index: somebody else changed %s; writing it again", ", ".join(sorted(changed)))
            self._written = found
            await asyncio.gather(*(asyncio.shield(self._mark(key)) for key in changed))

    async def _write(self, batch: Mapping[str, object]) -> None:
        changes = {key: self._wanted.get(key) for key in batch if self._wanted.get(key) != self._written.get(key)}
        if not changes:
            return
        await self._index.write_index(changes, whole=dict(self._wanted))
        for key, value in changes.items():
            if value is None:
                self._written.pop(key, None)
            else:
                self._written[key] = value
        log.debug("index: wrote %d of %d keys", len(changes), len(self._written))

    async def _be_loaded(self) -> None:
        """Not for ever: whoever publishes has tokens to refresh, whether the index can be read or not."""
        async with asyncio.timeout(LOAD_SECONDS):
            await self._loaded.wait()

    def _mark(self, key: str) -> asyncio.Future[None]:
        waiter = self._waiting.get(key)
        if waiter is None:
            waiter = self._waiting[key] = asyncio.get_running_loop().create_future()
            waiter.add_done_callback(_retrieve)  # a failed write that nobody waits for is not worth a warning
        self._wake.set()
        return waiter


def _retrieve(waiter: asyncio.Future[None]) -> None:
    if not waiter.cancelled():
        waiter.exception()
