"""Keeps some connections to the upstream open ahead of need, so a request does not wait for TCP and TLS.

It keeps as many as configured, or as many as the last minute was short of, up to a limit. If the upstream cannot be reached, or
closes new connections at once, it tries less and less often. Requests find that out by themselves.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable

log = logging.getLogger(__name__)

MOST_SPARE = 32
"""The limit, however many requests found none. More at once is a burst, and bursts open their own connections."""
WINDOW_SECONDS = 60.0
LOOK_SECONDS = 1.0
"""How often to check whether there are enough: some end unnoticed."""
YOUNG_SECONDS = 10.0
"""If a connection ends sooner than this without a request, the upstream did not want it."""
LONGEST_PAUSE = 60.0


class Owner(Protocol):
    """The owner of the connections."""

    def clock(self) -> float: ...
    @property
    def idle_connections(self) -> int: ...


class Spares:
    """`count` is the minimum number of spares. `connect` makes one and hands it to the owner."""

    def __init__(self, owner: Owner, count: int, connect: Callable[[], Awaitable[None]]) -> None:
        self._owner, self._count, self._connect = owner, count, connect
        self._missed: deque[float] = deque(maxlen=MOST_SPARE)
        """The instants at which requests found no connection."""
        self._were_used = True
        self._opened_at = float("-inf")
        self._news = asyncio.Event()

    def missed(self) -> None:
        """Note that a request found no connection and makes its own."""
        self._missed.append(self._owner.clock())
        self._were_used = True

    def taken(self) -> None:
        """Note that a request took a connection. Called for every such request."""
        self._were_used = True
        if self._owner.idle_connections < self._count:
            self._news.set()

    @property
    def wanted(self) -> int:
        """How many spares there should be now."""
        since = self._owner.clock() - WINDOW_SECONDS
        while self._missed and self._missed[0] < since:
            self._missed.popleft()
        return max(self._count, len(self._missed))

    async def run(self) -> None:
        """Keep enough spares open, forever."""
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
        """Open the missing connections. False: it is no use to try again soon."""
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
