"""Secrets that the configuration names by file. Each use reads the file again, so a replaced file counts at once."""

import os
from pathlib import Path

LARGEST = 64 * 1024


class SecretUnreadable(Exception):
    """There is no secret in the file; the text names the file and what is wrong, never what is in it."""


def read_secret(path: Path) -> str:
    """The text of the file without white space around it. Raises `SecretUnreadable`; call it in a thread."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise SecretUnreadable(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    try:
        secret = content.decode().strip()
    except UnicodeDecodeError:
        raise SecretUnreadable(f"{path} is not text") from None
    if not secret or len(content) > LARGEST:
        raise SecretUnreadable(f"{path} is {'empty' if not secret else 'larger than 64 KiB'}")
    return secret
