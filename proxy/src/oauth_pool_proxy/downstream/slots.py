"""At most so many requests at once; the others wait their turn, first come, first served."""

import asyncio
from collections import deque


class Slots:
    def __init__(self, limit: int) -> None:
        self._free = limit
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def take_now(self) -> bool:
        """A slot without waiting, unless there is none or somebody waits for it already."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def take(self) -> None:
        """Wait for a slot. Whoever is cancelled leaves the queue and takes no slot along."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it was handed over in the same moment
            elif turn in self._queue:  # unless somebody gave back a slot since and has passed it over
                self._queue.remove(turn)
            raise

    def give_back(self) -> None:
        """Hand the slot to whoever has waited longest. It is free only when nobody waits."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
