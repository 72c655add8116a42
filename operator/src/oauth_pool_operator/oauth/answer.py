"""Reads an answer of a provider's endpoint: tokens, or one of the errors in `errors`.

A 2xx with an access token means tokens, whatever else is in it: a rotated refresh token must reach the disk. An OAuth error
is a verdict, whatever the status. Everything else counts as a network failure. Messages hold a status and known error
words, never anything else that was received.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import Any

import httpx2

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Remark
from oauth_pool_operator.errors import ExchangeRejected, GrantRejected, TokenEndpointUnavailable, UnusableAnswer
from oauth_pool_operator.oauth.identity import subject_of
from oauth_pool_operator.oauth.lifetime import lifetime_of
from oauth_pool_operator.oauth.profiles import ClientProfile
from oauth_pool_operator.oauth.transport import Answer

LONGEST_WAIT = timedelta(days=1)  # that a server can ask for

# RFC 8628 3.2 and 3.5. A login that a person has an hour for is long; an interval of 0 would be a loop.
DEFAULT_INTERVAL, SHORTEST_INTERVAL, LONGEST_INTERVAL = 5.0, 1.0, 300.0
LONGEST_DEVICE_LOGIN = timedelta(hours=1)
LONGEST_USER_CODE, LONGEST_URI = 64, 2048

# "This refresh token is dead", in the standard's words and in others that providers use.
DEAD_REFRESH_TOKEN = frozenset(
    (
        *("invalid_grant", "bad_refresh_token", "invalid_refresh_token"),
        *("refresh_token_reused", "refresh_token_not_found", "token_expired"),
    )
)
DEAD_CODE = frozenset(("invalid_grant", "bad_verification_code"))
_THROTTLING = frozenset(("rate_limit_error", "rate_limited", "ratelimited"))
# RFC 6749 4.1.2.1 and the API's own envelope: transient
_PASSING = frozenset(("server_error", "temporarily_unavailable", "api_error", "overloaded_error", "timeout_error"))
# RFC 6749 5.2, RFC 7523 3.1, RFC 8628 3.5 and similar: words that may be repeated to a person
_SAYABLE = frozenset(
    (
        *("invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"),
        *("invalid_target", "authorization_pending", "slow_down", "access_denied", "expired_token"),
        *("incorrect_device_code", "device_flow_disabled", "incorrect_client_credentials", "redirect_uri_mismatch"),
        *("invalid_request_error", "authentication_error", "permission_error", "not_found_error"),
    )
) | (DEAD_REFRESH_TOKEN | DEAD_CODE | _THROTTLING | _PASSING)


@dataclass(frozen=True)
class TokenAnswer:
    """What a token endpoint granted, and what is odd about it."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    lifetime: timedelta
    subject: str | None
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class DeviceAuthorization:
    """What a device authorization endpoint answered (RFC 8628 3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    lifetime: timedelta
    interval: timedelta


def read_tokens(
    answer: Answer,
    *,
    client: ClientProfile | None = None,
    dead_words: Iterable[str] = DEAD_CODE,
    sent_refresh_token: str | None = None,
) -> TokenAnswer:
    """The tokens of an answer; `client` is None for an assertion, which never comes with a refresh token.

    A refresh token that was sent stays when the answer has none (RFC 6749 6). Raises `GrantRejected` for one of
    `dead_words`, `ExchangeRejected` for any other OAuth error, `UnusableAnswer`, or `TokenEndpointUnavailable`.
    """
    document = _document(answer)
    new_refresh_token, has_error = _text(document, "refresh_token"), bool(_error_words(document, answer.status))
    has_tokens = _text(document, "access_token") is not None or (new_refresh_token is not None and not has_error)
    if not (200 <= answer.status < 300 and has_tokens):
        raise _refusal(answer, document, "the token endpoint", "an access token", frozenset(dead_words))
    access_token = _usable_access_token(document, new_refresh_token)
    refresh_token = new_refresh_token or sent_refresh_token
    lifetime, odd_lifetime = lifetime_of(document.get("expires_in"))
    remarks = (odd_lifetime, *_remarks(document, client, refresh_token))
    return TokenAnswer(
        access_token=access_token,
        refresh_token=refresh_token,
        lifetime=lifetime,
        subject=subject_of(document, client),
        remarks=tuple(remark for remark in remarks if remark is not None),
    )


def _usable_access_token(document: dict[str, Any], refresh_token: str | None) -> str:
    """RFC 6749 5.1 and 7.1, RFC 6750 2.1: a bearer token that a header can hold."""
    access_token, kind = _text(document, "access_token"), document.get("token_type")
    if access_token is None:
        raise UnusableAnswer("the token endpoint answered without an access token", refresh_token=refresh_token)
    if isinstance(kind, str) and kind and kind.strip().casefold() != "bearer":
        what = "the token endpoint answered with a token_type that is not Bearer, which no proxy can use"
        raise UnusableAnswer(f"{what}: set the client up for bearer tokens", refresh_token=refresh_token)
    if not re.fullmatch(r"[\x21-\x7e]+", access_token):
        what = "the token endpoint answered with an access token that does not fit into a header"
        raise UnusableAnswer(what, refresh_token=refresh_token)
    return access_token


def _remarks(
    document: dict[str, Any], client: ClientProfile | None, refresh_token: str | None
) -> Iterable[Remark | None]:
    if client is None:
        return
    if refresh_token is None:
        message = "the login gave no refresh token (is a scope such as offline_access missing?)"
        yield Remark(c.NO_REFRESH_TOKEN, f"{message}: somebody has to log in again when the access token expires")
    scope = document.get("scope")
    if isinstance(scope, str) and scope.strip():
        # `openid` and `offline_access` are not about the token; what they ask for is there or not
        granted = {*re.split(r"[\s,]+", scope), "openid", "offline_access"}
        if missing := sorted(set(client.scopes) - granted):
            what = f"less was granted than the profile asks for; missing: {' '.join(missing)}"
            yield Remark(c.SCOPE_NARROWED, f"{what}. Requests that need it are refused; log in again and approve all")


def read_device_authorization(answer: Answer) -> DeviceAuthorization:
    """The answer of a device authorization endpoint; texts longer than status can hold are refused."""
    document = _document(answer)
    device_code, user_code = _text(document, "device_code", 4096), _text(document, "user_code", LONGEST_USER_CODE)
    verification_uri = _text(document, "verification_uri", LONGEST_URI)
    if verification_uri is not None and not verification_uri.startswith(("https://", "http://")):
        verification_uri = None
    if not 200 <= answer.status < 300 or device_code is None or user_code is None or verification_uri is None:
        raise _refusal(answer, document, "the device authorization endpoint", "all that a login needs", frozenset())
    lifetime, _ = lifetime_of(document.get("expires_in"))
    return DeviceAuthorization(
        device_code=device_code,
        user_code=user_code,
        verification_uri=verification_uri,
        verification_uri_complete=_text(document, "verification_uri_complete", LONGEST_URI),
        lifetime=min(lifetime, LONGEST_DEVICE_LOGIN),
        interval=_interval(document.get("interval")),
    )


def demand_success(answer: Answer, endpoint: str) -> None:
    """For an endpoint that only reports success or failure (RFC 7009 2.2)."""
    if answer.status >= 300:
        raise _refusal(answer, _document(answer), endpoint, "", frozenset())


def _refusal(
    answer: Answer, document: dict[str, Any], endpoint: str, wanted: str, dead_words: frozenset[str]
) -> Exception:
    """The error that an answer without the wanted members amounts to."""
    words, status = _error_words(document, answer.status), answer.status
    known = next((word for word in words if word in dead_words or word in _SAYABLE), "")
    retry_after = _retry_after(answer.headers)
    if status == 429 or _THROTTLING & words.keys():
        return TokenEndpointUnavailable(
            f"{endpoint} answered {status}", may_be_done=False, retry_after=retry_after, is_throttled=True
        )
    if dead := next((word for word in words if word in dead_words), ""):
        return GrantRejected(f"{endpoint} answered {dead}")
    if status >= 500 or _PASSING & words.keys():
        said = f" {known}" if status < 500 else ""
        return TokenEndpointUnavailable(
            f"{endpoint} answered {status}{said}", may_be_done=True, retry_after=retry_after
        )
    if words:
        return ExchangeRejected(f"{endpoint} answered {status} {known or '(an unknown error)'}", word=known)
    if status < 300:
        return TokenEndpointUnavailable(f"{endpoint} answered {status} without {wanted}", may_be_done=True)
    if status < 400:
        return TokenEndpointUnavailable(
            f"{endpoint} answered {status}, a redirect, which is not followed", may_be_done=False
        )
    # A page of a firewall or a gateway. A load balancer's 408 may come after the provider has redeemed a token.
    what = f"{endpoint} answered {status} without an OAuth error, as a firewall or a gateway does"
    return TokenEndpointUnavailable(what, may_be_done=status == 408, retry_after=retry_after)


def _document(answer: Answer) -> dict[str, Any]:
    """The members of a JSON object, else none. Neither a long number nor a stray byte makes it unreadable."""
    try:
        document = json.loads(answer.body.decode("utf-8-sig", "replace"), parse_int=_integer)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # Python refuses to read 4,300 digits


def _text(document: dict[str, Any], name: str, longest: int | None = None) -> str | None:
    """A member that is a text, not empty, not longer than `longest`, and can be written to a file."""
    value = document.get(name)
    if not isinstance(value, str) or not value or (longest is not None and len(value) > longest):
        return None
    return None if re.search("[\ud800-\udfff]", value) else value


def _error_words(document: dict[str, Any], status: int) -> dict[str, None]:
    """The error words, in order; none if the document has no OAuth error (RFC 6749 5.2).

    `error` may be an object with `type` and `code`, and some say `error_code` instead. The status in words, such as
    `{"error": "Forbidden"}`, is what gateways write.
    """
    error, said = document.get("error"), [document.get("error_code")]
    said = [error.get("code"), error.get("type"), *said] if isinstance(error, dict) else [error, *said]
    words = [word for word in said if isinstance(word, str) and word]
    phrase = responses.get(status, "").casefold() if status != 401 else ""  # "unauthorized" is an OAuth server's, too
    return dict.fromkeys(word for word in words if word.casefold().replace("_", " ") != phrase)


def _interval(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return timedelta(seconds=DEFAULT_INTERVAL)
    return timedelta(seconds=min(max(value, SHORTEST_INTERVAL), LONGEST_INTERVAL))


def _retry_after(headers: httpx2.Headers) -> timedelta | None:
    """How long the server asks us to wait (RFC 9110 10.2.3): seconds, or a date by its own clock."""
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
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
