"""Waiting for something that another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.control_plane.errors import NotInTime

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], what: str, seconds: float = 30, every: float = 0.03) -> T:
    """The first true answer of `condition`; `NotInTime`, naming `what`, if there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return answer
