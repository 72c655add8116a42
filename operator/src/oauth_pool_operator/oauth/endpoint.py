"""The only module that talks to a provider: device authorization, code exchange, refresh, assertion exchange, revocation.

It words the requests. How they travel is in `transport`, how the client proves who it is in `client_auth`, and what an answer
means in `answer`.
"""

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import urlencode

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.spec import Grant, WorkloadIdentity
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.oauth.answer import (
    DEAD_CODE,
    DEAD_REFRESH_TOKEN,
    DeviceAuthorization,
    TokenAnswer,
    demand_success,
    read_device_authorization,
    read_tokens,
)
from oauth_pool_operator.oauth.client_auth import Proof, prove
from oauth_pool_operator.oauth.profiles import ClientProfile, Profile
from oauth_pool_operator.oauth.transport import Answer, Transport
from oauth_pool_operator.secret_files import SecretUnreadable

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"

TOKEN_ENDPOINT = "the token endpoint"

# Whoever waits for a revocation is a deleted object, or a person whose login was refused.
REVOCATION_SECONDS = 8.0


class TokenEndpoint:
    """One provider profile's endpoints.

    Requests raise `GrantRejected`, `ExchangeRejected` (of which `UnusableAnswer` is one) or `TokenEndpointUnavailable`, and
    nothing else. None takes longer than the profile's `timeout_secs`, body included.
    """

    def __init__(self, profile: Profile, *, user_agent: str) -> None:
        self._profile = profile
        self._user_agent = user_agent
        self._transport = Transport(profile)

    async def close(self) -> None:
        await self._transport.close()

    def authorization_url(self, session: LoginSession) -> str:
        """Where the person logs in (RFC 6749 4.1.1, RFC 7636 4.3)."""
        profile = self._profile.authorization_code
        assert profile is not None
        url: str = prepare_grant_uri(
            profile.authorization_endpoint,
            client_id=profile.client_id,
            response_type="code",
            redirect_uri=profile.redirect_uri,
            scope=" ".join(profile.scopes),
            state=session.state,
            code_challenge=create_s256_code_challenge(session.verifier),
            code_challenge_method="S256",
            **profile.authorization_parameters,
        )
        return url

    async def exchange_code(self, code: str, session: LoginSession) -> TokenAnswer:
        """The code for tokens (RFC 6749 4.1.3, RFC 7636 4.5)."""
        profile = self._profile.authorization_code
        assert profile is not None
        members = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": profile.redirect_uri,
            "code_verifier": session.verifier,
            **({"state": session.state} if profile.send_state else {}),
        }
        answer = await self._ask(profile, profile.token_endpoint, TOKEN_ENDPOINT, members)
        return read_tokens(answer, client=profile, dead_words=DEAD_CODE)

    async def authorize_device(self) -> DeviceAuthorization:
        """What a person needs to log in on another device (RFC 8628 3.1)."""
        profile = self._profile.device_code
        assert profile is not None
        members = {"scope": " ".join(profile.scopes)} if profile.scopes else {}
        url, what = profile.device_authorization_endpoint, "the device authorization endpoint"
        return read_device_authorization(await self._ask(profile, url, what, members))

    async def exchange_device_code(self, device_code: str) -> TokenAnswer:
        """The device code for tokens (RFC 8628 3.4).

        `AuthorizationPending` until the person has decided; `AuthorizationEnded` when nothing will come of it.
        """
        profile = self._profile.device_code
        assert profile is not None
        members = {"grant_type": DEVICE_CODE, "device_code": device_code}
        answer = await self._ask(profile, profile.token_endpoint, TOKEN_ENDPOINT, members)
        try:
            return read_tokens(answer, client=profile, dead_words=DEAD_CODE)
        except ExchangeRejected as error:
            if error.word in ("authorization_pending", "slow_down"):
                raise AuthorizationPending(slow_down=error.word == "slow_down") from None
            if error.word in ("access_denied", "expired_token", "token_expired"):
                raise AuthorizationEnded(has_expired=error.word != "access_denied") from None
            raise

    async def refresh(self, refresh_token: str, grant: Grant = "AuthorizationCode") -> TokenAnswer:
        """A new access token (RFC 6749 6). The answer's refresh token, if any, replaces the one that was sent."""
        profile = self._profile.client(grant)
        assert profile is not None
        # `scope` is left out: without it the scope stays as granted (RFC 6749 6)
        members = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        answer = await self._ask(profile, profile.token_endpoint, TOKEN_ENDPOINT, members)
        dead_words = DEAD_REFRESH_TOKEN.union(self._profile.dead_grant_errors)
        return read_tokens(answer, client=profile, dead_words=dead_words, sent_refresh_token=refresh_token)

    async def exchange_assertion(self, assertion: str, workload: WorkloadIdentity) -> TokenAnswer:
        """A ServiceAccount token for an access token (RFC 7523 2.1); unset members are left out."""
        profile = self._profile.workload_identity
        assert profile is not None
        members = {
            "grant_type": JWT_BEARER,
            "assertion": assertion.strip(),
            "federation_rule_id": workload.federation_rule_id,
            "organization_id": workload.organization_id,
            "service_account_id": workload.service_account_id,
            "workspace_id": workload.workspace_id,
        }
        said = {name: value for name, value in members.items() if value is not None}
        headers, body = self._headers(profile.token_headers), _json(said)
        return read_tokens(
            await self._transport.post(profile.token_endpoint, TOKEN_ENDPOINT, body=body, headers=headers)
        )

    async def revoke(self, token: str, grant: Grant = "AuthorizationCode") -> None:
        """Tell the provider that the token is no longer needed (RFC 7009). Nothing happens without an endpoint, and it
        does not take longer than `REVOCATION_SECONDS`."""
        profile = self._profile.client(grant)
        if profile is None or profile.revocation_endpoint is None:
            return
        members, what = {"token": token, "token_type_hint": "refresh_token"}, "the revocation endpoint"
        answer = await self._ask(profile, profile.revocation_endpoint, what, members, seconds=REVOCATION_SECONDS)
        demand_success(answer, what)

    async def _ask(
        self, client: ClientProfile, url: str, what: str, members: Mapping[str, str], *, seconds: float | None = None
    ) -> Answer:
        """The answer to a request that the client makes as itself."""
        try:
            proof = await asyncio.to_thread(prove, client) if client.authentication != "none" else prove(client)
        except SecretUnreadable as error:
            raise TokenEndpointUnavailable(f"{what} was not asked: {error}", may_be_done=False) from None
        said, is_json = {**members, **proof.members}, client.token_body == "json"
        body = _json(said) if is_json else urlencode(said).encode()
        headers = self._headers(client.token_headers, proof, is_json=is_json)
        return await self._transport.post(url, what, body=body, headers=headers, seconds=seconds)

    def _headers(
        self, configured: Mapping[str, str], proof: Proof | None = None, *, is_json: bool = True
    ) -> dict[str, str]:
        own = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": self._user_agent,
            "content-type": "application/json" if is_json else "application/x-www-form-urlencoded",
        }
        given = {name.lower(): value for name, value in configured.items()}
        return own | given | (proof.headers if proof is not None else {})


def _json(members: Mapping[str, str]) -> bytes:
    return json.dumps(members).encode()
