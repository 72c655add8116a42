"""Volumes that hang, in the threads that are shipped: a call blocks on a pipe that nobody writes to, or on an event."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.errors import StoreFailed
from oauth_pool_operator.storage import volume as volume_module
from oauth_pool_operator.storage.store import Store, in_thread
from oauth_pool_operator.storage.volume import THREADS, Volume, VolumeSilent
from tests.support.builders import UID, credential
from tests.support.control_plane import wait_until

LIMIT = 0.2


class Gate:
    """What hangs until it is opened, and what came through."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.passed: list[str] = []

    def open(self) -> None:
        self._opened.set()

    def through(self, what: str) -> str:
        self._opened.wait()
        self.passed.append(what)
        return what


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


async def hang(volume: Volume, key: str, gate: Gate, what: str = "late") -> None:
    with pytest.raises(VolumeSilent, match="the state volume has not answered"):
        await volume.call(key, lambda: gate.through(what))


async def until_answered(volume: Volume) -> None:
    await asyncio.to_thread(wait_until, lambda: volume.unanswered_for == 0, "the volume to answer")


async def test_a_call_that_hangs_is_a_failure_in_time_and_says_which_volume(gate: Gate) -> None:
    volume = Volume("state", seconds=LIMIT)
    assert volume.why_silent == ""
    await hang(volume, "a", gate)
    assert volume.why_silent.startswith("the state volume has not answered for")
    gate.open()
    await until_answered(volume)
    assert volume.why_silent == ""


async def test_a_call_that_hangs_holds_up_no_other_account_and_one_more_than_there_are_threads_all_of_them(
    gate: Gate,
) -> None:
    volume = Volume("state", seconds=1)
    await asyncio.gather(*(hang(volume, f"account-{number}", gate) for number in range(THREADS - 1)))
    assert await volume.call("another", lambda: "at once") == "at once"
    await hang(volume, "one-more", gate)
    with pytest.raises(VolumeSilent):
        await volume.call("another", lambda: "never")
    gate.open()
    await until_answered(volume)
    assert await volume.call("another", lambda: "again") == "again"


async def test_who_was_told_that_the_volume_is_silent_finds_it_silent_whatever_the_clocks_say(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume("state", seconds=LIMIT)
    monkeypatch.setattr(volume_module, "time", SimpleNamespace(monotonic=lambda: 7.0))  # the event loop's goes on
    await hang(volume, "a", gate)
    assert volume.why_silent == "the state volume has not answered for 0 s"
    gate.open()
    await asyncio.to_thread(wait_until, lambda: volume.why_silent == "", "the volume to answer")


async def test_nothing_of_an_account_begins_before_what_hangs_of_it_has_ended(gate: Gate) -> None:
    volume = Volume("state", seconds=LIMIT)
    await hang(volume, "a", gate, "the older")
    with pytest.raises(VolumeSilent):
        await volume.call("a", lambda: gate.through("given up"))
    gate.open()
    await until_answered(volume)
    await volume.call("a", lambda: gate.through("the newer"))
    assert gate.passed == ["the older", "the newer"]


async def test_a_caller_that_goes_leaves_its_call_to_end_before_the_next(gate: Gate) -> None:
    volume = Volume("state", seconds=60)
    first = asyncio.create_task(volume.call("a", lambda: gate.through("first")))
    await asyncio.sleep(0.01)
    first.cancel()
    second = asyncio.create_task(volume.call("a", lambda: gate.through("second")))
    await asyncio.sleep(0.01)
    gate.open()
    assert await second == "second"
    assert gate.passed == ["first", "second"]


async def test_what_a_call_raises_is_the_caller_s() -> None:
    def fail() -> None:
        raise StoreFailed("read-only file system")

    with pytest.raises(StoreFailed, match="read-only"):
        await Volume("state").call("a", fail)


async def test_a_hung_access_volume_leaves_the_state_volume_and_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_module, "VOLUME_SECONDS", LIMIT)
    (tmp_path / "state").mkdir()
    (tmp_path / "access").mkdir()
    store = Store(tmp_path / "state", tmp_path / "access")
    uids = [f"uid-{number}" for number in range(40)]  # more than there are threads of any kind
    for uid in uids:
        os.mkfifo(tmp_path / "access" / f"{uid}.json")  # who opens it waits until somebody writes
    calls = [asyncio.create_task(in_thread(store.access, uid)) for uid in uids]
    await asyncio.sleep(0)
    await in_thread(store.save_credential, UID, credential(), replaces=0)
    assert await in_thread(store.credential, UID) == credential()
    assert await asyncio.get_running_loop().getaddrinfo("localhost", 443)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in failures} == {VolumeSilent}
    assert (store.state_volume.why_silent, store.access_volume.why_silent != "") == ("", True)
    for uid in uids[: THREADS + 1]:
        end_of_pipe(tmp_path / "access" / f"{uid}.json")
    await until_answered(store.access_volume)
    await in_thread(store.save_access, uids[0], AccessFile(1, "token", "x"))


def end_of_pipe(path: Path) -> None:
    """Whoever reads from it has reached its end; nobody may."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return


async def test_what_is_no_method_of_a_store_is_refused() -> None:
    with pytest.raises(TypeError, match="not a method of a Store"):
        await in_thread(lambda: 1)


def test_a_call_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from oauth_pool_operator.storage.volume import Volume, VolumeSilent
async def main():
    try:
        await Volume("state", seconds=0.1).call("a", threading.Event().wait)
    except VolumeSilent as error:
        print(error)
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "the state volume has not answered for 0.1 s\n"
