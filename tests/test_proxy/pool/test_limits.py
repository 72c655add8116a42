"""Rate limits as headers tell them."""

from email.utils import formatdate

import pytest

from oauth_pool_proxy.config import Verdict
from oauth_pool_proxy.pool.limits import LONGEST_COOLDOWN, Window, limit_of, windows_of

NOW = 1_800_000_000.0
AT = int(NOW)
UNIFIED = "anthropic-ratelimit-unified-"


def headers(**values: object) -> list[tuple[bytes, bytes]]:
    """`_5h_status="rejected"` is a unified header, `retry_after=3` an ordinary one."""
    return [(_name(key).encode(), str(value).encode()) for key, value in values.items()]


def _name(key: str) -> str:
    if key.startswith("_"):
        window, _, field = key[1:].rpartition("_")
        is_window = window[:1].isdigit()
        return f"{UNIFIED}{window}-{field}" if is_window else UNIFIED + key[1:].replace("_", "-")
    return key.replace("_", "-")


QUOTA, RATE = Verdict.QUOTA_EXHAUSTED, Verdict.RATE_LIMITED
MODEL, NEXT = Verdict.MODEL_LIMITED, None

CASES: dict[str, tuple[list[tuple[bytes, bytes]], Verdict | None, float | None]] = {
    "5h used up": (headers(_status="rejected", _5h_status="rejected", _5h_reset=AT + 900), QUOTA, NOW + 900),
    "7d used up while 5h is not": (
        headers(
            _5h_status="allowed", _5h_reset=AT + 60, _7d_status="rejected", _7d_reset=AT + 124633, retry_after=124633
        ),
        QUOTA,
        NOW + 124633,
    ),
    "the latest of two resets": (
        headers(_5h_status="rejected", _5h_reset=AT + 900, _7d_status="rejected", _7d_reset=AT + 5000),
        QUOTA,
        NOW + 5000,
    ),
    "not before retry-after": (headers(_5h_status="rejected", _5h_reset=AT + 9, retry_after=70), QUOTA, NOW + 70),
    "the aggregate's reset where the window has none": (
        headers(_5h_status="rejected", _reset=AT + 300),
        QUOTA,
        NOW + 300,
    ),
    "no reset at all": (headers(_5h_status="rejected"), QUOTA, None),
    "a reset that is over": (headers(_5h_status="rejected", _5h_reset=AT - 10), QUOTA, None),
    "a reset as RFC 3339": (headers(_5h_status="rejected", _5h_reset="2027-01-15T08:10:00Z"), QUOTA, NOW + 600),
    "a reset that cannot be": (headers(_5h_status="rejected", _5h_reset=10**14), QUOTA, NOW + LONGEST_COOLDOWN),
    "a reset that is no date": (headers(_5h_status="rejected", _5h_reset="soon", retry_after=5), QUOTA, NOW + 5),
    "a window nobody knows": (headers(_30d_status="rejected", _30d_reset=AT + 40), MODEL, NOW + 40),
    "the window of one model, the account's allowed": (
        headers(_5h_status="allowed", _7d_status="allowed", _7d_opus_status="rejected", _7d_opus_reset=AT + 500000),
        MODEL,
        NOW + 500000,
    ),
    "a claim nobody knows, aggregate only": (
        headers(_status="rejected", _reset=AT + 60, _representative_claim="seven_day_sonnet"),
        MODEL,
        NOW + 60,
    ),
    "aggregate only": (
        headers(_status="rejected", _reset=AT + 50, _representative_claim="five_hour"),
        QUOTA,
        NOW + 50,
    ),
    "a model's window only": (
        headers(_status="rejected", _5h_status="allowed", _7d_oi_status="rejected", _7d_oi_reset=AT + 70),
        MODEL,
        NOW + 70,
    ),
    "a model's claim, aggregate only": (
        headers(_status="rejected", _reset=AT + 80, _representative_claim="seven_day_overage_included"),
        MODEL,
        NOW + 80,
    ),
    "a model's window and the account's": (
        headers(_7d_oi_status="rejected", _7d_oi_reset=AT + 7000, _5h_status="rejected", _5h_reset=AT + 60),
        QUOTA,
        NOW + 60,
    ),
    "overage is not a window": (
        headers(_5h_status="allowed", _overage_status="rejected", _overage_reset=AT + 9999, retry_after=4),
        RATE,
        NOW + 4,
    ),
    "retry-after alone": (headers(retry_after=30), RATE, NOW + 30),
    "retry-after 0": (headers(retry_after=0), RATE, None),
    "retry-after as a date": (headers(retry_after=formatdate(NOW + 90, usegmt=True)), RATE, NOW + 90),
    "retry-after that is nothing": (headers(retry_after="later"), NEXT, None),
    "per minute, the one used up": (
        headers(
            anthropic_ratelimit_requests_remaining=3,
            anthropic_ratelimit_requests_reset="2027-01-15T08:00:05Z",
            anthropic_ratelimit_input_tokens_remaining=0,
            anthropic_ratelimit_input_tokens_reset="2027-01-15T08:00:40Z",
        ),
        RATE,
        NOW + 40,
    ),
    "per minute, none says so": (
        headers(
            anthropic_ratelimit_requests_reset="2027-01-15T08:00:05Z",
            anthropic_ratelimit_tokens_reset="2027-01-15T08:00:50Z",
        ),
        RATE,
        NOW + 5,
    ),
    "nothing": ([], NEXT, None),
    "should-retry says nothing": (headers(x_should_retry="true"), NEXT, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_429_is_read_from_its_headers(case: str) -> None:
    given, verdict, until = CASES[case]
    limit = limit_of(given, NOW)
    assert (limit and limit.verdict, limit and limit.until) == (verdict, until)


def test_windows_are_read_from_any_answer() -> None:
    given = headers(
        _status="allowed_warning",
        _5h_status="allowed_warning",
        _5h_utilization="1.08",
        _5h_reset=AT + 5,
        _7d_oi_status="allowed",
        _7d_oi_utilization="x",
        _fallback_percentage="0.5",
        _overage_status="rejected",
    )
    assert windows_of(given) == (Window("5h", "allowed_warning", 1.08, NOW + 5), Window("7d_oi", "allowed", None, None))
