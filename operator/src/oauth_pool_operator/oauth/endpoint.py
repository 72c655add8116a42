"""The only module that talks to a provider: device authorization, code exchange, refresh, assertion exchange, revocation.

Authlib builds the requests; this module has it speak JSON where the profile asks for it. What an answer means is in
`token_answer`, which makes Authlib strict and turns every failure into one of the errors of `errors`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.spec import Grant, WorkloadIdentity
from oauth_pool_operator.certificates import context_for
from oauth_pool_operator.config import ClientProfile, Profile
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.oauth.answer import (
    DeviceAuthorization,
    TokenAnswer,
    demand_device_authorization,
    demand_token,
    granted,
    unavailable,
)

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"

# Whoever waits for a revocation is a deleted object, or a person whose login was refused.
REVOCATION_SECONDS = 8.0


class TokenEndpoint:
    """One provider profile's endpoints.

    Requests raise `GrantRejected`, `ExchangeRejected` or `TokenEndpointUnavailable`, and nothing else.
    """

    def __init__(self, profile: Profile, *, user_agent: str) -> None:
        self._profile = profile
        self._user_agent = user_agent
        context = context_for(str(profile.ca_file) if profile.ca_file else None)
        # One transport for all requests: it keeps connections and the TLS context, the clients on it come and go.
        self._transport = httpx2.AsyncHTTPTransport(verify=context)

    async def close(self) -> None:
        await self._transport.aclose()

    def authorization_url(self, session: LoginSession) -> str:
        """Where the person logs in (RFC 6749 4.1.1, RFC 7636 4.3)."""
        profile = self._profile.authorization_code
        assert profile is not None
        url: str
        url, _ = self._client(profile).create_authorization_url(
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
        client = self._client(profile, extra)
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

    async def authorize_device(self) -> DeviceAuthorization:
        """What a person needs to log in on another device (RFC 8628 3.1)."""
        profile = self._profile.device_code
        assert profile is not None
        members = {"client_id": profile.client_id}
        if profile.scopes:
            members["scope"] = " ".join(profile.scopes)
        try:
            response: httpx2.Response = await self._client(profile).request(
                "POST",
                profile.device_authorization_endpoint,
                headers=self._headers(profile.token_headers),
                withhold_token=True,
                **{"json" if profile.token_body == "json" else "data": members},
            )
        except httpx2.HTTPError as error:
            raise unavailable(error, "the device authorization endpoint") from None
        return demand_device_authorization(response)

    async def exchange_device_code(self, device_code: str) -> TokenAnswer:
        """The device code for tokens (RFC 8628 3.4).

        `AuthorizationPending` until the person has decided; `AuthorizationEnded` when nothing will come of it.
        """
        profile = self._profile.device_code
        assert profile is not None
        client = self._client(profile, scope=False)
        try:
            return await _answer(
                lambda: client.fetch_token(
                    profile.token_endpoint,
                    grant_type=DEVICE_CODE,
                    device_code=device_code,
                    headers=self._headers(profile.token_headers),
                )
            )
        except ExchangeRejected as error:
            if error.word in ("authorization_pending", "slow_down"):
                raise AuthorizationPending(slow_down=error.word == "slow_down") from None
            if error.word in ("access_denied", "expired_token"):
                raise AuthorizationEnded(has_expired=error.word == "expired_token") from None
            raise

    async def refresh(self, refresh_token: str, grant: Grant = "AuthorizationCode") -> TokenAnswer:
        """A new access token (RFC 6749 6). The answer's refresh token, if any, replaces the one that was sent."""
        profile = self._profile.client(grant)
        assert profile is not None
        # `scope` is left out: without it the scope stays as granted (RFC 6749 6)
        client = self._client(profile, scope=False)
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

    async def revoke(self, token: str, grant: Grant = "AuthorizationCode") -> None:
        """Tell the provider that the token is no longer needed (RFC 7009). Nothing happens without an endpoint, and it
        does not take longer than `REVOCATION_SECONDS`."""
        profile = self._profile.client(grant)
        if profile is None or profile.revocation_endpoint is None:
            return
        client, endpoint = self._client(profile), profile.revocation_endpoint
        try:
            async with asyncio.timeout(REVOCATION_SECONDS):
                response = await client.revoke_token(
                    endpoint,
                    token=token,
                    token_type_hint="refresh_token",
                    headers=self._headers(profile.token_headers),
                )
        except TimeoutError:
            raise TokenEndpointUnavailable("the revocation endpoint did not answer in time", may_be_done=True) from None
        except httpx2.HTTPError as error:
            raise unavailable(error, "the revocation endpoint") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise TokenEndpointUnavailable(
                f"the revocation endpoint answered {response.status_code}", may_be_done=response.status_code != 429
            )
        if response.status_code >= 400:
            raise ExchangeRejected(f"the revocation endpoint answered {response.status_code}")

    def _plain_client(self, **settings: Any) -> AsyncOAuth2Client:
        client = AsyncOAuth2Client(
            transport=self._transport, timeout=self._profile.timeout_secs, trust_env=False, **settings
        )
        for hook in ("access_token_response", "refresh_token_response"):
            client.compliance_hook[hook].add(demand_token)
        return client

    def _client(
        self, profile: ClientProfile, extra: dict[str, str] | None = None, *, scope: bool = True
    ) -> AsyncOAuth2Client:
        """A client for one request: Authlib's keeps the last token in itself."""
        client = self._plain_client(
            client_id=profile.client_id,
            redirect_uri=getattr(profile, "redirect_uri", None),
            scope=" ".join(profile.scopes) or None if scope else None,
            code_challenge_method="S256",
            token_endpoint_auth_method="body",
            revocation_endpoint_auth_method="body",
        )
        body = _json_body if profile.token_body == "json" else _form_body
        client.register_client_auth_method(("body", body({"client_id": profile.client_id, **(extra or {})})))
        return client

    def _headers(self, configured: dict[str, str]) -> dict[str, str]:
        own = {"accept": "application/json", "user-agent": self._user_agent}
        return own | {name.lower(): value for name, value in configured.items()}


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


async def _answer(
    request: Callable[[], Awaitable[dict[str, Any]]], *, sent_refresh_token: str | None = None
) -> TokenAnswer:
    try:
        token = await request()
    except httpx2.HTTPError as error:
        raise unavailable(error, "the token endpoint") from None
    return granted(token, sent_refresh_token)
