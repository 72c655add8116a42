"""Opens what the operator has sealed for one account: one value of the ConfigMaps `oauth-tokens`, the wire format.

An entry that cannot be used costs its own account and no other. Fields that this version does not know are ignored; a
higher `version` says that ignoring is not safe any more. Nothing of what is sealed is ever in a message.
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
    """Why an account's token is not here, in the order in which an entry is looked at: the later, the closer it came."""

    MISSING = "missing"
    """There is no entry of the account."""
    INVALID = "invalid"
    """The entry is none that this version reads."""
    OTHER_TOKEN = "other_token"
    """The entry is of another token than the index says."""
    NOT_SEALED = "not_sealed"
    """The token is sealed, and not to this proxy."""
    OTHER_KEY = "other_key"
    """It is sealed to this proxy, and to a key that it does not have."""
    REFUSED = "refused"
    """The box does not open, or holds something else than is written on it."""


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
    """By the names of pods. Only the box of this one is looked into: there may be many."""


class _Versioned(msgspec.Struct):
    version: int


_entry = msgspec.json.Decoder(_Entry)
_versioned = msgspec.json.Decoder(_Versioned)
_box = msgspec.json.Decoder(_Box)


def open_entry(text: str, account: Account, pod: str, keys: KeyPair) -> AccessToken:
    """The access token that the index says the account has, or `SealedTokenRefused`."""
    index, entry = account.entry, _parsed(text, account.name)
    if (entry.uid, entry.generation, entry.fingerprint) != (account.uid, index.generation, index.fingerprint):
        raise SealedTokenRefused(Why.OTHER_TOKEN, f"the sealed access token is generation {entry.generation}")
    if (sealed := entry.sealed.get(pod)) is None:
        raise SealedTokenRefused(Why.NOT_SEALED, "the operator has not sealed it to this proxy")
    # The operator adds uid, generation and pod to what is authenticated: no box fits into another place.
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
        # The version first: what a later one calls a number may be a word here.
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
    except (msgspec.DecodeError, ValueError, RecursionError):  # also what base64 says
        raise SealedTokenRefused(Why.REFUSED, "the box is not valid") from None
    except BoxRefused as error:
        raise SealedTokenRefused(Why.REFUSED, f"the box {error}") from None
