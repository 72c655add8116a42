"""The simulator's time, which a test may move."""

import threading
import time
from collections.abc import Callable


class Clock:
    """Epoch seconds from `source`, plus whatever was added by `advance`. Safe to use from several threads."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._offset = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            return self._source() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the time; a negative number moves it back, which is what a skewed clock looks like."""
        with self._lock:
            self._offset += seconds
