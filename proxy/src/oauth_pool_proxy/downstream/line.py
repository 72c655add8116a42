"""A line for clients. The highest priority goes first. Clients of equal priority take turns, and each client's own requests are
served in order of arrival. With a single client it is a plain queue. Pure.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """The client that a place in line belongs to."""

    client: str = ""
    priority: int = 0


ANYBODY = Turn()
"""Used where clients are not told apart."""


@dataclass(slots=True, eq=False)
class Place:
    amount: int
    turn: Turn
    called: asyncio.Future[None]
    """Done when this place's turn comes, or when its waiter has left."""


class Line:
    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[str, deque[Place]]] = {}
        """The waiting places by priority and client, the client whose turn it is in front. No entry is empty."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, place: Place) -> None:
        """Add a place behind the others of its client. A client that had none comes after all other clients."""
        level = self._levels.setdefault(place.turn.priority, OrderedDict())
        level.setdefault(place.turn.client, deque()).append(place)
        self._length += 1

    @property
    def first(self) -> Place | None:
        """The place whose turn it is."""
        if not self._length:
            return None
        level = self._levels[max(self._levels)]
        return next(iter(level.values()))[0]

    def popleft(self) -> Place:
        """Remove the place whose turn it is. Its client's next turn comes after the others."""
        place = self.first
        assert place is not None
        self._levels[place.turn.priority].move_to_end(place.turn.client)
        self._remove(place)
        return place

    def remove(self, place: Place) -> bool:
        """Remove a place without changing whose turn it is. False: it is not in line."""
        if place not in self._places(place.turn):
            return False
        self._remove(place)
        return True

    def count(self, turn: Turn) -> int:
        """How many places the client has in line."""
        return len(self._places(turn))

    def last_of_longest(self) -> tuple[Place | None, int]:
        """The latest place of the client with the most places, and how many it has."""
        clients = [places for level in self._levels.values() for places in level.values()]
        longest = max(clients, key=len, default=None)
        return (longest[-1], len(longest)) if longest else (None, 0)

    def _places(self, turn: Turn) -> Collection[Place]:
        level = self._levels.get(turn.priority)
        return level.get(turn.client, ()) if level else ()

    def _remove(self, place: Place) -> None:
        priority, client = place.turn.priority, place.turn.client
        level = self._levels[priority]
        places = level[client]
        if places[0] is place:
            places.popleft()
        else:
            places.remove(place)
        self._length -= 1
        if not places:
            del level[client]
            if not level:
                del self._levels[priority]
