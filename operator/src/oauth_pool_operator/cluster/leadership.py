"""Decides whether this operator may work. A namespace should have one operator; this is for the day when it has two.

An operator has to hold two things: the lock on the state volume, which no two processes on one node can hold, and a Lease,
which covers what the lock cannot see (another node, another volume). What happens when:

    the lock is somebody else's        wait
    the Lease is somebody else's       wait; if it was ours, stop: a request in flight ends, nothing new begins
    the Lease has expired              take it. Expired means: not renewed for its whole length while we watched, so that
                                       clocks do not matter; or its holder held this very lock file, which is now ours
    the API server does not answer     go on if the Lease was ours. The lock is still held, and an operator on another
                                       volume has other tokens, so nobody can spend what we spend
    we have not looked for too long    stop until we have (the process was stopped, the machine slept, or the volume hangs)

Each look asks the volume, in its own thread and for at most `LOOK_SECONDS`.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Protocol

import httpx2

from oauth_pool_operator import metrics
from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.lease import Lease
from oauth_pool_operator.errors import StoreFailed
from oauth_pool_operator.storage.lock import VolumeLock
from oauth_pool_operator.storage.volume import Volume, VolumeSilent

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
WAIT_SECONDS = 1.0
# A look that takes longer counts as unanswered.
LOOK_SECONDS = 4.0


def boot_seconds() -> float:
    """Seconds since the machine started, including those it slept: others' clocks went on meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseKeeper(Protocol):
    """Where the Lease is: the API server, as `cluster` offers it."""

    async def read_lease(self) -> Lease | None: ...

    async def write_lease(self, lease: Lease) -> Lease: ...


class Leadership:
    """Start it with `run`; ask `leads` before anything that only one operator may do."""

    def __init__(
        self,
        lock: VolumeLock,
        leases: LeaseKeeper,
        *,
        on_look: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._lock = lock
        self.volume = Volume("state", seconds=LOOK_SECONDS, threads=1)  # one for the lock, whatever else hangs
        self._leases = leases
        self._clock = clock
        self.on_look = on_look  # told after every look, whatever it showed
        self.on_return: Callable[[], None] = lambda: None  # told when the API server answers again after it did not
        self._lease: Lease | None = None  # ours, as last written; None while we do not lead
        self._looked = clock()
        self._seen: tuple[object, float] = (None, 0.0)  # somebody else's Lease, and since when it has looked like that
        self._is_unanswered = False
        self._answered: float | None = None  # when the API server has last answered about the Lease
        self.why_not = "it has just started"
        self._changed = asyncio.Condition()

    @property
    def leads(self) -> bool:
        """True while this operator may spend tokens and write what only one may write."""
        return self._lease is not None and self._clock() - self._looked < LEASE_SECONDS

    @property
    def is_answered(self) -> bool:
        """True while the API server answers about the Lease; may be read from any thread."""
        return self._answered is not None and self._clock() - self._answered < LEASE_SECONDS

    async def wait_until(self, leads: bool) -> None:
        """Return when this operator leads, or does not lead any more."""
        async with self._changed:
            await self._changed.wait_for(lambda: (self._lease is not None) is leads)

    async def ends_within(self, seconds: float) -> bool:
        """Wait that long; True as soon as this operator does not lead any more."""
        try:
            async with asyncio.timeout(seconds):
                await self.wait_until(False)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(RENEW_SECONDS if self._lease is not None else WAIT_SECONDS)

    async def release(self) -> None:
        """Let the next operator begin at once; call it when nothing is in flight any more. Best effort."""
        lease, self._lease = self._lease, None
        metrics.LEASE_HELD.set(0)
        if lease is not None:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._leases.write_lease(lease.released())
            except (httpx2.HTTPError, TimeoutError) as error:
                log.debug("the Lease was not released (%s); it will expire", describe(error))
        with suppress(StoreFailed):
            await self.volume.call("", self._lock.release)

    async def look(self) -> None:
        """One look at the lock and the Lease, and what follows from it."""
        before = self._lease is not None
        try:
            if not await self.volume.call("", self._lock.acquire):
                self._follow("another operator holds the lock on the state volume")
            else:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._claim()
                self._is_unanswered, self._answered = False, self._clock()
        except VolumeSilent as error:
            self._did_not_look(error)
            return
        except StoreFailed as error:
            self._follow(str(error))
        except (httpx2.HTTPError, TimeoutError) as error:
            self._went_unanswered(error)
        self._looked = self._clock()
        if before is not (self._lease is not None):
            async with self._changed:
                self._changed.notify_all()
        self.on_look()

    async def _claim(self) -> None:
        """Renew the Lease, or take it if it is free."""
        if self._lease is not None:
            try:
                self._lead(await self._leases.write_lease(self._renewed(self._lease)))
                return
            except httpx2.HTTPStatusError as error:
                if error.response.status_code not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                    raise
        found = await self._leases.read_lease()
        if found is not None and not self._may_take(found):
            self._follow(f"another operator holds the Lease: {found.holder}")
            return
        try:
            self._lead(await self._leases.write_lease(self._renewed(found)))
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != HTTPStatus.CONFLICT:
                raise
            self._follow("another operator took the Lease first")

    def _may_take(self, found: Lease) -> bool:
        """Free, ours, or left behind by an operator that is dead."""
        if not found.holder or found.holder == self._name or found.holder.endswith(f"_{self._lock.identity}"):
            return True
        look = (found.holder, found.renewed, found.version)
        if self._seen[0] != look:
            self._seen = (look, self._clock())
        return self._clock() - self._seen[1] > found.seconds

    def _renewed(self, found: Lease | None) -> Lease:
        now = datetime.now(UTC)
        if found is None:
            return Lease(self._name, now, now, LEASE_SECONDS, 0, "")
        if found.holder == self._name:
            return Lease(self._name, found.acquired, now, LEASE_SECONDS, found.transitions, found.version)
        return Lease(self._name, now, now, LEASE_SECONDS, found.transitions + 1, found.version)

    @property
    def _name(self) -> str:
        return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{self._lock.identity}"

    def _lead(self, lease: Lease) -> None:
        if self._lease is None:
            log.info("this operator leads now, as %s", lease.holder)
        elif self._is_unanswered:
            log.info("the Lease is renewed again")
            self.on_return()
        self._lease, self.why_not = lease, ""
        metrics.LEASE_HELD.set(1)

    def _follow(self, why: str) -> None:
        if self._lease is not None:
            log.error("this operator no longer leads and begins nothing new: %s", why)
        elif why != self.why_not:
            log.warning("this operator waits: %s", why)
        self._lease, self.why_not = None, why
        metrics.LEASE_HELD.set(0)

    def _did_not_look(self, error: VolumeSilent) -> None:
        """It is not known whether the lock is held. For a while that is no reason to stop; then `leads` becomes False."""
        if str(error) != self.why_not:
            log.warning("the lock was not checked: %s", error)
        self.why_not = str(error)

    def _went_unanswered(self, error: Exception) -> None:
        if self._lease is None:
            hint = ""
            if isinstance(error, httpx2.HTTPStatusError) and error.response.status_code == HTTPStatus.FORBIDDEN:
                hint = "; its Role needs get, create and patch on leases"
            self._follow(f"the Lease cannot be read or written: {describe(error)}{hint}")
            return
        if not self._is_unanswered:
            log.warning("the Lease cannot be renewed (%s); going on, because the lock is held", describe(error))
        self._is_unanswered = True
