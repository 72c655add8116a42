"""The lock on the state volume, on a real file system: held is what the volume says is held, each time it is asked."""

import fcntl
import os
from pathlib import Path

import pytest

from oauth_pool_operator.errors import StoreFailed
from oauth_pool_operator.storage.lock import LOCK_FILE, VolumeLock


@pytest.fixture
def held(tmp_path: Path) -> VolumeLock:
    lock = VolumeLock(tmp_path)
    assert lock.acquire()
    return lock


def descriptor_of(path: Path) -> int:
    """The process's own descriptor of the file."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return next(number for number in numbers if os.path.realpath(f"/proc/self/fd/{number}") == str(path))


def forget(folder: Path) -> None:
    """What a file server does that has lost its list of locks: nobody holds any."""
    fcntl.flock(descriptor_of(folder / LOCK_FILE), fcntl.LOCK_UN)


def test_one_process_holds_it_for_as_long_as_it_likes(held: VolumeLock, tmp_path: Path) -> None:
    second = VolumeLock(tmp_path)
    for _ in range(3):
        assert (held.acquire(), second.acquire()) == (True, False)
    held.release()
    assert second.acquire()
    assert second.identity == held.identity  # it is the same file


def test_a_lock_that_the_server_forgot_and_gave_to_another_is_lost(held: VolumeLock, tmp_path: Path) -> None:
    forget(tmp_path)
    second = VolumeLock(tmp_path)
    assert second.acquire()
    assert not held.acquire()
    second.release()
    assert held.acquire()


def test_a_lock_that_the_server_forgot_and_nobody_took_is_held_again(held: VolumeLock, tmp_path: Path) -> None:
    forget(tmp_path)
    assert held.acquire()
    assert not VolumeLock(tmp_path).acquire()


@pytest.mark.parametrize("is_there", [True, False], ids=["replaced", "removed"])
def test_a_lock_on_a_file_that_is_not_there_any_more_is_lost(held: VolumeLock, tmp_path: Path, is_there: bool) -> None:
    (tmp_path / LOCK_FILE).rename(tmp_path / "moved")  # so that its number is not used again
    if is_there:
        (tmp_path / LOCK_FILE).touch()
    before = held.identity
    with pytest.raises(StoreFailed):
        held.acquire()
    assert held.acquire()  # a lock like any other's first: whoever had this file's meanwhile has let it go
    assert held.identity != before


def test_a_lock_whose_descriptor_the_system_refuses_is_lost(held: VolumeLock, tmp_path: Path) -> None:
    os.close(descriptor_of(tmp_path / LOCK_FILE))  # as with a stale handle, every call about it fails
    with pytest.raises(StoreFailed, match=r"cannot lock .*\.lock"):
        held.acquire()
    assert held.acquire()
