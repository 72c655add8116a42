"""Reads rate limits from headers. Pure.

The headers are matched by prefix, so windows that do not exist yet are understood. An account's own windows are a closed set,
`5h` and `7d`. Every other window (`7d_opus`, and names not seen yet) counts only some model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

from oauth_pool_proxy.config import Header, Verdict

ACCOUNT_WINDOWS = frozenset(("5h", "7d"))
LONGEST_COOLDOWN = 8 * 86400.0
"""A reset further away than the longest window is a mistake, and must not bench an account for weeks."""

_UNIFIED = "anthropic-ratelimit-unified-"
_PER_MINUTE = "anthropic-ratelimit-"
_NOT_WINDOWS = frozenset(("overage", "fallback"))
_ACCOUNT_CLAIMS = frozenset(("five_hour", "seven_day"))


@dataclass(frozen=True, slots=True)
class Window:
    """One rate limit window as the upstream reported it."""

    name: str
    status: str | None = None
    utilization: float | None = None
    resets_at: float | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """What an answer's headers say about a limit that was hit."""

    verdict: Verdict
    until: float | None
    windows: tuple[Window, ...]


def limit_headers(headers: list[Header]) -> list[Header]:
    """The headers that limits are read from."""
    return [
        header for header in headers if header[0].startswith(b"anthropic-ratelimit-") or header[0] == b"retry-after"
    ]


def windows_of(headers: list[Header]) -> tuple[Window, ...]:
    fields: dict[str, dict[str, str]] = {}
    for name, value in _texts(headers).items():
        if name.startswith(_UNIFIED):
            window, _, field = name.removeprefix(_UNIFIED).rpartition("-")
            if window and window not in _NOT_WINDOWS and field in ("status", "reset", "utilization"):
                fields.setdefault(window, {})[field] = value
    return tuple(
        Window(name, texts.get("status"), _number(texts.get("utilization")), _instant(texts.get("reset")))
        for name, texts in fields.items()
    )


def limit_of(headers: list[Header], now: float) -> Limit | None:
    """The limit that these headers explain, if any."""
    texts, windows = _texts(headers), windows_of(headers)
    retry_at = _retry_at(texts, now)
    aggregate_reset = _instant(texts.get(_UNIFIED + "reset"))
    rejected = [window for window in windows if window.status == "rejected"]
    of_account = [window for window in rejected if window.name in ACCOUNT_WINDOWS]
    if of_account:
        resets = [window.resets_at or aggregate_reset for window in of_account]
        return Limit(Verdict.QUOTA_EXHAUSTED, _latest(now, *resets, retry_at), windows)
    claim = texts.get(_UNIFIED + "representative-claim")
    is_rejected = texts.get(_UNIFIED + "status") == "rejected"
    if rejected or (is_rejected and claim and claim not in _ACCOUNT_CLAIMS):
        resets = [window.resets_at for window in rejected] or [aggregate_reset]
        return Limit(Verdict.MODEL_LIMITED, _latest(now, *resets, retry_at), windows)
    if is_rejected:
        return Limit(Verdict.QUOTA_EXHAUSTED, _latest(now, aggregate_reset, retry_at), windows)
    until = retry_at or _per_minute_reset(texts, now)
    return Limit(Verdict.RATE_LIMITED, _latest(now, until), windows) if until else None


def _latest(now: float, *instants: float | None) -> float | None:
    """The latest of the known instants that are not over, capped at `LONGEST_COOLDOWN`."""
    ahead = [instant for instant in instants if instant and instant > now]
    return min(max(ahead), now + LONGEST_COOLDOWN) if ahead else None


def _per_minute_reset(texts: Mapping[str, str], now: float) -> float | None:
    """The end of a per-minute limit: the last of those that are used up or, if none is, the first of all."""
    used_up: list[float] = []
    others: list[float] = []
    for name, value in texts.items():
        if name.startswith(_PER_MINUTE) and name.endswith("-reset") and not name.startswith(_UNIFIED):
            instant = _instant(value)
            if instant and instant > now:
                is_used_up = texts.get(name.removesuffix("reset") + "remaining") == "0"
                (used_up if is_used_up else others).append(instant)
    return max(used_up) if used_up else min(others, default=None)


def _retry_at(texts: Mapping[str, str], now: float) -> float | None:
    """`Retry-After` as an instant: seconds or, as RFC 9110 10.2.3 allows, a date."""
    text = texts.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return now + seconds
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _instant(text: str | None) -> float | None:
    """Seconds since the epoch, written as a number or as RFC 3339: the upstream uses both."""
    number = _number(text)
    if number is not None or not text:
        return number
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant.timestamp() if instant.tzinfo else None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text, re.ASCII) else None


def _texts(headers: list[Header]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1").strip() for name, value in limit_headers(headers)}
