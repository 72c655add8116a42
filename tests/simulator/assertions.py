"""Verifies ServiceAccount tokens as the provider does: with the keys that the API server publishes.

Kubernetes documents the two steps as "ServiceAccount issuer discovery"; the format is that of OpenID Connect
Discovery 1.0 section 4.
"""

import base64
import json
import logging
import ssl
from fnmatch import fnmatchcase
from typing import Any

import httpx2
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from .clock import Clock
from .settings import FederationRule, Settings

_log = logging.getLogger(__name__)

# What a kube-apiserver signs with, by the type of its key.
_ALGORITHMS = ["RS256", "ES256", "ES384", "ES512"]
_TIMEOUT = 10.0


class AssertionRejected(Exception):
    """The assertion is not one that the rule lets in; the text says why and holds nothing of it."""


class IssuerUnavailable(Exception):
    """The issuer's keys could not be had; nothing is known about the assertion."""


class AssertionVerifier:
    """Keeps the issuer's keys and fetches them again when a token was signed with one it does not know."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._keys: KeySet | None = None
        self._used: set[str] = set()

    async def verify(self, assertion: str, rule: FederationRule, *, once: bool) -> str:
        """The token's subject. RFC 7523 3: signature, `iss`, `aud`, `exp`, `nbf`, `sub`; `once`: not if it was used before."""
        claims = await self._signed_claims(assertion)
        now = self._clock.now()
        _demand(claims.get("iss") == self._settings.issuer, "iss is not the issuer of this provider's configuration")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        _demand(self._settings.audience in audiences, "aud does not name this provider")
        expires = claims.get("exp")
        _demand(isinstance(expires, int | float) and now < expires, "the assertion has expired")
        not_before = claims.get("nbf", now)
        _demand(isinstance(not_before, int | float) and not_before <= now, "the assertion is not valid yet")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not fnmatchcase(subject, rule.subject):
            raise AssertionRejected(f"sub does not match federation rule {rule.id}")
        _demand(not (once and assertion in self._used), "the assertion was used before")
        self._used.add(assertion)
        return subject

    async def _signed_claims(self, assertion: str) -> dict[str, Any]:
        """The claims, once the signature was found good; with fresh keys if these do not know the key's id."""
        keys, are_fresh = self._keys, False
        if keys is None:
            keys, are_fresh = await self._fetch_keys(), True
        try:
            try:
                return jwt.decode(assertion, keys, _ALGORITHMS).claims
            except InvalidKeyIdError:
                if are_fresh:
                    raise
                keys = await self._fetch_keys()
                return jwt.decode(assertion, keys, _ALGORITHMS).claims
        except (JoseError, ValueError) as error:
            raise AssertionRejected(f"the assertion is not a token signed by the issuer ({_kind(error)})") from None

    async def _fetch_keys(self) -> KeySet:
        settings = self._settings
        try:
            if settings.jwks_file is not None:
                document = json.loads(settings.jwks_file.read_bytes())
            elif settings.issuer is not None:
                document = await _discover(settings.issuer, settings)
            else:
                raise AssertionRejected("no issuer is configured")
            self._keys = KeySet.import_key_set(document)
        except (httpx2.HTTPError, OSError, ValueError, KeyError, TypeError, JoseError) as error:
            _log.warning("the issuer's keys could not be fetched: %s: %s", type(error).__name__, error)
            raise IssuerUnavailable("the issuer's keys could not be fetched") from error
        return self._keys


def unverified_subject(assertion: str) -> str | None:
    """Whose switches apply; decides nothing else."""
    try:
        payload = assertion.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sub"])
    except (ValueError, IndexError, KeyError, TypeError):
        return None


async def _discover(issuer: str, settings: Settings) -> Any:
    """`<issuer>/.well-known/openid-configuration` → `jwks_uri` → keys."""
    verify = ssl.create_default_context(cafile=settings.issuer_ca_file) if issuer.startswith("https:") else False
    async with httpx2.AsyncClient(verify=verify, timeout=_TIMEOUT, trust_env=False) as client:
        response = await client.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        configuration = response.raise_for_status().json()
        # OpenID Connect Discovery 4.3: the document must be the issuer's own
        if configuration["issuer"] != issuer:
            raise ValueError("the discovery document is another issuer's")
        response = await client.get(configuration["jwks_uri"])
        return response.raise_for_status().json()


def _demand(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionRejected(otherwise)


def _kind(error: Exception) -> str:
    return getattr(error, "error", None) or type(error).__name__
