"""`expires_in` (RFC 6749 5.1: seconds), however it is written."""

import math
import re
from datetime import timedelta
from typing import Any

from oauth_pool_operator.account.conditions import LIFETIME_ODD
from oauth_pool_operator.account.documents import Remark

# RFC 6749 5.1 only recommends `expires_in`; this is assumed without it.
DEFAULT_LIFETIME = timedelta(hours=1)
LONGEST_LIFETIME = timedelta(days=366)
# Less is nothing at all once it is rounded.
_SHORTEST_SECONDS = 1e-6
# Less is a refresh every few seconds.
SHORT_LIFETIME = timedelta(minutes=1)
# Milliseconds are told from seconds by this: more than ten days, and whole minutes if divided by 1,000. A lifetime of whole
# days in seconds is neither, but for multiples of 25 days; such a token is then only refreshed earlier than it has to be.
_LONG_SECONDS, _MINUTE_IN_MILLISECONDS = 10 * 86_400, 60_000


def lifetime_of(value: Any) -> tuple[timedelta, Remark | None]:
    """How long a token lives, and a remark where that had to be guessed. What is missing is an hour, as is what has no sense."""
    if value is None:
        return DEFAULT_LIFETIME, None
    seconds = _number(value)
    if seconds is None or not _SHORTEST_SECONDS <= seconds < math.inf:
        return DEFAULT_LIFETIME, _odd("is not a number of seconds above 0; the token counts as valid for an hour")
    if seconds > _LONG_SECONDS and seconds % _MINUTE_IN_MILLISECONDS == 0:
        lifetime = timedelta(seconds=min(seconds / 1000, LONGEST_LIFETIME.total_seconds()))
        return lifetime, _odd(f"seems to be in milliseconds; the token counts as valid for {lifetime}")
    lifetime = timedelta(seconds=min(seconds, LONGEST_LIFETIME.total_seconds()))
    if lifetime < SHORT_LIFETIME:
        return lifetime, _odd(f"is {lifetime.total_seconds():g} s; a token that short is refreshed all the time")
    if isinstance(value, str) and not value.isdecimal():
        return lifetime, _odd(f"is a text; the token counts as valid for {lifetime}")
    return lifetime, None


def _number(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", value.strip()):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _odd(what: str) -> Remark:
    return Remark(LIFETIME_ODD, f"expires_in of the provider's answer {what}")
