"""What the operator does so that proxies get sealed access tokens, made here by itself: the wire format decides, not its code."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import httpx2
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.support.control_plane.waiting import wait_until
from tests.support.proxy_server import index_entry, rfc3339, token_of

SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)
INFO = b"oauthpool.dev/v1 access token"
FAR = 4_000_000_000.0
"""An end of access tokens that no test lives to see."""


def new_key() -> tuple[X25519PrivateKey, bytes]:
    """A private key, and the bytes of its public one."""
    private = X25519PrivateKey.generate()
    return private, private.public_key().public_bytes_raw()


def document(name: str, generation: int = 1, expires: float = FAR) -> bytes:
    """What is inside of a box, and in an access file."""
    token = token_of(name, generation)
    return json.dumps({"generation": generation, "access_token": token, "expires": rfc3339(expires)}).encode()


def box(public_key: bytes, plaintext: bytes, *, uid: str, generation: int, pod: str) -> dict[str, str]:
    aad = f"{uid}/{generation}/{pod}".encode()
    key = X25519PublicKey.from_public_bytes(public_key)
    sealed = openssl.hpke._encrypt_with_aad(SUITE, plaintext, key, INFO, aad)
    return {"key": hashlib.sha256(public_key).hexdigest()[:16], "box": base64.b64encode(sealed).decode()}


def sealed_entry(
    name: str, keys: Mapping[str, bytes], generation: int = 1, *, expires: float = FAR, **changes: object
) -> str:
    """One account's value, sealed to these public keys by the names of their pods; it is what `index_entry` announces."""
    content, uid = document(name, generation, expires), f"uid-{name}"
    entry = {
        "version": 1,
        "name": name,
        "uid": uid,
        "generation": generation,
        "fingerprint": hashlib.sha256(token_of(name, generation).encode()).hexdigest()[:16],
        "sealed": {pod: box(key, content, uid=uid, generation=generation, pod=pod) for pod, key in keys.items()},
        **changes,
    }
    return json.dumps(entry)


class SealingOperator:
    """Publishes accounts through a real API server: the ConfigMap of sealed tokens first, and then the index that names them."""

    def __init__(self, api: httpx2.Client, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self.accounts: dict[str, int] = {}
        """The generation of each account's token."""

    def proxies(self) -> dict[str, bytes]:
        """The public keys of all proxies that have declared themselves, by the names of their pods."""
        return {name: base64.b64decode(one["spec"]["publicKey"]) for name, one in self.objects().items()}

    def objects(self) -> dict[str, Any]:
        """The OAuthProxy objects by their names. Waits for an API server that has just begun, and serves no kinds of ours yet."""
        path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{self._namespace}/oauthproxies"
        answer = wait_until(lambda: found if (found := self._api.get(path)).is_success else None, "OAuthProxies")
        return {one["metadata"]["name"]: one for one in answer.json()["items"]}

    def delete(self, proxy: str) -> None:
        path = f"/apis/oauthpool.dev/v1alpha1/namespaces/{self._namespace}/oauthproxies/{proxy}"
        self._api.delete(path).raise_for_status()

    def publish(self, provider: str = "anthropic") -> None:
        """Seal all access tokens to all proxies, and say so in the index."""
        keys = self.proxies()
        self._write("oauth-tokens", {name: sealed_entry(name, keys, number) for name, number in self.accounts.items()})
        entries = {
            name: json.dumps(index_entry(name, provider=provider, generation=number, expires=rfc3339(FAR)))
            for name, number in self.accounts.items()
        }
        self._write("oauth-pool", entries)

    def _write(self, name: str, data: Mapping[str, str]) -> None:
        answer = self._api.patch(
            f"/api/v1/namespaces/{self._namespace}/configmaps/{name}",
            params={"fieldManager": "operator", "force": "true"},
            content=json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}),
            headers={"content-type": "application/apply-patch+yaml"},
        )
        answer.raise_for_status()
