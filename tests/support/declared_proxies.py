"""Proxies as the operator sees them: a key pair, and the OAuthProxy object that says which. They open what is sealed to them."""

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)
INFO = b"oauthpool.dev/v1 access token"
# Everybody knows what they agree on with whomever (RFC 7748 6.1).
OF_SMALL_ORDER = base64.b64encode(bytes(32)).decode()


class DeclaredProxy:
    """One pod's. `uid` is its object's, where no API server gives it one."""

    def __init__(self, pod: str, *, uid: str = "", created: str = "2026-11-20T12:00:00Z") -> None:
        self.pod, self.uid, self.created = pod, uid or f"uid-of-{pod}", created
        self._version = 0
        self.renew_key()

    def renew_key(self) -> None:
        """As a new container without the old one's memory does."""
        self._private = X25519PrivateKey.generate()
        raw = self._private.public_key().public_bytes_raw()
        self.public_key = base64.b64encode(raw).decode()
        self.key = hashlib.sha256(raw).hexdigest()[:16]

    @property
    def manifest(self) -> dict[str, Any]:
        """What the proxy creates."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": f"uid-of-pod-{self.pod}"}
        return {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthProxy",
            "metadata": {"name": self.pod, "ownerReferences": [owner]},
            "spec": {"publicKey": self.public_key, "version": "0.1.0"},
        }

    @property
    def observed(self) -> dict[str, Any]:
        """The object as the API server tells of it; each time it is a later version."""
        self._version += 1
        found = self.manifest
        found["metadata"] |= {
            "uid": self.uid,
            "resourceVersion": str(self._version),
            "creationTimestamp": self.created,
        }
        return found

    def opened(self, value: str | None) -> dict[str, Any] | None:
        """The token in an entry of the ConfigMaps; None when there is none that this proxy could use."""
        entry = json.loads(value or '{"sealed": {}}')
        box = entry["sealed"].get(self.pod)
        if box is None or box["key"] != self.key:
            return None
        aad = f"{entry['uid']}/{entry['generation']}/{self.pod}".encode()
        try:
            plaintext = openssl.hpke._decrypt_with_aad(
                SUITE, base64.b64decode(box["box"], validate=True), self._private, info=INFO, aad=aad
            )
        except InvalidTag:
            return None
        token: dict[str, Any] = json.loads(plaintext)
        digest = hashlib.sha256(token["access_token"].encode()).hexdigest()[:16]
        is_named = (token["generation"], digest) == (entry["generation"], entry["fingerprint"])
        return token if is_named else None
