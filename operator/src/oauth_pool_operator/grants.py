"""The only module that talks to a provider's token endpoint: code exchange, refresh, assertion exchange, revocation.

Authlib builds the requests; this module makes it strict (an answer is a token only if it says so), speaks JSON where
the profile asks for it, and turns every failure into one of the errors of `errors`, whose texts hold no secret.
"""

import json
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client

from .accounts import WorkloadIdentity
from .config import Profile
from .errors import ExchangeRejected, GrantRejected, TokenEndpointUnavailable
from .store import LoginSession

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

# RFC 6749 5.1 only recommends `expires_in`; this is assumed without it.
DEFAULT_LIFETIME = timedelta(hours=1)
LONGEST_LIFETIME = timedelta(days=366)
LONGEST_SUBJECT = 253  # what spec.expectedSubject can hold

# RFC 6749 5.2, RFC 7523 3.1: the words that may be repeated to a person. Anything else is "an unknown error".
_ERROR_WORDS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
        *("invalid_scope", "invalid_target", "access_denied"),
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


class TokenEndpoint:
    """One provider profile's endpoints.

    Requests raise `GrantRejected`, `ExchangeRejected` or `TokenEndpointUnavailable`, and nothing else.
    """

    def __init__(self, profile: Profile, *, user_agent: str) -> None:
        self._profile = profile
        self._user_agent = user_agent
        context = ssl.create_default_context(cafile=str(profile.ca_file) if profile.ca_file else None)
        # One transport for all requests: it keeps connections and the TLS context, the clients on it come and go.
        self._transport = httpx2.AsyncHTTPTransport(verify=context)

    async def close(self) -> None:
        await self._transport.aclose()

    def authorization_url(self, session: LoginSession) -> str:
        """Where the person logs in (RFC 6749 4.1.1, RFC 7636 4.3)."""
        profile = self._profile.authorization_code
        assert profile is not None
        url: str
        url, _ = self._client().create_authorization_url(
            profile.authorization_endpoint,
            state=session.state,
            code_verifier=session.verifier,
            **profile.authorization_parameters,
        )
        return url

    async def exchange_code(self, code: str, session: LoginSession) -> TokenAnswer:
        """The code for tokens (RFC 6749 4.1.3, RFC 7636 4.5)."""
        profile = self._profile.authorization_code
        assert profile is not None
        extra = {"state": session.state} if profile.send_state else {}
        client = self._client(extra)
        return await _answer(
            lambda: client.fetch_token(
                profile.token_endpoint,
                grant_type="authorization_code",
                code=code,
                redirect_uri=profile.redirect_uri,
                code_verifier=session.verifier,
                headers=self._headers(profile.token_headers),
            )
        )

    async def refresh(self, refresh_token: str) -> TokenAnswer:
        """A new access token (RFC 6749 6). The answer's refresh token, if any, replaces the one that was sent."""
        profile = self._profile.authorization_code
        assert profile is not None
        # `scope` is left out: without it the scope stays as granted (RFC 6749 6)
        client = self._client(scope=False)
        return await _answer(
            lambda: client.refresh_token(
                profile.token_endpoint, refresh_token=refresh_token, headers=self._headers(profile.token_headers)
            ),
            sent_refresh_token=refresh_token,
        )

    async def exchange_assertion(self, assertion: str, workload: WorkloadIdentity) -> TokenAnswer:
        """A ServiceAccount token for an access token (RFC 7523 2.1); unset members are left out."""
        profile = self._profile.workload_identity
        assert profile is not None
        members = {
            "assertion": assertion.strip(),
            "federation_rule_id": workload.federation_rule_id,
            "organization_id": workload.organization_id,
            "service_account_id": workload.service_account_id,
            "workspace_id": workload.workspace_id,
        }
        client = self._plain_client()
        client.register_client_auth_method(("none", _json_body({})))
        return await _answer(
            lambda: client.fetch_token(
                profile.token_endpoint,
                grant_type=JWT_BEARER,
                headers=self._headers(profile.token_headers),
                **{name: value for name, value in members.items() if value is not None},
            )
        )

    async def revoke(self, token: str) -> None:
        """Tell the provider that the token is no longer needed (RFC 7009). Nothing happens without an endpoint."""
        profile = self._profile.authorization_code
        if profile is None or profile.revocation_endpoint is None:
            return
        client, endpoint = self._client(), profile.revocation_endpoint
        try:
            response = await client.revoke_token(
                endpoint,
                token=token,
                token_type_hint="refresh_token",
                headers=self._headers(profile.token_headers),
            )
        except httpx2.HTTPError as error:
            raise _unavailable(error) from None
        if response.status_code >= 400:
            raise ExchangeRejected(f"the revocation endpoint answered {response.status_code}")

    def _plain_client(self, **settings: Any) -> AsyncOAuth2Client:
        client = AsyncOAuth2Client(
            transport=self._transport, timeout=self._profile.timeout_secs, trust_env=False, **settings
        )
        for hook in ("access_token_response", "refresh_token_response"):
            client.compliance_hook[hook].add(_demand_token)
        return client

    def _client(self, extra: dict[str, str] | None = None, *, scope: bool = True) -> AsyncOAuth2Client:
        """A client for one request: Authlib's keeps the last token in itself."""
        profile = self._profile.authorization_code
        assert profile is not None
        client = self._plain_client(
            client_id=profile.client_id,
            redirect_uri=profile.redirect_uri,
            scope=" ".join(profile.scopes) or None if scope else None,
            code_challenge_method="S256",
            token_endpoint_auth_method="body",
            revocation_endpoint_auth_method="body",
        )
        body = _json_body if profile.token_body == "json" else _form_body
        client.register_client_auth_method(("body", body({"client_id": profile.client_id, **(extra or {})})))
        return client

    def _headers(self, configured: dict[str, str]) -> dict[str, str]:
        return {"accept": "application/json", "user-agent": self._user_agent, **configured}


