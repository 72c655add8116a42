"""Opens what the operator has sealed for one account: one value in the ConfigMaps `oauth-tokens`, the wire format.

An unusable entry affects only its own account. Fields that this version does not know are ignored. A higher `version` means that
ignoring them is no longer safe. Sealed content is never in a message.
"""

import base64
from enum import StrEnum

import msgspec

from oauth_pool_proxy.errors import TokenInvalid
from oauth_pool_proxy.pool.account import AccessToken, Account
from oauth_pool_proxy.pool.hpke import BoxRefused
from oauth_pool_proxy.pool.index import Count
from oauth_pool_proxy.pool.key_pair import KeyPair
from oauth_pool_proxy.pool.token_document import parse_token

VERSION = 1


class Why(StrEnum):
    """Why an account's token could not be had, in the order of the checks: the later, the closer it came."""

    MISSING = "missing"
    """The account has no entry."""
    INVALID = "invalid"
    """This version cannot read the entry."""
    OTHER_TOKEN = "other_token"
    """The entry is for another token than the index says."""
    NOT_SEALED = "not_sealed"
    """The token is sealed, but not to this proxy."""
    OTHER_KEY = "other_key"
    """It is sealed to this proxy, but to a key that it does not have."""
    REFUSED = "refused"
    """The box does not open, or its content does not match its label."""


ORDER = list(Why)


class SealedTokenRefused(TokenInvalid):
    """One entry cannot be used."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


class _Box(msgspec.Struct):
    key: str
    box: str


class _Entry(msgspec.Struct):
    version: int
    name: str
    uid: str
    generation: Count
    fingerprint: str
    sealed: dict[str, msgspec.Raw]
    """The boxes by pod name. Only this pod's box is decoded: there may be many."""


class _Versioned(msgspec.Struct):
    version: int


_entry = msgspec.json.Decoder(_Entry)
_versioned = msgspec.json.Decoder(_Versioned)
_box = msgspec.json.Decoder(_Box)


def open_entry(text: str, account: Account, pod: str, keys: KeyPair) -> AccessToken:
    """The access token that the index announces for the account. Raises `SealedTokenRefused`."""
    index, entry = account.entry, _parsed(text, account.name)
    if (entry.uid, entry.generation, entry.fingerprint) != (account.uid, index.generation, index.fingerprint):
        raise SealedTokenRefused(Why.OTHER_TOKEN, f"the sealed access token is generation {entry.generation}")
    if (sealed := entry.sealed.get(pod)) is None:
        raise SealedTokenRefused(Why.NOT_SEALED, "the operator has not sealed it to this proxy")
    # The operator authenticates uid, generation and pod as additional data, so a box opens only in its own place.
    content = _opened(sealed, keys, f"{account.uid}/{index.generation}/{pod}".encode())
    try:
        token = parse_token(content)
    except TokenInvalid as error:
        raise SealedTokenRefused(Why.REFUSED, f"the box {error}") from None
    if (token.generation, token.fingerprint) != (index.generation, index.fingerprint):
        raise SealedTokenRefused(Why.REFUSED, "the box holds another access token than is written on it")
    return token


def _parsed(text: str, name: str) -> _Entry:
    try:
        # Check the version first: a later one may use other types for the same fields.
        version = _versioned.decode(text).version
        if version != VERSION:
            raise SealedTokenRefused(Why.INVALID, f"version {version} is not one this proxy reads ({VERSION})")
        entry = _entry.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise SealedTokenRefused(Why.INVALID, "its entry among the sealed access tokens is not valid") from None
    if entry.name != name:
        raise SealedTokenRefused(Why.INVALID, "the name in its entry among the sealed access tokens is not its key")
    return entry


def _opened(sealed: msgspec.Raw, keys: KeyPair, aad: bytes) -> bytes:
    try:
        box = _box.decode(sealed)
        if box.key != keys.id:
            raise SealedTokenRefused(Why.OTHER_KEY, "it is sealed to another key than this proxy has")
        return keys.open(base64.b64decode(box.box, validate=True), aad)
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError includes base64's errors
        raise SealedTokenRefused(Why.REFUSED, "the box is not valid") from None
    except BoxRefused as error:
        raise SealedTokenRefused(Why.REFUSED, f"the box {error}") from None
