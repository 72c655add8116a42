"""Who may work: the lock is a real one, the Lease is kept by the test, and so is the clock."""

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from lightkube.core.exceptions import ApiError

from oauth_pool_operator.cluster import leadership
from oauth_pool_operator.cluster.leadership import LEASE_SECONDS, RENEW_SECONDS, Leadership
from oauth_pool_operator.cluster.lease import Lease
from oauth_pool_operator.storage.lock import LOCK_FILE, VolumeLock

THEN = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


def refusal(status: int) -> ApiError:
    request = httpx2.Request("PATCH", "https://cluster.example/")
    return ApiError(response=httpx2.Response(status, json={"code": status}, request=request), request=request)


class Leases:
    """One Lease, with the API server's optimistic locking."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.failure: Exception | None = None
        self.version = 0

    async def read_lease(self) -> Lease | None:
        if self.failure is not None:
            raise self.failure
        return self.lease

    async def write_lease(self, lease: Lease) -> Lease:
        if self.failure is not None:
            raise self.failure
        if lease.version != (self.lease.version if self.lease else ""):
            raise refusal(404 if self.lease is None else 409)
        return self.put(lease)

    def put(self, lease: Lease) -> Lease:
        self.version += 1
        self.lease = replace(lease, version=str(self.version))
        return self.lease

    def taken_by(self, holder: str) -> None:
        self.put(Lease(holder, THEN, THEN, LEASE_SECONDS, 3, ""))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def operator(tmp_path: Path, leases: Leases, clock: Clock) -> Leadership:
    return Leadership(VolumeLock(tmp_path), leases, clock=clock)


def another(folder: Path, leases: Leases, clock: Clock) -> Leadership:
    """An operator on another volume."""
    (folder / "another").mkdir(exist_ok=True)
    return Leadership(VolumeLock(folder / "another"), leases, clock=clock)


async def test_the_first_leads_and_says_who_it_is(
    operator: Leadership, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAME", "oauth-pool-operator-0")
    assert not operator.leads
    await operator.look()
    assert (operator.leads, operator.why_not) == (True, "")
    assert leases.lease is not None
    assert leases.lease.holder.startswith("oauth-pool-operator-0_")


async def test_a_second_on_the_same_volume_waits_whatever_the_lease_says(
    operator: Leadership, tmp_path: Path, leases: Leases, clock: Clock
) -> None:
    await operator.look()
    leases.lease = None
    second = Leadership(VolumeLock(tmp_path), leases, clock=clock)
    clock.now += 10 * LEASE_SECONDS
    await second.look()
    assert (second.leads, second.why_not) == (False, "another operator holds the lock on the state volume")


async def test_a_second_on_another_volume_waits_for_as_long_as_the_lease_is_renewed(
    operator: Leadership, tmp_path: Path, leases: Leases, clock: Clock
) -> None:
    second = another(tmp_path, leases, clock)
    for _ in range(10):
        await operator.look()
        await second.look()
        assert (operator.leads, second.leads) == (True, False)
        clock.now += RENEW_SECONDS
    assert leases.lease is not None
    assert second.why_not == f"another operator holds the Lease: {leases.lease.holder}"


async def test_a_lease_that_nobody_renews_is_taken_when_it_was_watched_for_its_whole_length(
    operator: Leadership, leases: Leases, clock: Clock
) -> None:
    leases.taken_by("somebody")  # with a time of renewal long past: clocks do not matter
    for _ in range(int(LEASE_SECONDS)):
        await operator.look()
        assert not operator.leads
        clock.now += 1
    await operator.look()
    clock.now += 1
    await operator.look()
    assert operator.leads
    assert leases.lease is not None
    assert leases.lease.transitions == 4


async def test_who_holds_the_lock_that_the_holder_held_need_not_wait(
    operator: Leadership, tmp_path: Path, leases: Leases, clock: Clock
) -> None:
    lock = VolumeLock(tmp_path)
    lock.acquire()
    leases.taken_by(f"a-pod-that-was-killed_{lock.identity}")
    lock.release()
    await operator.look()
    assert operator.leads


async def test_a_lease_that_was_released_is_taken_at_once(
    operator: Leadership, tmp_path: Path, leases: Leases, clock: Clock
) -> None:
    second = another(tmp_path, leases, clock)
    await operator.look()
    await second.look()
    await operator.release()
    await second.look()
    assert (operator.leads, second.leads) == (False, True)
    third = Leadership(VolumeLock(tmp_path), leases, clock=clock)
    await third.look()
    assert "holds the Lease" in third.why_not  # so the lock was let go, too


async def test_losing_the_lease_to_another_stops_and_its_release_lets_go_on(
    operator: Leadership, leases: Leases, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await operator.look()
    leases.taken_by("somebody")
    await operator.look()
    assert not operator.leads
    assert "begins nothing new: another operator holds the Lease: somebody" in caplog.text
    leases.taken_by("")
    await operator.look()
    assert operator.leads


@pytest.mark.parametrize("failure", [httpx2.ConnectError("away"), refusal(500), refusal(403)], ids=repr)
async def test_an_api_server_that_is_away_stops_nobody_who_leads_and_lets_nobody_begin(
    operator: Leadership, tmp_path: Path, leases: Leases, clock: Clock, failure: Exception
) -> None:
    second = another(tmp_path, leases, clock)
    await operator.look()
    leases.failure = failure
    for _ in range(20):
        clock.now += RENEW_SECONDS
        await operator.look()
        await second.look()
        assert (operator.leads, second.leads) == (True, False)
    assert "cannot be read" in second.why_not


async def test_that_an_api_server_answers_again_is_told_once_for_each_outage(
    operator: Leadership, leases: Leases, clock: Clock
) -> None:
    told: list[float] = []
    operator.on_return = lambda: told.append(clock.now)
    for failure in (None, None, httpx2.ConnectError("away"), httpx2.ConnectError("away"), None, None):
        leases.failure = failure
        clock.now += RENEW_SECONDS
        await operator.look()
    assert told == [clock.now - RENEW_SECONDS]


async def test_who_may_not_use_leases_is_told_what_is_missing(operator: Leadership, leases: Leases) -> None:
    leases.failure = refusal(403)
    await operator.look()
    assert operator.why_not.endswith("its Role needs get, create and patch on leases")


async def test_after_an_outage_who_was_overtaken_stops(operator: Leadership, leases: Leases, clock: Clock) -> None:
    await operator.look()
    leases.failure = httpx2.ConnectError("away")
    clock.now += RENEW_SECONDS
    await operator.look()
    leases.failure = None
    leases.taken_by("somebody")
    await operator.look()
    assert not operator.leads


async def test_who_has_not_looked_for_too_long_does_not_lead_until_it_has(
    operator: Leadership, leases: Leases, clock: Clock
) -> None:
    await operator.look()
    clock.now += LEASE_SECONDS  # as after SIGSTOP
    assert not operator.leads
    await operator.look()
    assert operator.leads


async def test_a_machine_that_was_asleep_has_not_looked_for_too_long(
    tmp_path: Path, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Leadership(VolumeLock(tmp_path), leases)  # with the clock that is shipped
    await operator.look()
    led = operator.leads
    # While a machine sleeps, the kernel's monotonic clock stands still, and this one goes on.
    read = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda kind: read(kind) + (3600 if kind == time.CLOCK_BOOTTIME else 0))
    leads = operator.leads
    await operator.look()
    assert (led, leads, operator.leads) == (True, False, True)


class HangingLock(VolumeLock):
    """The real one, on a volume that hangs from when `hangs` is cleared until it is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answers = threading.Event()
        self.answers.set()
        self.threads: set[threading.Thread] = set()

    def acquire(self) -> bool:
        self.threads.add(threading.current_thread())
        self.answers.wait()
        return super().acquire()


