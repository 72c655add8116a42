"""The proxies that access tokens are sealed to: what their OAuthProxy objects say, and which of them are served.

Proxies write these objects, so nothing in them is trusted: an invalid one gets nothing and harms nobody.
"""

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

log = logging.getLogger(__name__)

PROXY_KIND, PROXY_PLURAL = "OAuthProxy", "oauthproxies"
# Anyone who can create these objects could create any number, and each costs a box per account.
MOST_PROXIES = 100
KEY_BYTES = 32


class Proxy(NamedTuple):
    """One that tokens may be sealed to."""

    pod: str
    public_key: bytes
    key: str  # the first 16 hex digits of the SHA-256 of the public key
    created: str  # RFC 3339, as the API server wrote it


class _Owner(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    name: str


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    creation_timestamp: str
    owner_references: tuple[_Owner, ...] = ()


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    public_key: str


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec


class _Declared(NamedTuple):
    """An object as it was observed last; `proxy` is None when it gets nothing."""

    version: int
    proxy: Proxy | None


class Proxies:
    """Takes events and lists of OAuthProxy objects. `is_usable` says whether anything can be sealed to a public key."""

    def __init__(self, is_usable: Callable[[bytes], bool]) -> None:
        self._is_usable = is_usable
        self._declared: dict[str, _Declared] = {}  # by UID of the object
        self._left_out = 0
        self.served: Sequence[Proxy] = ()  # the oldest first
        # told of each change; True when there is somebody new, or a new key
        self.on_change: Callable[[bool], None] = lambda _: None

    @property
    def uids(self) -> set[str]:
        """Of all objects."""
        return set(self._declared)

    def counts(self) -> dict[str, int]:
        """Counts of objects: served, refused, over the limit; may be called from any thread."""
        declared = list(self._declared.values())
        refused = sum(one.proxy is None for one in declared)
        served = len(self.served)
        return {"served": served, "refused": refused, "over_limit": max(0, len(declared) - refused - served)}

    def observe(self, kind: str | None, body: dict[str, Any]) -> None:
        """An event of the watch (`kind` is None for what was listed)."""
        if self._take(kind, body):
            self._decide()

    def compare(self, before: set[str], listed: Sequence[dict[str, Any]]) -> None:
        """Compare with a list that was requested when the objects were `before`: those that are not in it are gone."""
        uids = {body["metadata"]["uid"] for body in listed}
        for uid in before - uids:
            self._declared.pop(uid, None)
        for body in listed:
            self._take(None, body)
        self._decide()

    def _take(self, kind: str | None, body: dict[str, Any]) -> bool:
        """True when something may have changed for somebody."""
        metadata = body["metadata"]
        uid, version = metadata["uid"], _number(metadata.get("resourceVersion"))
        if kind == "DELETED" or "deletionTimestamp" in metadata:
            return self._declared.pop(uid, None) is not None
        before = self._declared.get(uid)
        if before is not None and version < before.version:
            return False
        try:
            proxy = _parsed(body)
            if (before is None or before.proxy != proxy) and not self._is_usable(proxy.public_key):
                raise ValueError("nothing can be sealed to its key, which is of small order")
        except (msgspec.ValidationError, ValueError) as error:
            if before is None or before.proxy is not None:
                log.warning("OAuthProxy %s gets no tokens: %s", metadata["name"], error)
            proxy = None
        self._declared[uid] = _Declared(version, proxy)
        return before is None or before.proxy != proxy

    def _decide(self) -> None:
        """The proxies that are served. If a pod has two objects, one of which is about to go, the newer counts."""
        by_pod: dict[str, Proxy] = {}
        for proxy in sorted((one.proxy for one in self._declared.values() if one.proxy is not None), key=_age):
            by_pod[proxy.pod] = proxy
        oldest_first = sorted(by_pod.values(), key=_age)
        left_out = len(oldest_first) - MOST_PROXIES
        if left_out > 0 >= self._left_out:
            log.warning(
                "there are %d proxies, but at most %d are served: the newest get no tokens",
                *(len(oldest_first), MOST_PROXIES),
            )
        self._left_out = left_out
        served, before = oldest_first[:MOST_PROXIES], set(self.served)
        if before != set(served):
            self.served = tuple(served)
            self.on_change(not before >= set(served))


def _parsed(body: dict[str, Any]) -> Proxy:
    """Raises `ValueError`, or `msgspec.ValidationError`, which say what is wrong and not what the key is."""
    found = msgspec.convert(body, _Object)
    metadata = found.metadata
    owners = [(owner.api_version, owner.kind, owner.name) for owner in metadata.owner_references]
    if owners != [("v1", "Pod", metadata.name)]:
        raise ValueError("its only owner has to be the pod of its name")
    try:
        public_key = base64.b64decode(found.spec.public_key, validate=True)
    except ValueError:
        raise ValueError("its key is not base64") from None
    if len(public_key) != KEY_BYTES:
        raise ValueError(f"its key has {len(public_key)} bytes, not {KEY_BYTES}")
    key = hashlib.sha256(public_key).hexdigest()[:16]
    return Proxy(metadata.name, public_key, key, metadata.creation_timestamp)


def _age(proxy: Proxy) -> tuple[str, str]:
    return (proxy.created, proxy.pod)


def _number(version: Any) -> int:
    return int(version) if isinstance(version, str) and version.isdecimal() else 0
