"""Keeps some connections to the upstream open ahead of need, so that a request does not wait for TCP and TLS.

How many: as many as are configured, or as the last minute was short of, up to a bound. An upstream that cannot be reached, or
ends what is only just opened, is asked less and less often; requests find that out by themselves.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable

log = logging.getLogger(__name__)

MOST_SPARE = 32
"""However many requests found none. More than this at once is a burst, and bursts open their own."""
WINDOW_SECONDS = 60.0
LOOK_SECONDS = 1.0
"""How often it is looked whether there are enough: some end unseen."""
YOUNG_SECONDS = 10.0
"""A connection that ends sooner than this without a request was not wanted by the upstream."""
LONGEST_PAUSE = 60.0


class Owner(Protocol):
    """Whoever keeps the connections."""

    def clock(self) -> float: ...
    @property
    def idle_connections(self) -> int: ...


class Spares:
    """`count` is how many there are at least; `connect` makes one and hands it to the owner."""

    def __init__(self, owner: Owner, count: int, connect: Callable[[], Awaitable[None]]) -> None:
        self._owner, self._count, self._connect = owner, count, connect
        self._missed: deque[float] = deque(maxlen=MOST_SPARE)
        """When requests found no connection."""
        self._were_used = True
        self._opened_at = float("-inf")
        self._news = asyncio.Event()

    def missed(self) -> None:
        """A request has found no connection, and makes its own."""
        self._missed.append(self._owner.clock())
        self._were_used = True

    def taken(self) -> None:
        """A request has taken one. Called for each of them."""
        self._were_used = True
        if self._owner.idle_connections < self._count:
            self._news.set()

    @property
    def wanted(self) -> int:
        """How many there should be now."""
        since = self._owner.clock() - WINDOW_SECONDS
        while self._missed and self._missed[0] < since:
            self._missed.popleft()
        return max(self._count, len(self._missed))

    async def run(self) -> None:
        """Keep them, for ever."""
        pause = LOOK_SECONDS
        while True:
            self._news.clear()
            if await self.refill():
                pause = LOOK_SECONDS
                await self._look_again()
            else:
                pause = min(2 * pause, LONGEST_PAUSE)
                await asyncio.sleep(pause)

    async def refill(self) -> bool:
        """Open what is missing. False: there is no use in trying again soon."""
        began, were_used, self._were_used = self._owner.clock(), self._were_used, False
        missing = self.wanted - self._owner.idle_connections
        try:
            for _ in range(missing):
                await self._connect()
        except (UpstreamTimeout, UpstreamUnreachable) as error:
            log.debug("no connection ahead of need", extra={"fields": {"error": str(error)}})
            return False
        if missing <= 0:
            return True
        last, self._opened_at = self._opened_at, began
        return were_used or began - last >= YOUNG_SECONDS

    async def _look_again(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._news.wait()
        except TimeoutError:
            pass
