"""`POST /v1/oauth/token`, `/device_authorization` and `/revoke`: reads the request, applies the switches, words the answer.

What is good and what is not is decided in `grants` and `assertions`.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from .accounts import Accounts, identity
from .assertions import AssertionRejected, AssertionVerifier, IssuerUnavailable, unverified_subject
from .bearer import OAUTH_BETA, betas
from .clients import client_problem, unsigned_id_token
from .device import PATH as DEVICE_PATH
from .device import DeviceLogins
from .exchange import exchange_of, pause
from .grants import Grants, IssuedTokens, TokenError
from .known_secrets import Kind, KnownSecrets
from .settings import Settings
from .switches import SwitchBoard, Switches

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FEDERATION_BETA = "oidc-federation-2026-04-01"

# RFC 6749 5.1
_HEADERS = {"cache-control": "no-store", "pragma": "no-cache"}
_SECRET_PARAMETERS: dict[str, Kind] = {
    "code": "code",
    "device_code": "device_code",
    "code_verifier": "code_verifier",
    "state": "state",
    "refresh_token": "refresh_token",
    "assertion": "assertion",
}

Parameters = Mapping[str, str]


class TokenEndpoint:
    def __init__(
        self,
        *,
        settings: Settings,
        grants: Grants,
        assertions: AssertionVerifier,
        device_logins: DeviceLogins,
        accounts: Accounts,
        switches: SwitchBoard,
        known_secrets: KnownSecrets,
    ) -> None:
        self._settings = settings
        self._grants = grants
        self._assertions = assertions
        self._device_logins = device_logins
        self._accounts = accounts
        self._switches = switches
        self._known_secrets = known_secrets

    async def token(self, request: Request) -> Response:
        """RFC 6749 4.1.3 and 6, RFC 7523 2.1."""
        try:
            parameters = await self._parameters(request, self._settings.token_bodies)
            for name, kind in _SECRET_PARAMETERS.items():
                self._known_secrets.add(kind, parameters.get(name, ""))
            return await self._grant(request, parameters)
        except TokenError as error:
            return _refusal(error)

    async def _grant(self, request: Request, parameters: Parameters) -> Response:
        """The answer, unless a switch has something else in mind before or after the redeeming."""
        exchange = exchange_of(request)
        subject = self._subject(parameters)
        exchange.record.subject = subject
        switches = self._switches.get(subject)
        await pause(switches.token_delay)
        if self._switches.spend("token_drops_before_redeem", subject):
            await exchange.drop()
        if not switches.token_failure_after_redeem and self._switches.spend("token_failures", subject):
            return _failure(switches)

        issued = await self._redeem(request, parameters, switches)

        if switches.token_failure_after_redeem and self._switches.spend("token_failures", subject):
            return _failure(switches)
        if self._switches.spend("token_drops_after_redeem", subject):
            await exchange.drop()
        self._accounts.add(issued.grant.subject)
        answer = JSONResponse(self._answer(issued, switches, parameters), switches.token_status, _HEADERS)
        return _dripping(answer, switches.token_drip) if switches.token_drip else answer

    async def _redeem(self, request: Request, parameters: Parameters, switches: Switches) -> IssuedTokens:
        match _required(parameters, "grant_type"):
            case "authorization_code":
                return self._redeem_code(request, parameters, switches)
            case "refresh_token":
                self._check_client(request, parameters)
                value = _required(parameters, "refresh_token")
                return self._grants.refresh(value, scope=parameters.get("scope"), switches=switches)
            case "urn:ietf:params:oauth:grant-type:jwt-bearer":
                return await self._redeem_assertion(request, parameters, switches)
            case "urn:ietf:params:oauth:grant-type:device_code":
                self._check_client(request, parameters)
                return self._device_logins.redeem(_required(parameters, "device_code"), switches)
            case other:
                raise TokenError("unsupported_grant_type", f"grant_type {other!r} is not supported.")

    async def device_authorization(self, request: Request) -> Response:
        """RFC 8628 3.1 and 3.2. `token_failures` and `token_delay` are for this endpoint, too."""
        try:
            parameters = await self._parameters(request, self._settings.token_bodies)
            self._check_client(request, parameters)
            await pause(self._switches.get().token_delay)
            if self._switches.spend("token_failures"):
                return _failure(self._switches.get())
            login = self._device_logins.open(parameters.get("scope", ""))
        except TokenError as error:
            return _refusal(error)
        verification_uri = f"{str(request.base_url).rstrip('/')}{DEVICE_PATH}"
        document = {
            "device_code": login.device_code,
            "user_code": login.user_code,
            "verification_uri": verification_uri,
            "verification_uri_complete": f"{verification_uri}?user_code={login.user_code}",
            "expires_in": self._switches.get().device_code_lifetime,
            "interval": login.interval,
        }
        return JSONResponse(document, headers=_HEADERS)

    def _redeem_code(self, request: Request, parameters: Parameters, switches: Switches) -> IssuedTokens:
        self._check_client(request, parameters)
        verifier = _required(parameters, "code_verifier")
        # RFC 7636 4.1
        if not re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier):
            raise TokenError("invalid_request", "code_verifier must be 43 to 128 unreserved characters.")
        if switches.state_required:
            _required(parameters, "state")
        return self._grants.redeem_code(
            _required(parameters, "code"),
            redirect_uri=_required(parameters, "redirect_uri"),
            code_verifier=verifier,
            state=parameters.get("state"),
            switches=switches,
        )

    async def _redeem_assertion(self, request: Request, parameters: Parameters, switches: Switches) -> IssuedTokens:
        """RFC 7523 2.1 with the provider's own members: the rule and the organisation it belongs to."""
        missing = {OAUTH_BETA, FEDERATION_BETA} - set(betas(request))
        if missing:
            raise TokenError("invalid_request", f"anthropic-beta must contain {' and '.join(sorted(missing))}.")
        rejected = switches.federation_rejection_status
        assertion = _required(parameters, "assertion")
        rule = self._settings.federation_rule(_required(parameters, "federation_rule_id"))
        if rule is None or _required(parameters, "organization_id") != rule.organization_id:
            raise TokenError("invalid_grant", "No such federation rule in this organization.", status=rejected)
        service_account = parameters.get("service_account_id")
        if service_account is not None and service_account != rule.service_account_id:
            raise TokenError("invalid_grant", "The federation rule is not for this service account.", status=rejected)
        workspace = parameters.get("workspace_id")
        if workspace is not None and workspace != "default" and not workspace.startswith("wrkspc_"):
            raise TokenError("invalid_request", "workspace_id must be wrkspc_… or default.")
        try:
            subject = await self._assertions.verify(assertion, rule, once=switches.assertions_once)
        except AssertionRejected as error:
            raise TokenError("invalid_grant", f"The assertion was rejected: {error}.", status=rejected) from None
        except IssuerUnavailable as error:
            raise TokenError("temporarily_unavailable", f"{error}.", status=503) from None
        return self._grants.federate(
            subject, organization_id=rule.organization_id, lifetime=rule.lifetime, switches=switches
        )

    async def revoke(self, request: Request) -> Response:
        """RFC 7009 2: also for a token that is unknown or dead, the answer is 200. The body may be a form or JSON."""
        try:
            parameters = await self._parameters(request, ("json", "form"))
            value = _required(parameters, "token")
            if "client_id" in parameters:
                self._check_client(request, parameters)
        except TokenError as error:
            return _refusal(error)
        exchange_of(request).record.subject = self._grants.subject_of_token(value)
        if exchange_of(request).record.subject is None:
            is_access_token = parameters.get("token_type_hint") == "access_token"
            self._known_secrets.add("access_token" if is_access_token else "refresh_token", value)
        self._grants.revoke_token(value)
        return JSONResponse({}, headers=_HEADERS)

    def _subject(self, parameters: Parameters) -> str | None:
        """Whose request this is, before anything is redeemed."""
        if "code" in parameters:
            return self._grants.subject_of_code(parameters["code"])
        if "device_code" in parameters:
            return self._device_logins.subject_of(parameters["device_code"])
        if "refresh_token" in parameters:
            return self._grants.subject_of_refresh_token(parameters["refresh_token"])
        return unverified_subject(parameters.get("assertion", ""))

    def _check_client(self, request: Request, parameters: Parameters) -> None:
        """RFC 6749 5.2 lets an unknown client be a 401."""
        if (problem := client_problem(self._settings, request, parameters)) is not None:
            raise TokenError("invalid_client", problem, status=401)

    def _answer(self, issued: IssuedTokens, switches: Switches, parameters: Parameters) -> dict[str, Any]:
        """RFC 6749 5.1 with the provider's `account` and `organization`, or with an ID token instead of them."""
        grant, client_id = issued.grant, self._settings.client_id
        document: dict[str, Any] = {
            "token_type": switches.token_type,
            "access_token": issued.access_token,
            "expires_in": issued.expires_in,
            "scope": grant.scope if switches.granted_scope is None else switches.granted_scope,
        }
        if switches.id_token:
            document["id_token"] = unsigned_id_token(grant.subject, client_id, str(self._settings.audience))
        else:
            document |= identity(grant.subject, grant.organization_id)
        is_login = "code" in parameters or "device_code" in parameters
        if issued.refresh_token is not None and not (is_login and switches.login_without_refresh_token):
            document["refresh_token"] = issued.refresh_token
        return document

    async def _parameters(self, request: Request, kinds: tuple[str, ...]) -> Parameters:
        """The members of the body, all of them texts and none twice (RFC 6749 3.2)."""
        body = await request.body()
        media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type == "application/json" and "json" in kinds:
            pairs = _json_pairs(body)
        elif media_type == "application/x-www-form-urlencoded" and "form" in kinds:
            pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        else:
            raise TokenError("invalid_request", f"The body must be {' or '.join(kinds)}, not {media_type!r}.")
        if len({name for name, _ in pairs}) != len(pairs):
            raise TokenError("invalid_request", "A parameter is given more than once.")
        return dict(pairs)


