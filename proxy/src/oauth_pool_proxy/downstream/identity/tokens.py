"""Verifies ServiceAccount tokens offline: signature, issuer, audience and time (RFC 7515, RFC 7519).

There are two steps, as the signature is the expensive part. `read` refuses what can be refused without it, in a few microseconds.
`Claim.verified` checks that the API server has signed the token. Unsigned content is used for nothing else.
"""

import re
import warnings
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, RSAKey

from oauth_pool_proxy.downstream.identity.known import MOST_CREDENTIAL_BYTES

LEEWAY = 60.0
"""How many seconds clocks may differ, at both ends of a token's lifetime."""
ALGORITHMS = frozenset(("RS256", "ES256", "ES384", "ES512"))
"""The algorithms of API servers. None of them can sign with a public key, and none is "none" (RFC 8725 3.1)."""

_MOST_KID_CHARACTERS = 256
_SUBJECT = re.compile(
    r"system:serviceaccount:([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?):([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)"
)
_MARK = b"system:serviceaccount:"

Key = RSAKey | ECKey
Keys = Mapping[str, Key]
"""Keys by id (`kid`)."""


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    nbf: float = 0


class _Jwk(msgspec.Struct):
    kty: str
    kid: str = ""


class _JwkSet(msgspec.Struct):
    keys: list[msgspec.Raw]


_header, _claims = msgspec.json.Decoder(_Header), msgspec.json.Decoder(_Claims)
_jwk, _jwk_set = msgspec.json.Decoder(_Jwk), msgspec.json.Decoder(_JwkSet)
_members = msgspec.json.Decoder(dict[str, str | list[str]])
_MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError)


class TokenRefused(Exception):
    """Says what is wrong with the token, worded for its sender. The message contains nothing of the token."""

    def __init__(self, why: str, *, is_final: bool = True) -> None:
        super().__init__(why)
        self.is_final = is_final
        """Whether the same token stays refused."""


class KeyUnknown(Exception):
    """The token is signed with a key whose id is unknown."""

    def __init__(self, kid: str) -> None:
        super().__init__("a key that is not known")
        self.kid = kid


@dataclass(frozen=True, slots=True)
class Identity:
    name: str
    """`namespace/serviceaccount`."""
    until: float
    """When the token ends, in seconds since 1970, including the leeway."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a token says about itself, before its signature is checked."""

    _token: bytes = field(repr=False)
    _algorithm: str
    _key: Key = field(repr=False)
    _rules: "Rules"
    _now: float

    def verified(self) -> Identity:
        """The identity. Raises `TokenRefused` if the API server has not signed it."""
        try:
            signed = jws.deserialize_compact(self._token, self._key, algorithms=[self._algorithm])
        except (JoseError, ValueError, TypeError):
            raise TokenRefused("its signature is not the API server's") from None
        return self._rules.identity(signed.payload or b"", self._now)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must satisfy, apart from its signature."""

    issuer: str
    audience: str

    def identity(self, payload: bytes, now: float) -> Identity:
        try:
            claims = _claims.decode(payload)
        except _MALFORMED:
            raise TokenRefused("it is not a ServiceAccount's") from None
        if claims.iss != self.issuer:
            raise TokenRefused("it is of another cluster")
        if self.audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
            raise TokenRefused(f"it is not for the audience {self.audience}")
        if claims.exp + LEEWAY <= now:
            raise TokenRefused("it has expired; the kubelet puts a new one into its file in time, so read that again")
        if claims.nbf - LEEWAY > now:
            raise TokenRefused("it is not valid yet", is_final=False)
        subject = _SUBJECT.fullmatch(claims.sub)
        if subject is None:
            raise TokenRefused("it is not a ServiceAccount's")
        return Identity(f"{subject[1]}/{subject[3]}", claims.exp + LEEWAY)


def is_token(credential: bytes) -> bool:
    """Whether it has the form of a JWT. In base64url, a JSON object begins with `ey`."""
    return credential.startswith(b"ey") and credential.count(b".") == 2


def is_of_a_service_account(credential: bytes) -> bool:
    """Whether it claims to be a ServiceAccount's, of any cluster, audience and time: only API servers should get those.
    Also true for a token that is too long to check, since it might be one.
    """
    if not is_token(credential):
        return False
    if len(credential) > MOST_CREDENTIAL_BYTES:
        return True
    try:
        return _MARK in _decoded(credential.split(b".")[1])
    except ValueError:
        return False


def read(token: bytes, keys: Keys, rules: Rules, now: float) -> Claim:
    """The token's claim. Raises `TokenRefused`, or `KeyUnknown` if the token may be good. `now` is in seconds since 1970."""
    if len(token) > MOST_CREDENTIAL_BYTES:
        raise TokenRefused(f"it is longer than {MOST_CREDENTIAL_BYTES} bytes")
    header_part, payload_part, _ = token.split(b".")
    try:
        header = _header.decode(_decoded(header_part))
        payload = _decoded(payload_part)
    except _MALFORMED:
        raise TokenRefused("it is not a JWT") from None
    if header.alg not in ALGORITHMS:
        raise TokenRefused("its algorithm is none that API servers sign with")
    rules.identity(payload, now)
    key = keys.get(header.kid)
    if key is None:
        if not header.kid or len(header.kid) > _MOST_KID_CHARACTERS:
            raise TokenRefused("it does not say which key it is signed with")
        raise KeyUnknown(header.kid)
    return Claim(token, header.alg, key, rules, now)


def keys_of(document: bytes) -> dict[str, Key]:
    """The public keys in a JWK set (RFC 7517) of kinds that API servers use. Raises `ValueError` if there are none."""
    keys: dict[str, Key] = {}
    for raw in _keys_in(document):
        # An unreadable key does not affect the others. A warning means that a key is too short (RFC 7518 3.3: MUST).
        with (
            suppress(JoseError, ValueError, TypeError, RecursionError, SecurityWarning),
            warnings.catch_warnings(action="error", category=SecurityWarning),
        ):
            jwk = _jwk.decode(raw)
            if jwk.kid and jwk.kty == "RSA":
                keys[jwk.kid] = RSAKey.import_key(_members.decode(raw))
            elif jwk.kid and jwk.kty == "EC":
                keys[jwk.kid] = ECKey.import_key(_members.decode(raw))
    if not keys:
        raise ValueError("no key in it")
    return keys


def _keys_in(document: bytes) -> list[msgspec.Raw]:
    try:
        return _jwk_set.decode(document).keys
    except RecursionError:
        raise ValueError("no set of keys") from None


def _decoded(part: bytes) -> bytes:
    """Base64url without padding (RFC 7515 2)."""
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4))
