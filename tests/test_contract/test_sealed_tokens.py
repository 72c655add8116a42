"""Sealed access tokens, the wire format between operator and proxy: the golden files are opened, or refused, by the proxy.

`hpke.json` is the vector of the RFC. `sealed.json` was sealed once, to a key that is written beside it; sealing is different
each time, so the operator's tests open what they seal instead of comparing bytes.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from oauth_pool_proxy.pool.account import Account
from oauth_pool_proxy.pool.hpke import BoxRefused, open_box
from oauth_pool_proxy.pool.index import parse_entry
from oauth_pool_proxy.pool.key_pair import KeyPair
from oauth_pool_proxy.pool.sealed_entry import SealedTokenRefused, Why, open_entry

GOLDEN = Path(__file__).with_name("golden")
VECTOR = {name: value for name, value in json.loads((GOLDEN / "hpke.json").read_text()).items() if name != "source"}
SEALED: dict[str, Any] = json.loads((GOLDEN / "sealed.json").read_text())
KEYS = KeyPair(X25519PrivateKey.from_private_bytes(base64.b64decode(SEALED["privateKey"])))


def account() -> Account:
    name = SEALED["account"]
    return Account(parse_entry(name, json.loads((GOLDEN / "index.json").read_text())[name]))


def test_the_vector_of_the_rfc_is_opened() -> None:
    info, private, public, enc, plaintext, aad, ciphertext = (
        bytes.fromhex(VECTOR[name]) for name in ("info", "skRm", "pkRm", "enc", "pt", "aad", "ct")
    )
    key = X25519PrivateKey.from_private_bytes(private)
    assert key.public_key().public_bytes_raw() == public
    assert open_box(enc + ciphertext, key, info, aad) == plaintext
    for wrong in (
        (enc + ciphertext, b"", aad),
        (enc + ciphertext, info, b"Count-1"),
        (enc, info, aad),
        (b"", info, aad),
    ):
        with pytest.raises(BoxRefused):
            open_box(wrong[0], key, *wrong[1:])


def test_the_key_is_named_as_it_is_written() -> None:
    assert (KEYS.public, KEYS.id) == (SEALED["publicKey"], SEALED["key"])


@pytest.mark.parametrize("case", SEALED["accepted"])
def test_what_the_operator_seals_is_opened(case: str) -> None:
    file = GOLDEN / "access" / f"{account().uid}.json"
    token = open_entry(SEALED["accepted"][case], account(), SEALED["pod"], KEYS)
    written = json.loads(file.read_text())
    assert (token.value, token.generation) == (written["access_token"], written["generation"])
    index = account().entry
    assert index.expires is not None
    assert (token.fingerprint, token.expires_at) == (index.fingerprint, index.expires.timestamp())


@pytest.mark.parametrize("case", SEALED["refused"])
def test_everything_else_is_refused_with_a_reason_and_without_a_secret(case: str) -> None:
    given = SEALED["refused"][case]
    with pytest.raises(SealedTokenRefused) as caught:
        open_entry(given["entry"], account(), SEALED["pod"], KEYS)
    assert caught.value.why == given["why"]
    assert "not-a-real" not in repr(caught.value)


def test_every_reason_but_a_missing_entry_has_a_case() -> None:
    assert {given["why"] for given in SEALED["refused"].values()} == set(Why) - {Why.MISSING}
