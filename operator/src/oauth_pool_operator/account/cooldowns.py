"""What proxies' reports add up to: cooldowns, probes, quota windows, and which reports are stale.

Pure functions of the account as observed; the clock is a value. A cooldown, as proxies see it:

    refused ──────── 6 h ────────┬─ probe ─┬──── 6 h ────┬─ probe ─┬── … ── until ─┬─ probe ─┬── full traffic
                                 └ 1 min ──┘             └ 1 min ──┘              └ 1 min ──┘

    A probe is one request at a time. If it is refused, the cooldown continues from there. If it is answered, it is over.
"""

import math
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.spec import Account, Report, Window, parse_duration

# A report's `untilTime` further away than this is not believed: it would bench an account for good.
LONGEST_COOLDOWN = timedelta(days=8)

# After a cooldown longer than this, an account gets one request at a time, for a while or until it works.
LONG_COOLDOWN = timedelta(hours=1)
PROBE = timedelta(minutes=1)
# A window may reset early, so this often during a cooldown, one request at a time is let through for a while.
PROBE_INTERVAL = timedelta(hours=6)
# A good answer this long after a refusal proves the refusal wrong. An earlier one may answer an older request, and proxies'
# clocks may differ by some minutes.
PROVEN_AFTER = timedelta(minutes=15)

# A stale report is removed when it is this old; one that says nothing but what a later one says, sooner: where proxies come and
# go, reports of those that are gone would pile up.
STALE_AFTER = timedelta(hours=1)
REPLACED_AFTER = timedelta(minutes=10)

# What a person reads about a cooldown: that it will pass, or that somebody has to check the provider's console.
LIMITS = (c.QUOTA_EXHAUSTED, c.RATE_LIMITED)
REFUSALS = (c.BILLING, c.FORBIDDEN)


@dataclass(frozen=True)
class Cooldown:
    """When proxies do not use the account, and why."""

    since: datetime
    until: datetime
    reason: str


@dataclass(frozen=True)
class Probe:
    """A time in which the account gets one request at a time, to see whether it works again."""

    start: datetime
    end: datetime


def begins_cooldown(report: Report) -> bool:
    """The report concerns the account, not its token: a limit, or a refusal that no newer token cures and that has an end."""
    return report.reason in LIMITS or (report.reason in REFUSALS and report.until_time is not None)


def is_of_token(report: Report) -> bool:
    """The provider refused the access token with which the report was made."""
    return report.reason in ("Unauthorized", c.FORBIDDEN) and not begins_cooldown(report)


def longest_cooldown(
    account: Account, now: datetime, reasons: Collection[str] = (*LIMITS, *REFUSALS)
) -> Cooldown | None:
    """The current cooldown that ends last, of all that proxies report."""
    lasting = [cooldown for cooldown in _cooldowns(account) if cooldown.until > now and cooldown.reason in reasons]
    return max(lasting, key=lambda cooldown: cooldown.until, default=None)


def _cooldowns(account: Account) -> list[Cooldown]:
    """All cooldowns that proxies report, including past ones, except those that were proven wrong."""
    return [
        Cooldown(report.observed_time, _ends(report, account), report.reason)
        for report in account.reports
        if report.reason is not None and begins_cooldown(report) and not _is_proven_wrong(report, account.reports)
    ]


def _ends(report: Report, account: Account) -> datetime:
    until = report.until_time or report.observed_time + parse_duration(account.spec.cooldown)
    return min(until, report.observed_time + LONGEST_COOLDOWN)


def _is_proven_wrong(report: Report, reports: Sequence[Report]) -> bool:
    return any(other.reason is None and other.observed_time >= report.observed_time + PROVEN_AFTER for other in reports)


def next_probe(account: Account, now: datetime) -> Probe | None:
    """The current or next probe: regularly during a long cooldown, and once after it.

    During a cooldown the times count from the last refusal, so a refused probe ends at once and the next one is an
    interval later. They are spread, so that accounts that were exhausted together are not probed together.
    """
    cooldowns = _cooldowns(account)
    lasting = [cooldown for cooldown in cooldowns if cooldown.until > now]
    if lasting:
        refused, until = max(one.since for one in lasting), max(one.until for one in lasting)
        spread = zlib.crc32(account.uid.encode()) / 2**32
        number = max(1, math.floor((now - PROBE - refused) / PROBE_INTERVAL - spread) + 1)
        start = refused + PROBE_INTERVAL * (number + spread)
        if start < until:
            return Probe(start, start + PROBE)
    ended = max((one.until for one in cooldowns if one.until - one.since > LONG_COOLDOWN), default=None)
    return Probe(ended, ended + PROBE) if ended is not None and ended + PROBE > now else None


def latest_windows(account: Account, now: datetime) -> tuple[list[Window], datetime | None]:
    """The quota windows as any proxy last saw them, and when that was; windows that have reset since are left out."""
    seen = [report for report in account.reports if _live_windows(report, now)]
    if not seen:
        return [], None
    latest = max(seen, key=lambda report: report.observed_time)
    return sorted(_live_windows(latest, now), key=lambda window: window.name), latest.observed_time


def _live_windows(report: Report, now: datetime) -> list[Window]:
    return [window for window in report.windows if window.reset_time is None or window.reset_time > now]


def stale_at(report: Report, account: Account, token_generation: int | None, now: datetime) -> datetime | None:
    """When the report becomes stale, if that is known now; reports of replicas that are gone become stale, too."""
    oldest = report.observed_time + STALE_AFTER
    if is_of_token(report):
        return oldest if report.token_generation != token_generation else None
    if report.reason is not None and not _is_proven_wrong(report, account.reports):
        return max(oldest, _ends(report, account) + PROBE)
    if report.observed_time == latest_windows(account, now)[1]:
        resets = [window.reset_time for window in _live_windows(report, now)]
        return None if None in resets else max([oldest, *filter(None, resets)])
    if report.reason is None and _is_replaced(report, account.reports):
        return report.observed_time + REPLACED_AFTER
    return oldest


def _is_replaced(report: Report, reports: Sequence[Report]) -> bool:
    """A later report shows as well that the account works."""
    return any(other.reason is None and other.observed_time > report.observed_time for other in reports)
