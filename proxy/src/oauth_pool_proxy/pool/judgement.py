"""What an answer says about the account that it was asked with. Pure: status, headers and, where they are silent, words.

Limits are read from headers by prefix, so that windows which do not exist yet are understood; the words of the body
are the fallback, because the same sentence is used for a minute's limit and a week's.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum

import msgspec

Headers = list[tuple[bytes, bytes]]

_UNIFIED = "anthropic-ratelimit-unified-"
_PER_MINUTE = "anthropic-ratelimit-"
_NOT_WINDOWS = frozenset(("overage", "fallback"))
_MODEL_WINDOWS = frozenset(("7d_oi",))
_MODEL_CLAIMS = frozenset(("seven_day_overage_included",))
_QUOTA_WORDS = ("5-hour", "5 hour", "rolling window", "usage limit for your plan", "subscription usage limit")

_ERROR_EVENT = b"event: error"
_END_OF_EVENT = re.compile(rb"\n\r?\n")
_ERROR_DATA = re.compile(rb"event: error\r?\ndata: ?(.*)")
MOST_OF_AN_ERROR = 64 * 1024

LONGEST_COOLDOWN = 8 * 86400.0
"""A reset further away than any window is long is a mistake, and must not bench an account for weeks."""


class Verdict(Enum):
    """What to do with the account and with the answer."""

    PASS_ON = "pass on: the account is fine, or the answer is about the request"
    QUOTA_EXHAUSTED = "a window of the account is used up: cool down until it is reset"
    RATE_LIMITED = "a short limit of the account: cool down as long as it says"
    MODEL_LIMITED = "a window that counts one model only is used up"
    NEXT_ACCOUNT = "another account may do better, but this one is not to blame"
    UNAUTHORIZED = "the access token is refused"
    FORBIDDEN = "the grant is revoked"
    BILLING = "the account cannot pay"


@dataclass(frozen=True, slots=True)
class Window:
    """One rate limit window as the upstream reported it."""

    name: str
    status: str | None = None
    utilization: float | None = None
    resets_at: float | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    until: float | None = None
    """When the limit ends, if the answer says."""
    windows: tuple[Window, ...] = ()


def needs_body(status: int, headers: Headers, now: float) -> bool:
    """Whether the headers alone cannot decide, so that the words of the body are asked."""
    return status == 403 or (status == 429 and _by_headers(headers, now) is None)


def judge(status: int, headers: Headers, now: float, body: bytes = b"") -> Judgement:
    if status == 429:
        return _by_headers(headers, now) or _by_words(headers, body)
    if status == 401:
        return Judgement(Verdict.UNAUTHORIZED)
    if status == 402:
        return Judgement(Verdict.BILLING)
    # A missing scope or a model that the account may not use is a 403 as well, and says nothing of the account.
    if status == 403 and "revoked" in _error_of(_decompressed(headers, body) or b"").get("message", "").lower():
        return Judgement(Verdict.FORBIDDEN)
    return Judgement(Verdict.PASS_ON)


def may_begin_with_error(headers: Headers, beginning: bytes) -> bool:
    """Whether more of an event stream is needed to know if it begins with an error, or to have all of that error."""
    text = _text_of_stream(headers, beginning)
    if text is None or len(beginning) > MOST_OF_AN_ERROR:
        return False
    return _ERROR_EVENT.startswith(text[: len(_ERROR_EVENT)]) and not _END_OF_EVENT.search(text)


def judge_beginning(headers: Headers, beginning: bytes, now: float) -> Judgement:
    """What an event stream says that was answered with 200 and may begin with an error all the same."""
    found = _ERROR_DATA.match(_text_of_stream(headers, beginning) or b"")
    error = _error_of(found[1]) if found else {}
    if error.get("type") != "rate_limit_error":
        return Judgement(Verdict.PASS_ON)
    return _by_headers(headers, now) or _by_message(str(error.get("message")), windows_of(headers))


def windows_of(headers: Headers) -> tuple[Window, ...]:
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


def _by_headers(headers: Headers, now: float) -> Judgement | None:
    """The judgement of a 429 whose headers say enough."""
    texts, windows = _texts(headers), windows_of(headers)
    retry_at = _retry_at(texts, now)
    aggregate_reset = _instant(texts.get(_UNIFIED + "reset"))
    rejected = [window for window in windows if window.status == "rejected"]
    of_account = [window for window in rejected if window.name not in _MODEL_WINDOWS]
    if of_account:
        resets = [window.resets_at or aggregate_reset for window in of_account]
        return Judgement(Verdict.QUOTA_EXHAUSTED, _latest(now, *resets, retry_at), windows)
    claim = texts.get(_UNIFIED + "representative-claim")
    is_rejected = texts.get(_UNIFIED + "status") == "rejected"
    if rejected or (is_rejected and claim in _MODEL_CLAIMS):
        resets = [window.resets_at for window in rejected] or [aggregate_reset]
        return Judgement(Verdict.MODEL_LIMITED, _latest(now, *resets, retry_at), windows)
    if is_rejected:
        return Judgement(Verdict.QUOTA_EXHAUSTED, _latest(now, aggregate_reset, retry_at), windows)
    until = retry_at or _per_minute_reset(texts, now)
    return Judgement(Verdict.RATE_LIMITED, _latest(now, until), windows) if until else None


def _by_words(headers: Headers, body: bytes) -> Judgement:
    text = _decompressed(headers, body) or b""
    return _by_message(_error_of(text).get("message") or text.decode("utf-8", "replace"), windows_of(headers))


def _by_message(message: str, windows: tuple[Window, ...]) -> Judgement:
    is_quota = any(words in message.lower() for words in _QUOTA_WORDS)
    return Judgement(Verdict.QUOTA_EXHAUSTED if is_quota else Verdict.NEXT_ACCOUNT, windows=windows)


def _latest(now: float, *instants: float | None) -> float | None:
    """The latest of those that are known and not over, within reason."""
    ahead = [instant for instant in instants if instant and instant > now]
    return min(max(ahead), now + LONGEST_COOLDOWN) if ahead else None


def _per_minute_reset(texts: Mapping[str, str], now: float) -> float | None:
    """The end of a per-minute limit: of those that are used up or, if none says so, the first to end."""
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


def _texts(headers: Headers) -> dict[str, str]:
    """The headers that limits are read from."""
    return {
        name.decode("latin-1"): value.decode("latin-1").strip()
        for name, value in headers
        if name == b"retry-after" or name.startswith(b"anthropic-ratelimit-")
    }


def _error_of(body: bytes) -> dict[str, str]:
    """Type and message of the API's error envelope; none if this is something else, such as a page of the network's edge."""
    try:
        error = msgspec.json.decode(body)["error"]
        return {key: str(error[key]) for key in ("type", "message") if key in error}
    except (msgspec.DecodeError, RecursionError, UnicodeError, TypeError, KeyError):
        return {}


def _text_of_stream(headers: Headers, beginning: bytes) -> bytes | None:
    """None if it cannot be read."""
    text = _decompressed(headers, beginning)
    return None if text is None else text.lstrip(b"\r\n")


def _decompressed(headers: Headers, body: bytes) -> bytes | None:
    """Clients ask for compressed answers. What cannot be unpacked (br, zstd) has no words for us."""
    encoding = next((value.strip().lower() for name, value in headers if name == b"content-encoding"), b"identity")
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return None
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, 1 << 20)
    except zlib.error:
        return None
