"""Who may go on now: so many bytes of bodies are held at once, so many requests run, so many wait.

First come, first served; where clients are known, they take turns, so that nobody's burst keeps the others waiting.

A body has its room before it is read, and a request takes its slot after that, so that a slow upload costs nobody a slot.
Whoever announces a length needs that much. A body in chunks needs room for the longest one: if it took room as it grew,
two of them could wait for each other for ever. What it did not need is given back as soon as it has arrived. A body that
is read ahead anyway is counted and does not wait: a short question is not held up by somebody's uploads.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from oauth_pool_proxy.downstream.line import ANYBODY, Line, Place, Turn
from oauth_pool_proxy.errors import Overloaded

__all__ = ["READ_AHEAD", "Admission", "Share", "Turn", "Watched", "WeightedSemaphore"]

READ_AHEAD = 64 * 1024
"""How much of a body is read before there is room for it. With more than that the client is not read from."""


class Watched(Protocol):
    """Somebody who may leave while he waits: `ClientGone` is raised in the block then."""

    def watched(self) -> AbstractContextManager[None]: ...


class WeightedSemaphore:
    """At most `capacity` at once, in shares of any size. Whoever is first in line goes first: nobody small overtakes."""

    def __init__(self, capacity: int) -> None:
        self.free = capacity
        self.line = Line()

    @property
    def waiting(self) -> int:
        return len(self.line)

    def take_now(self, amount: int) -> bool:
        """Without waiting, unless there is not enough or somebody waits already."""
        if self.line or self.free < amount:
            return False
        self.free -= amount
        return True

    def take_anyway(self, amount: int) -> None:
        """For what is there already; the others wait until that much more is given back."""
        self.free -= amount

    async def take(self, amount: int, turn: Turn = ANYBODY) -> None:
        """Wait for it. Whoever is cancelled leaves the line and takes nothing along. Raises what `send_away` was given."""
        place = Place(amount, turn, asyncio.get_running_loop().create_future())
        self.line.append(place)
        self._serve()
        try:
            await place.called
        except asyncio.CancelledError:
            if place.called.done() and not place.called.cancelled() and not place.called.exception():
                self.give_back(amount)  # it was handed over in the same moment
            elif self.line.remove(place):
                self._serve()  # there may be enough for the next one
            raise

    def give_back(self, amount: int) -> None:
        self.free += amount
        if self.line:
            self._serve()

    def send_away(self, place: Place, error: Exception) -> None:
        """Somebody who waits is told that he need not."""
        self.line.remove(place)
        if not place.called.done():
            place.called.set_exception(error)
        self._serve()

    def _serve(self) -> None:
        while (place := self.line.first) and (place.called.done() or place.amount <= self.free):
            self.line.popleft()
            if not place.called.done():  # else he has left, and has not noticed yet
                self.free -= place.amount
                place.called.set_result(None)


class Share:
    """What one request has of a semaphore. Giving it back again does nothing."""

    __slots__ = ("_amount", "_of")

    def __init__(self, of: WeightedSemaphore, amount: int) -> None:
        self._of, self._amount = of, amount

    def shrink_to(self, amount: int) -> None:
        """Give back what is more than that."""
        if amount < self._amount:
            excess, self._amount = self._amount - amount, amount
            self._of.give_back(excess)

    def give_back(self) -> None:
        if self._amount:
            self.shrink_to(0)


class Admission:
    """`on_waited` is told how many seconds a client has waited in line."""

    def __init__(
        self, requests: int, body_bytes: int, most_waiting: int, on_waited: Callable[[float, Turn], None]
    ) -> None:
        self.slots, self.memory = WeightedSemaphore(requests), WeightedSemaphore(body_bytes)
        self._most_waiting, self._on_waited = most_waiting, on_waited

    @property
    def waiting(self) -> int:
        return self.slots.waiting + self.memory.waiting

    def room_at_once(self, size: int) -> Share:
        """For a body that is there: at most `READ_AHEAD` bytes."""
        self.memory.take_anyway(size)
        return Share(self.memory, size)

    async def room(self, size: int, client: Watched, turn: Turn = ANYBODY) -> Share:
        """Room for a body. `Overloaded` if too many wait already, `ClientGone` if the client leaves the line."""
        if size <= READ_AHEAD:
            return self.room_at_once(size)
        if not self.memory.take_now(size):
            await self._wait(self.memory, size, client, turn)
        return Share(self.memory, size)

    def enter_at_once(self) -> bool:
        """Take a slot if there is one, and nobody waits for it."""
        return self.slots.take_now(1)

    async def enter(self, client: Watched, turn: Turn = ANYBODY) -> None:
        """Take a slot. Raises what `room` does."""
        if not self.slots.take_now(1):
            await self._wait(self.slots, 1, client, turn)

    def leave(self) -> None:
        self.slots.give_back(1)

    async def _wait(self, semaphore: WeightedSemaphore, amount: int, client: Watched, turn: Turn) -> None:
        if self.waiting >= self._most_waiting and not self._makes_room_for(turn):
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with client.watched():
            await semaphore.take(amount, turn)
        self._on_waited(loop.time() - began, turn)

    def _makes_room_for(self, turn: Turn) -> bool:
        """The line is full. Whoever fills it gives up a place to a client that has fewer: that one goes who came last."""
        own = self.slots.line.count(turn) + self.memory.line.count(turn)
        for semaphore in (self.slots, self.memory):
            place, count = semaphore.line.last_of_longest()
            if place and place.turn != turn and count > own + 1:
                semaphore.send_away(place, self._overloaded())
                return True
        return False

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self.waiting} requests wait already")
