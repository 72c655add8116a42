"""Retries, later each time: the one rule for everything that waits after a failure.

A wait is remembered with its beginning. If the clock is set back to before that, the wait ends, so nothing waits longer than
the longest delay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(slots=True)
class Backoff:
    """Of one thing that is tried again and again: after `first`, then twice as long each time, up to `longest`."""

    first: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(minutes=5)
    failures: int = 0
    since: datetime | None = None
    retry_at: datetime | None = None

    def put_off(self, now: datetime, *, at_least: timedelta = timedelta(0), latest: datetime | None = None) -> datetime:
        """One more failure; when the next try is due: not before `at_least` has passed, unless `latest` is sooner."""
        delay = max(self.pause(), at_least)
        if latest is not None:
            delay = min(delay, latest - now)
        self.since, self.retry_at = now, now + delay
        return self.retry_at

    def is_on(self, now: datetime) -> bool:
        """The time of the next try has not come."""
        return self.since is not None and self.retry_at is not None and self.since <= now < self.retry_at

    def pause(self) -> timedelta:
        """One more failure; how long to wait, for whoever sleeps through it."""
        delay = _delay(self.first, self.longest, self.failures)
        self.failures += 1
        return delay

    def reset(self) -> None:
        """It has worked, or is to be tried at once."""
        self.failures, self.since, self.retry_at = 0, None, None

    def __iter__(self) -> Iterator[float]:
        """All the delays, in seconds, without an end."""
        number = 0
        while True:
            yield _delay(self.first, self.longest, number).total_seconds()
            number += 1


def _delay(first: timedelta, longest: timedelta, failures: int) -> timedelta:
    return max(first, min(first * float(2 ** min(failures, 16)), longest))
