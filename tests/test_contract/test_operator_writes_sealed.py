"""The wire format of sealed tokens, written: the members that are documented, and a box that opens by `cryptography` alone."""

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.cluster import hpke
from oauth_pool_operator.cluster.config_maps import SHARDS_ANNOTATION, TOKENS_CONFIG_MAP, TOKENS_LABEL, shard_name
from oauth_pool_operator.cluster.proxies import PROXY_KIND, PROXY_PLURAL, Proxies
from oauth_pool_operator.cluster.shards import MOST_SHARDS
from oauth_pool_operator.cluster.token_entry import Token, sealed, written

POD, UID = "oauth-pool-proxy-5d9c7b8f6d-x2k4q", "00000000-0000-4000-8000-000000000001"
ACCESS_TOKEN = "not-a-real-access-token-of-claude-1-17"
PRIVATE = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def declared() -> dict[str, Any]:
    """The OAuthProxy object as a proxy makes it, and the API server tells of it."""
    return {
        "apiVersion": "oauthpool.dev/v1alpha1",
        "kind": "OAuthProxy",
        "metadata": {
            "name": POD,
            "namespace": "pool",
            "uid": "some",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-20T12:00:00Z",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": POD, "uid": "some-other"}],
        },
        "spec": {"publicKey": base64.b64encode(PUBLIC).decode(), "version": "0.1.0"},
    }


def entry() -> str:
    proxies = Proxies(hpke.is_usable)
    proxies.observe("ADDED", declared())
    access = AccessFile(17, ACCESS_TOKEN, "2026-11-20T20:00:00Z")
    return written(sealed(Token("claude-1", UID, access), proxies.served, None, hpke.seal))


def test_an_entry_has_the_documented_members_and_no_others() -> None:
    document = json.loads(entry())
    box = document["sealed"][POD].pop("box")
    assert document == {
        "version": 1,
        "name": "claude-1",
        "uid": UID,
        "generation": 17,
        "fingerprint": hashlib.sha256(ACCESS_TOKEN.encode()).hexdigest()[:16],
        "sealed": {POD: {"key": hashlib.sha256(PUBLIC).hexdigest()[:16]}},
    }
    assert len(base64.b64decode(box, validate=True)) > 48


def test_its_box_opens_under_the_documented_info_and_aad() -> None:
    box = base64.b64decode(json.loads(entry())["sealed"][POD]["box"], validate=True)
    suite = library.Suite(library.KEM.X25519, library.KDF.HKDF_SHA256, library.AEAD.AES_128_GCM)
    info, aad = b"oauthpool.dev/v1 access token", f"{UID}/17/{POD}".encode()
    plaintext = openssl.hpke._decrypt_with_aad(suite, box, PRIVATE, info=info, aad=aad)
    assert plaintext == (
        b'{"generation":17,"access_token":"not-a-real-access-token-of-claude-1-17","expires":"2026-11-20T20:00:00Z"}'
    )


def test_config_maps_and_kind_are_named_as_documented() -> None:
    names = [shard_name(TOKENS_CONFIG_MAP, number) for number in range(MOST_SHARDS)]
    assert names == ["oauth-tokens", *(f"oauth-tokens-{number}" for number in range(1, 10))]
    assert (TOKENS_LABEL, SHARDS_ANNOTATION) == ("oauthpool.dev/tokens", "oauthpool.dev/shards")
    assert (PROXY_KIND, PROXY_PLURAL) == ("OAuthProxy", "oauthproxies")
