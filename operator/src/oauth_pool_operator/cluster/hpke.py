"""HPKE (RFC 9180), base mode: what is sealed to a public key can be opened with its private key only.

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. Import this only where tokens are sealed: `cryptography` takes memory.
It offers additional authenticated data (AAD) under a private name, which is why its major version is pinned.
"""

from cryptography.hazmat.bindings._rust import openssl  # what `cryptography.hazmat.primitives.hpke` offers is from here
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)

INFO = b"oauthpool.dev/v1 access token"


def is_usable(public_key: bytes) -> bool:
    """False when nothing can be sealed to it."""
    try:
        seal(public_key, b"", b"")
    except ValueError:
        return False
    return True


def seal(public_key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """The encapsulated key and the ciphertext, 48 bytes more than the plaintext.

    Raises `ValueError` for a public key that is not 32 bytes, or is of small order: everybody knows what that agrees on.
    """
    key = X25519PublicKey.from_public_bytes(public_key)
    return openssl.hpke._encrypt_with_aad(_SUITE, plaintext, key, info=INFO, aad=aad)
