"""HPKE (RFC 9180) as sealed access tokens use it: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM.

The only module that knows the API in `cryptography`. Opening with additional data has a private name there, hence the pin in
pyproject.toml. It costs memory, so a proxy that takes tokens from files must not import it.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)


class BoxRefused(Exception):
    """A box does not open: it was sealed to another key or with other additional data, or it is damaged."""


def open_box(box: bytes, private_key: X25519PrivateKey, info: bytes, aad: bytes) -> bytes:
    """The plaintext of `enc ‖ ciphertext`. Raises `BoxRefused`, which reveals nothing about the contents."""
    try:
        return openssl.hpke._decrypt_with_aad(_SUITE, box, private_key, info, aad)
    except (InvalidTag, ValueError):
        raise BoxRefused("does not open") from None