def _json_pairs(body: bytes) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(body, object_pairs_hook=list)
    except ValueError:
        raise TokenError("invalid_request", "The body is not valid JSON.") from None
    if not body.lstrip().startswith(b"{"):
        raise TokenError("invalid_request", "The body is not a JSON object.")
    wrong = sorted(name for name, value in pairs if not isinstance(value, str))
    if wrong:
        raise TokenError("invalid_request", f"{wrong[0]} must be a string.")
    return [(name, value) for name, value in pairs]


def _required(parameters: Parameters, name: str) -> str:
    value = parameters.get(name, "")
    if not value:
        raise TokenError("invalid_request", f"{name} is missing.")
    return value


def _refusal(error: TokenError) -> Response:
    """RFC 6749 5.2."""
    document = {"error": error.error, "error_description": error.description}
    return JSONResponse(document, error.status, _HEADERS)


def _failure(switches: Switches) -> Response:
    """What the switch `token_failures` asked for; these are not RFC 6749's own answers."""
    status, word = switches.token_failure_status, switches.token_failure_error
    error = {400: "invalid_request", 401: "invalid_client", 403: "access_denied", 429: "rate_limit_error"}
    headers = dict(_HEADERS)
    if status in (429, 503) and switches.token_failure_retry_after is not None:
        headers["retry-after"] = str(switches.token_failure_retry_after)
    if word == "":
        return HTMLResponse("<html><title>Just a moment...</title></html>", status, headers)
    usual = error.get(status, "server_error")
    document = {"error": usual if word is None else word, "error_description": "Made to fail by a switch."}
    return JSONResponse(document, status, headers)


def _dripping(answer: Response, seconds: float) -> Response:
    """The same, byte by byte."""

    async def body() -> AsyncIterator[bytes]:
        for byte in bytes(answer.body):
            yield bytes((byte,))
            await asyncio.sleep(seconds)

    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return StreamingResponse(body(), answer.status_code, headers)
