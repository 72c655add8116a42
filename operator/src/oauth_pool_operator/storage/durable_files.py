"""Files that survive a crash and a power failure: a reader sees the old one or the new one, never half of one.

Written to a temporary name, fsynced, renamed, and the folder fsynced. What the operating system refuses is `StoreFailed`.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from oauth_pool_operator.errors import StoreCorrupt, StoreFailed

_T = TypeVar("_T")
Signature = tuple[int, int, int]


def read(path: Path, kind: type[_T]) -> _T | None:
    """The document in the file; None when there is no file, `StoreCorrupt` when it is not what was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreFailed(f"cannot read {path.name}: {os.strerror(error.errno or errno.EIO)}") from error
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # `from None`: the decoder's message may quote what it read
        raise StoreCorrupt(f"{path.name} of this account is damaged") from None


def guarded(what: str, action: Callable[[], None]) -> None:
    """Do it; `StoreFailed`, naming what was to be done, when the operating system refuses."""
    try:
        action()
    except OSError as error:
        raise StoreFailed(f"cannot {what}: {os.strerror(error.errno or errno.EIO)}") from error


def temporary(path: Path) -> Path:
    """What a file is written to before it is renamed."""
    return path.with_name(path.name + ".new")


def replace(path: Path, content: bytes, mode: int) -> None:
    new = temporary(path)
    write_synced(new, content, mode, truncate=True)
    os.replace(new, path)
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes, mode: int, *, truncate: bool) -> None:
    """The file holds exactly `content` (at least that much, without `truncate`) and is on the disk on return."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(content)
        file.flush()
        if truncate:
            file.truncate()
        os.fsync(file.fileno())


def unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def signature(status: os.stat_result) -> Signature:
    """Changes whenever somebody writes, replaces or removes the file."""
    return status.st_mtime_ns, status.st_ino, status.st_size
