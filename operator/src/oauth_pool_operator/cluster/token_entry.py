"""One account's access token, sealed to each proxy: the wire format of the ConfigMaps `oauth-tokens…`.

An entry holds no secret: only the proxy that has the private key can open its box.
"""

import base64
from collections.abc import Callable, Mapping, Sequence

import msgspec

from oauth_pool_operator.account.documents import AccessFile, fingerprint
from oauth_pool_operator.cluster.proxies import Proxy

VERSION = 1
# What HPKE adds to a plaintext: the encapsulated key and the tag (`hpke`).
SEALING_BYTES = 48

Seal = Callable[[bytes, bytes, bytes], bytes]
"""Seals to a public key a plaintext, with additional authenticated data (AAD)."""


class Box(msgspec.Struct, frozen=True):
    """The token, sealed to one proxy."""

    key: str  # which of the proxy's keys: the first 16 hex digits of the SHA-256 of the public one
    box: str  # base64


class TokenEntry(msgspec.Struct, frozen=True):
    """One account. `sealed` is by the name of the proxy's pod; the order of the members is part of the golden files."""

    version: int
    name: str
    uid: str
    generation: int
    fingerprint: str
    sealed: Mapping[str, Box]


class Token(msgspec.Struct, frozen=True):
    """An access token that proxies may use, and whose it is."""

    name: str
    uid: str
    access: AccessFile

    def __repr__(self) -> str:
        return f"<Token of {self.name}, generation {self.access.generation}>"

    @property
    def plaintext(self) -> bytes:
        return msgspec.json.encode(self.access)

    def aad(self, pod: str) -> bytes:
        """What a box is bound to: it opens as this token of this account for this proxy, and as nothing else."""
        return f"{self.uid}/{self.access.generation}/{pod}".encode()


def read(value: str | None) -> TokenEntry | None:
    """What was published; None for nothing, and for anything that is not an entry of ours."""
    try:
        entry = msgspec.json.decode(value or "", type=TokenEntry)
    except (msgspec.DecodeError, RecursionError):
        return None
    return entry if entry.version == VERSION else None


def written(entry: TokenEntry) -> str:
    return msgspec.json.encode(entry).decode()


def fitting(token: Token, proxies: Sequence[Proxy], largest: int) -> Sequence[Proxy]:
    """The first of these proxies for whom an entry has room that may be as long as `largest`; looked at before anything is
    sealed, which takes longer."""
    box = "=" * _length_of_box(token)
    size = len(written(_entry(token, {})))
    for count, proxy in enumerate(proxies):
        size += len(msgspec.json.encode({proxy.pod: Box(proxy.key, box)})) - 1  # without its braces, and with a comma
        if size > largest + 1:  # the last has no comma
            return proxies[:count]
    return proxies


def sealed(token: Token, proxies: Sequence[Proxy], before: TokenEntry | None, seal: Seal) -> TokenEntry:
    """The entry of the token for these proxies. Boxes of the very same token, to the same key, are taken from `before`: the
    same facts give the same entry, also after a restart."""
    entry = _entry(token, {})
    known: Mapping[str, Box] = {}
    if before is not None and (before.uid, before.generation, before.fingerprint) == (
        *(entry.uid, entry.generation, entry.fingerprint),
    ):
        known = before.sealed
    length, boxes = _length_of_box(token), {}
    for proxy in proxies:
        box = known.get(proxy.pod)
        if box is None or box.key != proxy.key or len(box.box) != length:
            opened_by_it_only = seal(proxy.public_key, token.plaintext, token.aad(proxy.pod))
            box = Box(proxy.key, base64.b64encode(opened_by_it_only).decode())
        boxes[proxy.pod] = box
    return _entry(token, boxes)


def without_others(entry: TokenEntry, proxies: Sequence[Proxy]) -> TokenEntry:
    """The same without the boxes that are of none of these proxies, or of a key that is not theirs any more."""
    keys = {proxy.pod: proxy.key for proxy in proxies}
    boxes = {pod: box for pod, box in entry.sealed.items() if keys.get(pod) == box.key}
    return msgspec.structs.replace(entry, sealed=boxes)


def _entry(token: Token, boxes: Mapping[str, Box]) -> TokenEntry:
    access = token.access
    return TokenEntry(VERSION, token.name, token.uid, access.generation, fingerprint(access.access_token), boxes)


def _length_of_box(token: Token) -> int:
    """In base64: all boxes of a token are equally long."""
    return 4 * -(-(len(token.plaintext) + SEALING_BYTES) // 3)
