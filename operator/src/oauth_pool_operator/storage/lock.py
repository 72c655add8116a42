"""The lock on the state volume: one process at a time, and the kernel lets go of it however that process ends."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from oauth_pool_operator.errors import StoreFailed

LOCK_FILE = ".lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class VolumeLock:
    """`flock` of one file; blocks for as long as the volume does, so call it in a thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """True when this process holds the lock; `StoreFailed` when the volume does not let anybody lock."""
        if self._descriptor is not None:
            return True
        try:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
        except OSError as error:
            raise StoreFailed(f"cannot lock {self._path}: {os.strerror(error.errno or errno.EIO)}") from error
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def identity(self) -> str:
        """Names this very file to this very kernel: who holds the lock knows that no other process of that identity lives."""
        assert self._descriptor is not None
        boot = ""
        with suppress(OSError):
            boot = _BOOT_ID.read_text()[:8]
        found = os.fstat(self._descriptor)
        return f"{boot}-{found.st_dev:x}-{found.st_ino:x}"

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, os.O_RDWR | flags, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # read-only for now, but there from better times: it can be locked all the same
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
