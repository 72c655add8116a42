"""Decides which requests may proceed. It limits the body bytes held at once, the requests that run, and those that wait.

First come, first served. Where clients are identified, they take turns, so one client's burst does not hold up the others.

A body gets room before it is read. The request takes a slot after that, so a slow upload does not occupy a slot. A request
that announces a length needs that much room. A chunked body needs room for the longest body allowed: if it took room as it
grew, two of them could wait for each other forever. It gives back the rest as soon as it has arrived. A body short enough to be
read ahead is counted but does not wait, so uploads do not hold up short requests.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from oauth_pool_proxy.downstream.line import ANYBODY, Line, Place, Turn
from oauth_pool_proxy.errors import Overloaded

__all__ = ["READ_AHEAD", "Admission", "Share", "Turn", "Watched", "WeightedSemaphore"]

READ_AHEAD = 64 * 1024
"""How much of a body is read before there is room for it. Once more than that has arrived, reading from the client stops."""


class Watched(Protocol):
    """A client that may leave while it waits. `ClientGone` is then raised in the block."""

    def watched(self) -> AbstractContextManager[None]: ...


class WeightedSemaphore:
    """At most `capacity` at once, in shares of any size. The first in line goes first: smaller shares do not overtake."""

    def __init__(self, capacity: int) -> None:
        self.free = capacity
        self.line = Line()

    @property
    def waiting(self) -> int:
        return len(self.line)

    def take_now(self, amount: int) -> bool:
        """Take it without waiting. False: there is not enough, or others are waiting already."""
        if self.line or self.free < amount:
            return False
        self.free -= amount
        return True

    def take_anyway(self, amount: int) -> None:
        """For bytes already in memory. The others wait until that much more is given back."""
        self.free -= amount

    async def take(self, amount: int, turn: Turn = ANYBODY) -> None:
        """Wait for it. A cancelled waiter leaves the line and takes nothing. Raises the error given to `send_away`."""
        place = Place(amount, turn, asyncio.get_running_loop().create_future())
        self.line.append(place)
        self._serve()
        try:
            await place.called
        except asyncio.CancelledError:
            if place.called.done() and not place.called.cancelled() and not place.called.exception():
                self.give_back(amount)  # it was granted at the same moment
            elif self.line.remove(place):
                self._serve()  # there may be enough for the next one
            raise

    def give_back(self, amount: int) -> None:
        self.free += amount
        if self.line:
            self._serve()

    def send_away(self, place: Place, error: Exception) -> None:
        """Turn away a waiter with this error."""
        self.line.remove(place)
        if not place.called.done():
            place.called.set_exception(error)
        self._serve()

    def _serve(self) -> None:
        while (place := self.line.first) and (place.called.done() or place.amount <= self.free):
            self.line.popleft()
            if not place.called.done():  # else the waiter was cancelled and has not run yet
                self.free -= place.amount
                place.called.set_result(None)


class Share:
    """One request's share of a semaphore. Giving it back twice is harmless."""

    __slots__ = ("_amount", "_of")

    def __init__(self, of: WeightedSemaphore, amount: int) -> None:
        self._of, self._amount = of, amount

    def shrink_to(self, amount: int) -> None:
        """Give back all but this amount."""
        if amount < self._amount:
            excess, self._amount = self._amount - amount, amount
            self._of.give_back(excess)

    def give_back(self) -> None:
        if self._amount:
            self.shrink_to(0)


class Admission:
    """`on_waited` gets the seconds that a request has waited in line."""

    def __init__(
        self, requests: int, body_bytes: int, most_waiting: int, on_waited: Callable[[float, Turn], None]
    ) -> None:
        self.slots, self.memory = WeightedSemaphore(requests), WeightedSemaphore(body_bytes)
        self._most_waiting, self._on_waited = most_waiting, on_waited

    @property
    def waiting(self) -> int:
        return self.slots.waiting + self.memory.waiting

    def room_at_once(self, size: int) -> Share:
        """Room for a body that has arrived: at most `READ_AHEAD` bytes."""
        self.memory.take_anyway(size)
        return Share(self.memory, size)

    async def room(self, size: int, client: Watched, turn: Turn = ANYBODY) -> Share:
        """Room for a body. Raises `Overloaded` if too many wait already, `ClientGone` if the client leaves the line."""
        if size <= READ_AHEAD:
            return self.room_at_once(size)
        if not self.memory.take_now(size):
            await self._wait(self.memory, size, client, turn)
        return Share(self.memory, size)

    def enter_at_once(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        return self.slots.take_now(1)

    async def enter(self, client: Watched, turn: Turn = ANYBODY) -> None:
        """Take a slot. Raises the same errors as `room`."""
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
        """The line is full. The client with the most places gives up its latest one to a client that has fewer."""
        own = self.slots.line.count(turn) + self.memory.line.count(turn)
        for semaphore in (self.slots, self.memory):
            place, count = semaphore.line.last_of_longest()
            if place and place.turn != turn and count > own + 1:
                semaphore.send_away(place, self._overloaded())
                return True
        return False

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self.waiting} requests wait already")
