"""Trying again, later each time: what failed last, and when its next try is due."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from oauth_pool_operator.account.facts import Trouble
from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.errors import TokenEndpointUnavailable

FIRST_RETRY = timedelta(seconds=1)
LAST_RETRY = timedelta(minutes=5)


@dataclass
class Backoff:
    """Of one thing that is tried again and again; may be lost."""

    failures: int = 0
    trouble: Trouble | None = None

    def holds_back(self, now: datetime) -> Trouble | None:
        """The last failure, for as long as its time to try again has not come."""
        return self.trouble if self.trouble is not None and now < self.trouble.retry_at else None

    def failed(
        self,
        reason: str,
        error: Exception,
        now: datetime,
        *,
        is_stalled: bool,
        earliest: timedelta = FIRST_RETRY,
        latest: datetime | None = None,
    ) -> Trouble:
        """Remember a failure; the next try comes later each time (`earliest` to 5 min, `latest` at the latest), or when
        the server said."""
        if (held := self.holds_back(now)) is not None and held.reason == reason:
            return held  # looked at early, because something else happened: not another try
        delay = max(earliest, min(earliest * 2**self.failures, LAST_RETRY))
        if latest is not None:
            delay = min(delay, latest - now)
        if isinstance(error, TokenEndpointUnavailable) and error.retry_after is not None:
            delay = max(delay, error.retry_after)
        self.failures = min(self.failures + 1, 16)
        retry_at = now + delay
        self.trouble = Trouble(reason, f"{error}; next try at {rfc3339(retry_at)}", retry_at, is_stalled)
        return self.trouble

    def succeeded(self) -> None:
        self.failures, self.trouble = 0, None