async def test_a_volume_that_hangs_is_no_look_and_stops_nobody_before_it_was_too_long(
    tmp_path: Path, leases: Leases, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "LOOK_SECONDS", 0.1)
    lock = HangingLock(tmp_path)
    operator = Leadership(lock, leases, clock=clock)
    await operator.look()
    lock.answers.clear()
    written = leases.version
    try:
        await operator.look()
        led = operator.leads
        clock.now += LEASE_SECONDS
        await operator.look()
        assert (led, operator.leads, leases.version) == (True, False, written)  # so that the Lease expires
        assert "the state volume has not answered" in operator.why_not
        assert operator.volume.why_silent
    finally:
        lock.answers.set()
    while not operator.leads:
        await operator.look()
    assert (operator.volume.why_silent, operator.why_not) == ("", "")


async def test_the_volume_is_never_asked_on_the_event_loop(tmp_path: Path, leases: Leases, clock: Clock) -> None:
    lock = HangingLock(tmp_path)
    operator = Leadership(lock, leases, clock=clock)
    leases.taken_by("somebody")
    await operator.look()
    await operator.look()
    assert threading.current_thread() not in lock.threads
    os.rename(tmp_path / LOCK_FILE, tmp_path / "away")  # what is asked of the lock beside that needs no volume
    assert lock.identity


async def test_who_lost_the_lock_stops_before_anything_else(
    operator: Leadership, leases: Leases, tmp_path: Path, clock: Clock
) -> None:
    await operator.look()
    (tmp_path / LOCK_FILE).rename(tmp_path / "away")
    second = Leadership(VolumeLock(tmp_path), leases, clock=clock)
    await second.look()  # holds the lock on the file that is there now; the Lease is what it waits for
    assert "holds the Lease" in second.why_not
    await operator.look()
    assert not operator.leads
    assert "is not the file that was locked" in operator.why_not
    await operator.look()
    assert "another operator holds the lock" in operator.why_not


async def test_a_lease_that_somebody_deletes_is_made_again(operator: Leadership, leases: Leases) -> None:
    await operator.look()
    leases.lease = None
    await operator.look()
    assert operator.leads
    assert leases.lease is not None


async def test_of_two_that_take_a_free_lease_one_gets_it(
    operator: Leadership, tmp_path: Path, leases: Leases, clock: Clock
) -> None:
    second = another(tmp_path, leases, clock)
    leases.taken_by("")
    read = leases.read_lease

    async def read_and_be_overtaken() -> Lease | None:
        found = await read()
        leases.read_lease = read  # type: ignore[method-assign]
        await second.look()
        return found

    leases.read_lease = read_and_be_overtaken  # type: ignore[method-assign]
    await operator.look()
    assert (operator.leads, second.leads) == (False, True)


async def test_a_volume_that_cannot_be_locked_is_a_reason_to_wait(tmp_path: Path, leases: Leases) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    operator = Leadership(VolumeLock(tmp_path), leases)
    await operator.look()
    assert (operator.leads, leases.lease) == (False, None)
    assert operator.why_not.startswith("cannot lock ")
