"""Reads the pool index: one JSON value per account, written by the operator. It contains no secrets.

An unusable entry affects only its own account, and not even that if there was a good one before. Fields that this version does
not know are ignored. A higher `version` means that ignoring them is no longer safe.
"""

import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec

from oauth_pool_proxy.errors import OtherVersion, PoolIndexInvalid

log = logging.getLogger(__name__)

VERSION = 1
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FINGERPRINT = re.compile(r"([0-9a-f]{16})?")

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class IndexEntry(msgspec.Struct, frozen=True, rename="camel"):
    """What the operator says about one account."""

    version: int
    name: str
    uid: str
    provider: str
    status: str
    priority: int = 0
    weight: Count = 1
    max_concurrent_requests: Count = 0
    generation: Count = 0
    fingerprint: str = ""
    expires: Instant | None = None
    cooldown_until: Instant | None = None
    cooldown_seconds: Count | None = None
    labels: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class _Versioned(msgspec.Struct):
    version: int


_entry = msgspec.json.Decoder(IndexEntry)
_versioned = msgspec.json.Decoder(_Versioned)


def parse_entry(key: str, text: str) -> IndexEntry:
    """The entry under this key. Raises `PoolIndexInvalid` with the reason."""
    try:
        # Check the version first: a later one may use other types for the same fields.
        version = _versioned.decode(text).version
        if version != VERSION:
            raise OtherVersion(f"version {version} is not one this proxy reads ({VERSION})")
        entry = _entry.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoolIndexInvalid(f"not a valid entry: {error}") from None
    if entry.name != key:
        raise PoolIndexInvalid("its name is not its key")
    if not _UID.fullmatch(entry.uid):
        raise PoolIndexInvalid("its uid cannot be the name of a file")
    if not _FINGERPRINT.fullmatch(entry.fingerprint):
        raise PoolIndexInvalid("its fingerprint is not 16 hexadecimal digits")
    return entry


class PoolIndexReader:
    """Turns each new state of the index into entries, and warns once for each change that cannot be read.

    An unreadable entry removes no account: the previous entry stays until a readable one comes. An entry of another version is
    not damaged. It comes from an operator that this proxy does not understand, and is refused.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._seen: dict[str, tuple[str, IndexEntry | None]] = {}

    def read(self, data: Mapping[str, str]) -> list[IndexEntry]:
        """The usable entries of this proxy's provider, sorted by name."""
        self._seen = {key: self._read_one(key, data[key]) for key in sorted(data)}
        return [entry for _, entry in self._seen.values() if entry and entry.provider == self._provider]

    def _read_one(self, key: str, text: str) -> tuple[str, IndexEntry | None]:
        before = self._seen.get(key)
        if before and before[0] == text:
            return before
        try:
            return text, parse_entry(key, text)
        except PoolIndexInvalid as error:
            log.warning("index entry ignored", extra={"fields": {"account": key, "error": str(error)}})
            return text, before[1] if before and not isinstance(error, OtherVersion) else None
