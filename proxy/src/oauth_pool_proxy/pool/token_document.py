"""The JSON of one access token: the content of an access file, and of a sealed box."""

import hashlib
import re
import time

import msgspec

from oauth_pool_proxy.errors import TokenInvalid
from oauth_pool_proxy.pool.account import AccessToken
from oauth_pool_proxy.pool.index import Count, Instant

MOST_BYTES = 64 * 1024

_TOKEN = re.compile(r"[\x21-\x7e]+")  # it goes into a header as it is


class _Document(msgspec.Struct):
    generation: Count
    access_token: str
    expires: Instant

    def __repr__(self) -> str:
        return f"<token document of generation {self.generation}>"


_decoder = msgspec.json.Decoder(_Document)


def fingerprint_of(access_token: str) -> str:
    return hashlib.sha256(access_token.encode()).hexdigest()[:16]


def parse_token(content: bytes) -> AccessToken:
    """The access token in this document. Raises `TokenInvalid`, whose message never quotes the document."""
    if len(content) > MOST_BYTES:
        raise TokenInvalid("is too long")
    try:
        fields = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise TokenInvalid("is not the JSON of an access token") from None
    if not _TOKEN.fullmatch(fields.access_token):
        raise TokenInvalid("holds an access token that cannot be sent")
    fingerprint = fingerprint_of(fields.access_token)
    return AccessToken(fields.generation, fingerprint, fields.expires.timestamp(), fields.access_token, time.time())
