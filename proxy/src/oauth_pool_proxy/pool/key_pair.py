"""The key pair that access tokens are sealed to. It is created when a proxy starts, kept in memory, and gone with its pod.

A copy of the private key is in a folder that lives exactly as long as the pod (an emptyDir of medium Memory). So a restarted
container can open at once what was sealed to it. Without such a folder there is no copy. Neither the key nor what it opens is
ever in a message or a repr.
"""

import base64
import binascii
import hashlib
import logging
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from oauth_pool_proxy.pool.hpke import open_box

log = logging.getLogger(__name__)

FILE = "private-key"
INFO = b"oauthpool.dev/v1 access token"
"""HPKE's `info` for every box, so a box made for another purpose is never mistaken for one."""

_BYTES = 32


class KeyPair:
    def __init__(self, private_key: X25519PrivateKey) -> None:
        self._private_key = private_key
        public = private_key.public_key().public_bytes_raw()
        self.public = base64.b64encode(public).decode()
        """Base64 of the 32 bytes of the public key."""
        self.id = hashlib.sha256(public).hexdigest()[:16]
        """Names the key in a box: the first 16 hex digits of the SHA-256 of the public key."""

    def __repr__(self) -> str:
        return f"<KeyPair {self.id}>"

    def open(self, box: bytes, aad: bytes) -> bytes:
        """What was sealed to this key with this additional data. Raises `BoxRefused`. Takes about 0.06 ms."""
        return open_box(box, self._private_key, INFO, aad)


def key_pair_in(folder: Path) -> KeyPair:
    """The key pair in this folder, or a new one, which is also saved there if possible. Never fails."""
    path = folder / FILE
    try:
        return KeyPair(_read(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        _warn("the private key cannot be read, taking a new one", path, error.strerror)
    except ValueError:
        _warn("the file of the private key holds something else, taking a new one", path, None)
    private_key = X25519PrivateKey.generate()
    try:
        _write(path, private_key)
    except OSError as error:
        _warn("the private key is in memory only; a restart of the container needs the operator", path, error.strerror)
    return KeyPair(private_key)


def _read(path: Path) -> X25519PrivateKey:
    # Follow no link, and do not wait for a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        content = file.read(1024)
    try:
        key = base64.b64decode(content.rstrip(b"\n"), validate=True)
    except binascii.Error:
        raise ValueError from None  # the original message would quote the contents
    if len(key) != _BYTES:
        raise ValueError
    return X25519PrivateKey.from_private_bytes(key)


def _write(path: Path, private_key: X25519PrivateKey) -> None:
    """Write it completely or not at all. No other user can read it, not even for a moment."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(base64.b64encode(private_key.private_bytes_raw()) + b"\n")
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _warn(what: str, path: Path, error: str | None) -> None:
    fields = {"path": str(path), **({"error": error} if error else {})}
    log.warning(what, extra={"fields": fields})
