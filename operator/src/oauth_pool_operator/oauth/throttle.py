"""How hard token endpoints are asked: a few requests at once to each, and none to a provider that has told us to wait."""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from oauth_pool_operator.errors import NotInCharge, ProviderHeld

# When a wait is over, the accounts of the provider come back spread over this time.
JITTER = timedelta(seconds=10)


class Throttle:
    """One for all accounts; a provider that is slow holds up no other. `may_spend` says whether this operator is the one that may spend tokens."""

    def __init__(
        self, at_once: int, *, clock: Callable[[], datetime], may_spend: Callable[[], bool] = lambda: True
    ) -> None:
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(at_once))  # by provider
        self._clock = clock
        self._may_spend = may_spend
        self._is_closed = False
        self._held: dict[str, datetime] = {}  # by provider: nobody asks before
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, provider: str, uid: str) -> AsyncIterator[None]:
        """One request. Raises `ProviderHeld` when it has to wait longer, `NotInCharge` when it must not be made at all."""
        self.waiting += 1
        try:
            await self._turns[provider].acquire()
        finally:
            self.waiting -= 1
        try:
            if self._is_closed or not self._may_spend():
                raise NotInCharge
            if (wait := self._wait(provider, uid)) > timedelta(0):
                raise ProviderHeld(wait)
            yield
        finally:
            self._turns[provider].release()

    def hold(self, provider: str, until: datetime) -> None:
        """The provider has told us to wait: all its accounts do."""
        self._held[provider] = max(until, self._held.get(provider, until))

    def close(self) -> None:
        """Let nobody begin any more; who has begun goes on."""
        self._is_closed = True

    def _wait(self, provider: str, uid: str) -> timedelta:
        if provider not in self._held:
            return timedelta(0)
        return self._held[provider] + JITTER * (zlib.crc32(uid.encode()) / 2**32) - self._clock()
