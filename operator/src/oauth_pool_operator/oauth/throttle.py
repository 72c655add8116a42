"""Limits requests to token endpoints: a few at once per provider, and none to a provider that asked us to wait."""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from oauth_pool_operator.errors import NotInCharge, ProviderHeld

# After a wait, the provider's accounts come back spread over this time.
JITTER = timedelta(seconds=10)
# However long one account has to wait, its provider's other accounts ask again after this time.
LONGEST_HOLD = timedelta(minutes=5)


class Throttle:
    """One for all accounts; a slow provider delays no other. `may_spend` says whether this operator may spend tokens."""

    def __init__(
        self, at_once: int, *, clock: Callable[[], datetime], may_spend: Callable[[], bool] = lambda: True
    ) -> None:
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(at_once))  # by provider
        self._clock = clock
        self._may_spend = may_spend
        self._is_closed = False
        self._held: dict[str, tuple[datetime, datetime]] = {}  # by provider: since when, and nobody asks before when
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, provider: str, uid: str, *, is_last_call: bool = False) -> AsyncIterator[None]:
        """One request. Raises `ProviderHeld` if it has to wait longer, `NotInCharge` if it must not be made at all."""
        self.waiting += 1
        try:
            await self._turns[provider].acquire()
        finally:
            self.waiting -= 1
        try:
            self.demand_right_to_spend()
            if (wait := self._wait(provider, uid)) > timedelta(0) and not is_last_call:
                raise ProviderHeld(wait)
            yield
        finally:
            self._turns[provider].release()

    def demand_right_to_spend(self) -> None:
        """`NotInCharge` unless a token may be spent at this very instant."""
        if self._is_closed or not self._may_spend():
            raise NotInCharge

    def hold(self, provider: str, until: datetime) -> None:
        """The provider asked one account to wait: all its accounts do, for a while."""
        now = self._clock()
        until = min(until, now + LONGEST_HOLD)
        self._held[provider] = now, max(until, self.held_until(provider) or until)

    def release(self, provider: str) -> None:
        """End the provider's wait, because a person asked for a refresh."""
        self._held.pop(provider, None)

    def held_until(self, provider: str) -> datetime | None:
        """None when nobody has to wait. A hold that began later than now was set by a wrong clock, and does not count."""
        since, until = self._held.get(provider, (None, None))
        now = self._clock()
        return until if since is not None and until is not None and since <= now < until else None

    def holds(self) -> dict[str, datetime | None]:
        """The providers asked so far, and until when they are held; may be called from any thread."""
        return {provider: self.held_until(provider) for provider in [*self._turns, *self._held]}

    def close(self) -> None:
        """Let no request begin; those in flight continue."""
        self._is_closed = True

    def _wait(self, provider: str, uid: str) -> timedelta:
        since, until = self._held.get(provider, (None, None))
        now = self._clock()
        if since is None or until is None or now < since:
            return timedelta(0)
        return until + JITTER * (zlib.crc32(uid.encode()) / 2**32) - now