_AuthMethod = Callable[[Any, str, str, Any, Any], tuple[str, Any, Any]]


def _json_body(extra: dict[str, str]) -> _AuthMethod:
    """Authlib's extension point for client authentication, used to send the form as JSON."""

    def prepare(client: Any, method: str, uri: str, headers: Any, body: Any) -> tuple[str, Any, Any]:
        members = {**_members(body), **extra}
        headers["content-type"] = "application/json"
        return uri, headers, json.dumps(members)  # ASCII: Authlib counts characters for content-length

    return prepare


def _form_body(extra: dict[str, str]) -> _AuthMethod:
    def prepare(client: Any, method: str, uri: str, headers: Any, body: Any) -> tuple[str, Any, Any]:
        members = {**_members(body), **extra}
        return uri, headers, str(httpx2.QueryParams(members))

    return prepare


def _members(body: Any) -> dict[str, str]:
    text = body.decode() if isinstance(body, bytes) else body
    return dict(parse_qsl(text, keep_blank_values=True))


def _demand_token(response: httpx2.Response) -> httpx2.Response:
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
    word = _error_word(document)
    if response.status_code == 429 or response.status_code >= 500:
        raise TokenEndpointUnavailable(
            f"the token endpoint answered {response.status_code}",
            may_be_done=response.status_code != 429,
            retry_after=_retry_after(response.headers.get("retry-after")),
        )
    if response.status_code == 200:
        raise TokenEndpointUnavailable("the token endpoint answered 200 without an access token", may_be_done=True)
    if word == "invalid_grant":
        raise GrantRejected("the token endpoint answered invalid_grant")
    raise ExchangeRejected(f"the token endpoint answered {response.status_code} {word}")


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
    return error if isinstance(error, str) and error in _ERROR_WORDS else "(an unknown error)"


def _lifetime(value: Any) -> timedelta:
    """`expires_in` (RFC 6749 5.1: seconds), also as text; without a sense it counts as missing."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return DEFAULT_LIFETIME
    return min(timedelta(seconds=min(value, LONGEST_LIFETIME.total_seconds())), LONGEST_LIFETIME)


def _retry_after(value: str | None) -> timedelta | None:
    """The delay in seconds (RFC 9110 10.2.3); for the date form the caller's own backoff does."""
    if value is None or not re.fullmatch(r"[0-9]+", value):
        return None
    return timedelta(seconds=min(int(value[:9]), 24 * 3600))


async def _answer(
    request: Callable[[], Awaitable[dict[str, Any]]], *, sent_refresh_token: str | None = None
) -> TokenAnswer:
    try:
        token = await request()
    except httpx2.HTTPError as error:
        raise _unavailable(error) from None
    refresh_token = token.get("refresh_token")
    return TokenAnswer(
        access_token=token["access_token"],
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else sent_refresh_token,
        lifetime=timedelta(seconds=token["lifetime_seconds"]),
        subject=_subject(token),
    )


def _unavailable(error: httpx2.HTTPError) -> TokenEndpointUnavailable:
    """The kind of failure in our own words; the library's text may name a URL."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return TokenEndpointUnavailable("the token endpoint cannot be reached", may_be_done=False)
    if isinstance(error, httpx2.TimeoutException):
        return TokenEndpointUnavailable("the token endpoint did not answer in time", may_be_done=True)
    if isinstance(error, httpx2.HTTPStatusError):
        return TokenEndpointUnavailable(f"the token endpoint answered {error.response.status_code}", may_be_done=True)
    return TokenEndpointUnavailable("the connection to the token endpoint was cut", may_be_done=True)


def _subject(token: dict[str, Any]) -> str | None:
    """Who logged in, if the answer says so: a person before an organization, an address before a number."""
    for member in ("account", "organization"):
        identity = token.get(member)
        for key in ("email_address", "email", "uuid", "id", "name"):
            if isinstance(identity, dict) and isinstance(identity.get(key), str) and identity[key]:
                return str(identity[key])[:LONGEST_SUBJECT]
    return None
