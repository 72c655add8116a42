"""Decides which available account comes first, by what the upstream says about their windows. Pure.

This proxy knows an account's windows only from the answers to its own requests. So the strategy decides only for requests
without a conversation: a conversation's account must be the same on every proxy.
"""

from dataclasses import dataclass
from math import inf

from oauth_pool_proxy.config import Strategy
from oauth_pool_proxy.pool.account import Account
from oauth_pool_proxy.pool.limits import ACCOUNT_WINDOWS, Window

WEEK = "7d"


@dataclass(frozen=True, slots=True)
class Preference:
    """Which accounts to spare and which to use up, as configured."""

    strategy: Strategy = Strategy.ROUND_ROBIN
    reserve: float = 1.0
    """A fraction of a window. 1 spares no account."""

    @property
    def reads_windows(self) -> bool:
        return self.strategy is not Strategy.ROUND_ROBIN or self.reserve < 1

    def is_reserve(self, account: Account, now: float) -> bool:
        """Whether so much of a window has been used that the account comes last."""
        return self.reserve < 1 and _most_used(account, now) > self.reserve

    def rank(self, account: Account, now: float) -> float:
        """The lowest comes first. Equals take turns."""
        if self.strategy is Strategy.LEAST_USED:
            return round(_most_used(account, now), 2)
        if self.strategy is Strategy.RESET_SOONEST:
            return _week_ends_at(account, now)
        return 0

    def next_change(self, account: Account, now: float) -> float | None:
        """The soonest instant at which time alone may change `is_reserve` or `rank`."""
        if not self.reads_windows:
            return None
        return min((window.resets_at for window in _current(account, now) if window.resets_at), default=None)


def _week_ends_at(account: Account, now: float) -> float:
    """When the account's week ends. `inf` if it is unknown.

    An unused account comes first, for one request, so its week becomes known. Otherwise the account that happened to be used
    first would be the only one with a known week, and would stay first.
    """
    if account.requests == 0:
        return -inf
    ends = (window.resets_at for window in _current(account, now) if window.name == WEEK and window.resets_at)
    return next(ends, inf)


def _most_used(account: Account, now: float) -> float:
    return max((window.utilization or 0 for window in _current(account, now)), default=0)


def _current(account: Account, now: float) -> list[Window]:
    """The account's own windows that have not been reset since they were reported."""
    return [
        window
        for window in account.windows
        if window.name in ACCOUNT_WINDOWS and (window.resets_at is None or window.resets_at > now)
    ]
