"""The lock on the state volume: one process at a time, and the kernel releases it however that process ends."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from oauth_pool_operator.errors import StoreFailed

LOCK_FILE = ".lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class VolumeLock:
    """`flock` of one file; blocks for as long as the volume does, so call it in a thread. `identity` may be read anywhere."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._descriptor: int | None = None
        self.identity = ""
        """Identifies this very file on this very kernel: the holder of the lock knows that no other process with this identity
        is alive. Empty until the lock is first held."""

    def acquire(self) -> bool:
        """True when this process holds the lock, which the volume itself is asked each time.

        `StoreFailed` when the volume does not let anybody lock, or when the lock that was held turns out to be lost: the file
        is not the one that is there now, or a file server has forgotten us.
        """
        try:
            if self._descriptor is not None:
                return self._look_again(self._descriptor)
            return self._take(self._open())
        except OSError as error:
            self.release()
            raise StoreFailed(f"cannot lock {self._path}: {os.strerror(error.errno or errno.EIO)}") from error

    def release(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):  # a file server that has forgotten it says so here, too
                os.close(descriptor)

    def _take(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.identity = _identity(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def _look_again(self, descriptor: int) -> bool:
        """Locking again changes nothing, and is refused if somebody else has the lock by now."""
        ours, there = os.fstat(descriptor), self._path.stat(follow_symlinks=False)
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            self.release()
            raise StoreFailed(f"{self._path} is not the file that was locked")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, os.O_RDWR | flags, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # read-only for now, but the file exists: it can still be locked
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _identity(descriptor: int) -> str:
    boot = ""
    with suppress(OSError):
        boot = _BOOT_ID.read_text()[:8]
    found = os.fstat(descriptor)
    return f"{boot}-{found.st_dev:x}-{found.st_ino:x}"
