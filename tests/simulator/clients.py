"""The registered client: how it proves who it is, and the ID token that it gets."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from urllib.parse import unquote_plus

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from starlette.requests import Request

from .settings import Settings

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ALGORITHMS = ["RS256", "PS256", "ES256", "ES384"]


def client_problem(settings: Settings, request: Request, parameters: Mapping[str, str]) -> str | None:
    """Why this is not the registered client; None when it is (RFC 6749 2.3.1 and 3.2.1, RFC 7523 2.2)."""
    if settings.client_public_key is not None:
        return _assertion_problem(settings, request, parameters)
    client_id, secret = parameters.get("client_id", ""), parameters.get("client_secret", "")
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        if "client_secret" in parameters:
            return "Two ways of client authentication in one request."
        name, _, password = base64.b64decode(encoded).decode().partition(":")
        client_id, secret = unquote_plus(name), unquote_plus(password)
    if client_id != settings.client_id:
        return "Unknown client."
    if not hmac.compare_digest(secret.encode(), (settings.client_secret or "").encode()):
        return "The client secret is wrong."
    return None


def _assertion_problem(settings: Settings, request: Request, parameters: Mapping[str, str]) -> str | None:
    """RFC 7523 3: who it is from and about, whom it is for, until when, and that it is good once."""
    pem = settings.client_public_key or ""
    if parameters.get("client_assertion_type") != ASSERTION_TYPE:
        return "The client must present an assertion."
    key: RSAKey | ECKey
    try:
        key = RSAKey.import_key(pem)
    except JoseError:
        key = ECKey.import_key(pem)
    try:
        claims = jwt.decode(parameters.get("client_assertion", ""), key, algorithms=_ALGORITHMS).claims
    except (JoseError, ValueError):
        return "The assertion is not signed by the client's key."
    is_timely = time.time() < claims["exp"] <= time.time() + 600
    is_from_us = claims["iss"] == claims["sub"] == settings.client_id
    is_for_us = claims["aud"] == str(request.base_url).rstrip("/") + "/v1/oauth/token"
    return None if is_timely and is_from_us and is_for_us and claims["jti"] else "The assertion is not acceptable."


def unsigned_id_token(subject: str, client_id: str, issuer: str) -> str:
    """OIDC Core 2, with `alg: none`: it comes over the connection that it would be signed for."""
    claims = {"iss": issuer, "aud": client_id, "sub": f"id-of-{subject}", "email": subject, "email_verified": True}
    parts = ({"alg": "none"}, claims | {"exp": int(time.time()) + 600})
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts), ""]
    )
