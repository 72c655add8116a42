"""Which of the available accounts comes first, by what the upstream says of their windows. Pure.

This proxy knows of an account's windows what the answers to its own requests said. So the strategy decides for requests
without a conversation; a conversation's account must be the same on every proxy.
"""

from dataclasses import dataclass
from math import inf

from oauth_pool_proxy.config import Strategy
from oauth_pool_proxy.pool.account import Account
from oauth_pool_proxy.pool.limits import ACCOUNT_WINDOWS, Window

WEEK = "7d"


@dataclass(frozen=True, slots=True)
class Preference:
    """The configuration's word on which account to spare and which to use up."""

    strategy: Strategy = Strategy.ROUND_ROBIN
    reserve: float = 1.0
    """A fraction of a window; 1 spares nobody."""

    @property
    def reads_windows(self) -> bool:
        return self.strategy is not Strategy.ROUND_ROBIN or self.reserve < 1

    def is_reserve(self, account: Account, now: float) -> bool:
        """Whether so much of a window is used that the account comes last."""
        return self.reserve < 1 and _most_used(account, now) > self.reserve

    def rank(self, account: Account, now: float) -> float:
        """The lower, the sooner. Equals take turns."""
        if self.strategy is Strategy.LEAST_USED:
            return round(_most_used(account, now), 2)
        if self.strategy is Strategy.RESET_SOONEST:
            return _week_ends_at(account, now)
        return 0

    def next_change(self, account: Account, now: float) -> float | None:
        """The soonest instant at which time alone may change any of this."""
        if not self.reads_windows:
            return None
        return min((window.resets_at for window in _current(account, now) if window.resets_at), default=None)


def _week_ends_at(account: Account, now: float) -> float:
    """`inf` if the account does not say.

    One that was never asked comes first, for one request, so that its week becomes known: otherwise whichever account
    happened to be asked first would be the only one with a known week, and stay the first.
    """
    if account.requests == 0:
        return -inf
    ends = (window.resets_at for window in _current(account, now) if window.name == WEEK and window.resets_at)
    return next(ends, inf)


def _most_used(account: Account, now: float) -> float:
    return max((window.utilization or 0 for window in _current(account, now)), default=0)


def _current(account: Account, now: float) -> list[Window]:
    """The account's own windows that have not been reset since they were told of."""
    return [
        window
        for window in account.windows
        if window.name in ACCOUNT_WINDOWS and (window.resets_at is None or window.resets_at > now)
    ]
