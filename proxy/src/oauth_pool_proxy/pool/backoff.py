"""How long to wait before retrying a server that could not be reached."""

import random


class Backoff:
    """Waits that double, each shortened at random, so many proxies do not come back at once. In seconds.

    `longest` is how long a proxy may take to notice that the API server is back. All must be normal 15 s after that.
    """

    def __init__(self, first: float = 0.5, longest: float = 5) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    def next(self) -> float:
        wait, self._next = self._next, min(self._next * 2, self._longest)
        return wait * random.uniform(0.5, 1)
