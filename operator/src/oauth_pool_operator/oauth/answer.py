"""What an answer of a provider's endpoint means: a token, or which of the errors of `errors`.

Strict: an answer is a token only if it says so. The errors' texts hold a status and a word of the standards, never anything
else that was received.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from oauth_pool_operator.errors import ExchangeRejected, GrantRejected, TokenEndpointUnavailable

# RFC 6749 5.1 only recommends `expires_in`; this is assumed without it.
DEFAULT_LIFETIME = timedelta(hours=1)
LONGEST_LIFETIME = timedelta(days=366)
LONGEST_WAIT = timedelta(days=1)  # that a server can ask for
LONGEST_SUBJECT = 253  # what spec.expectedSubject can hold

# RFC 8628 3.2 and 3.5. A login that a person has an hour for is long; an interval of 0 would be a loop.
DEFAULT_INTERVAL, SHORTEST_INTERVAL, LONGEST_INTERVAL = 5.0, 1.0, 300.0
LONGEST_DEVICE_LOGIN = timedelta(hours=1)
LONGEST_USER_CODE, LONGEST_URI = 64, 2048

_POLLING_WORDS = ("authorization_pending", "slow_down", "access_denied", "expired_token")
# RFC 6749 5.2, RFC 7523 3.1, RFC 8628 3.5: the words that may be repeated to a person. Anything else is "an unknown error".
_ERROR_WORDS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
        *("invalid_scope", "invalid_target", *_POLLING_WORDS),
        *("invalid_request_error", "authentication_error", "permission_error", "not_found_error"),
    )
)


@dataclass(frozen=True)
class TokenAnswer:
    """What a token endpoint granted."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime: timedelta
    subject: str | None


@dataclass(frozen=True)
class DeviceAuthorization:
    """What a device authorization endpoint answered (RFC 8628 3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    lifetime: timedelta
    interval: timedelta


def demand_token(response: httpx2.Response) -> httpx2.Response:
    """Without this, Authlib takes any JSON object without an `error` key for a token.

    A token is passed on as the few members that are looked at later, so that nothing else of the answer, however odd,
    can get between a refresh token that was rotated and the disk.
    """
    document = _document(response)
    if response.status_code == 200 and isinstance(document.get("access_token"), str) and document["access_token"]:
        kept = ("access_token", "refresh_token", "account", "organization")
        members = {name: document[name] for name in kept if name in document}
        seconds = _lifetime(document.get("expires_in")).total_seconds()
        return httpx2.Response(200, json=members | {"lifetime_seconds": seconds}, request=response.request)
    raise _refusal(response, document, "the token endpoint", "an access token")


def granted(token: dict[str, Any], sent_refresh_token: str | None) -> TokenAnswer:
    """What `demand_token` let pass; a refresh token that was sent stays when the answer has none (RFC 6749 6)."""
    refresh_token = token.get("refresh_token")
    return TokenAnswer(
        access_token=token["access_token"],
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else sent_refresh_token,
        lifetime=timedelta(seconds=token["lifetime_seconds"]),
        subject=_subject(token),
    )


def demand_device_authorization(response: httpx2.Response) -> DeviceAuthorization:
    """The answer of a device authorization endpoint, if it is one; lengths are those that status can hold."""
    document = _document(response)

    def text(name: str, longest: int) -> str | None:
        value = document.get(name)
        return value if isinstance(value, str) and 0 < len(value) <= longest else None

    device_code, user_code = text("device_code", 4096), text("user_code", LONGEST_USER_CODE)
    verification_uri = text("verification_uri", LONGEST_URI)
    if verification_uri is not None and not verification_uri.startswith(("https://", "http://")):
        verification_uri = None
    if response.status_code != 200 or device_code is None or user_code is None or verification_uri is None:
        raise _refusal(response, document, "the device authorization endpoint", "all that a login needs")
    return DeviceAuthorization(
        device_code=device_code,
        user_code=user_code,
        verification_uri=verification_uri,
        verification_uri_complete=text("verification_uri_complete", LONGEST_URI),
        lifetime=min(_lifetime(document.get("expires_in")), LONGEST_DEVICE_LOGIN),
        interval=_interval(document.get("interval")),
    )


def _refusal(response: httpx2.Response, document: dict[str, Any], endpoint: str, wanted: str) -> Exception:
    """The error that an answer amounts to which does not hold what was wanted."""
    word, status = _error_word(document), response.status_code
    if status == 429 or status >= 500:
        retry_after = _retry_after(response.headers)
        return TokenEndpointUnavailable(
            f"{endpoint} answered {status}",
            may_be_done=status != 429,
            retry_after=retry_after,
            is_throttled=status == 429,
        )
    if status == 200 and word not in _POLLING_WORDS:  # which some providers answer with 200, not 400
        return TokenEndpointUnavailable(f"{endpoint} answered 200 without {wanted}", may_be_done=True)
    if word == "invalid_grant":
        return GrantRejected(f"{endpoint} answered invalid_grant")
    return ExchangeRejected(f"{endpoint} answered {status} {word or '(an unknown error)'}", word=word)


def _document(response: httpx2.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _error_word(document: dict[str, Any]) -> str:
    error = document.get("error")
    if isinstance(error, dict):  # the API's envelope
        error = error.get("type")
    return error if isinstance(error, str) and error in _ERROR_WORDS else ""


def _lifetime(value: Any) -> timedelta:
    """`expires_in` (RFC 6749 5.1: seconds), also as text; without a sense it counts as missing."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return DEFAULT_LIFETIME
    return min(timedelta(seconds=min(value, LONGEST_LIFETIME.total_seconds())), LONGEST_LIFETIME)


def _interval(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return timedelta(seconds=DEFAULT_INTERVAL)
    return timedelta(seconds=min(max(value, SHORTEST_INTERVAL), LONGEST_INTERVAL))


def _retry_after(headers: httpx2.Headers) -> timedelta | None:
    """How long the server wants to be left alone (RFC 9110 10.2.3): seconds, or a date, which is one of its own clock."""
    value = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]+", value):
        return min(timedelta(seconds=int(value[:9])), LONGEST_WAIT)
    until = _http_date(value)
    if until is None:
        return None
    return min(max(until - (_http_date(headers.get("date", "")) or datetime.now(UTC)), timedelta(0)), LONGEST_WAIT)


def _http_date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def unavailable(error: httpx2.HTTPError, endpoint: str) -> TokenEndpointUnavailable:
    """The kind of failure in our own words; the library's text may name a URL."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return TokenEndpointUnavailable(f"{endpoint} cannot be reached", may_be_done=False)
    if isinstance(error, httpx2.TimeoutException):
        return TokenEndpointUnavailable(f"{endpoint} did not answer in time", may_be_done=True)
    if isinstance(error, httpx2.HTTPStatusError):
        return TokenEndpointUnavailable(f"{endpoint} answered {error.response.status_code}", may_be_done=True)
    return TokenEndpointUnavailable(f"the connection to {endpoint} was cut", may_be_done=True)


def _subject(token: dict[str, Any]) -> str | None:
    """Who logged in, if the answer says so: a person before an organization, an address before a number."""
    for member in ("account", "organization"):
        identity = token.get(member)
        for key in ("email_address", "email", "uuid", "id", "name"):
            if isinstance(identity, dict) and isinstance(identity.get(key), str) and identity[key]:
                return str(identity[key])[:LONGEST_SUBJECT]
    return None
