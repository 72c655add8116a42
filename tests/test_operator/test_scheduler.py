"""When an account is reconciled. The clock is the test's, and only the loop's turns pass."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.errors import ClusterUnavailable
from oauth_pool_operator.scheduler import Scheduler
from tests.support.builders import NOW


class Work:
    """A reconcile that does what it is told, and remembers who came when."""

    def __init__(self) -> None:
        self.now = NOW
        self.calls: list[tuple[str, float]] = []
        self.due: dict[str, datetime | None] = {}
        self.failures: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.most_at_once = self._at_once = 0
        self.scheduler = Scheduler(self.reconcile, clock=lambda: self.now, elapsed=lambda: 0.0)

    async def reconcile(self, uid: str) -> datetime | None:
        self.calls.append((uid, (self.now - NOW).total_seconds()))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
        finally:
            self._at_once -= 1
        return self.due.get(uid, NEVER)

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, let the scheduler look at it, and everything that is ready run."""
        self.now += timedelta(seconds=seconds)
        self.scheduler._changed.set()
        await turns()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def running() -> AsyncIterator[Work]:
    work = Work()
    task = asyncio.create_task(work.scheduler.run())
    try:
        yield work
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_an_event_is_looked_at_at_once_and_again_when_due() -> None:
    async with running() as work:
        work.due["a"] = NOW + timedelta(seconds=10)
        work.scheduler.wake("a")
        await turns()
        await work.pass_time(9)
        assert work.calls == [("a", 0)]
        work.due["a"] = NEVER
        await work.pass_time(1)
        assert work.calls == [("a", 0), ("a", 10)]
        await work.pass_time(1000)
        assert len(work.calls) == 2


async def test_events_during_a_reconcile_are_one_more_look_afterwards_and_never_a_second_at_a_time() -> None:
    async with running() as work:
        work.gate = asyncio.Event()
        work.scheduler.wake("a")
        await turns()
        for _ in range(5):
            work.scheduler.wake("a")
        await turns()
        assert len(work.calls) == 1
        work.gate.set()
        await turns()
        assert (len(work.calls), work.most_at_once) == (2, 1)


async def test_accounts_do_not_wait_for_each_other() -> None:
    async with running() as work:
        work.gate = asyncio.Event()
        for uid in "abc":
            work.scheduler.wake(uid)
        await turns()
        assert work.most_at_once == 3
        work.gate.set()
        await turns()


async def test_a_failure_is_tried_again_later_each_time() -> None:
    async with running() as work:
        work.failures = [RuntimeError(), RuntimeError(), RuntimeError()]
        work.scheduler.wake("a")
        await turns()
        for _ in range(12):
            await work.pass_time(1)
        assert [when for _, when in work.calls] == [0, 1, 3, 7]


async def test_after_a_success_the_next_failure_is_tried_again_as_soon_as_the_first() -> None:
    async with running() as work:
        work.failures = [RuntimeError(), RuntimeError()]
        work.scheduler.wake("a")
        await turns()
        for _ in range(3):
            await work.pass_time(1)
        work.failures = [RuntimeError()]
        work.scheduler.wake("a")
        await work.pass_time(0)
        await work.pass_time(1)
        assert [when for _, when in work.calls] == [0, 1, 3, 3, 4]


async def test_an_event_during_a_reconcile_that_fails_does_not_make_the_next_try_earlier() -> None:
    async with running() as work:
        work.gate = asyncio.Event()
        work.failures = [RuntimeError()]
        work.scheduler.wake("a")
        await turns()
        work.scheduler.wake("a")
        work.gate.set()
        await turns()
        assert len(work.calls) == 1
        await work.pass_time(1)
        assert [when for _, when in work.calls] == [0, 1]


async def test_with_the_api_server_away_a_due_refresh_is_not_late() -> None:
    async with running() as work:
        work.failures = [ClusterUnavailable(NOW + timedelta(seconds=s)) for s in (100, 100, 100, 100, 9)]
        work.scheduler.wake("a")
        await turns()
        for _ in range(9):
            await work.pass_time(1)
        assert [when for _, when in work.calls] == [0, 1, 3, 7]
        await work.pass_time(6)
        assert work.calls[-1] == ("a", 15)


async def test_with_the_api_server_away_a_refresh_that_is_due_before_the_next_try_does_not_wait_for_it() -> None:
    async with running() as work:
        work.failures = [ClusterUnavailable(NOW + timedelta(seconds=s)) for s in (100, 100, 100, 9)]
        work.scheduler.wake("a")
        await turns()
        for _ in range(9):
            await work.pass_time(1)
        assert [when for _, when in work.calls] == [0, 1, 3, 7, 9]


async def test_stopping_waits_for_what_runs_and_starts_nothing_more() -> None:
    async with running() as work:
        work.gate = asyncio.Event()
        work.scheduler.wake("a")
        await turns()
        stopping = asyncio.create_task(work.scheduler.stop(grace=30))
        await turns()
        work.scheduler.wake("b")
        await turns()
        assert not stopping.done()
        work.gate.set()
        assert await stopping
        assert [uid for uid, _ in work.calls] == ["a"]


async def test_many_events_leave_no_trace() -> None:
    async with running() as work:
        work.due["a"] = NOW + timedelta(hours=8)
        for _ in range(500):
            work.scheduler.wake("a")
            await turns()
        assert len(work.calls) == 500
        assert len(work.scheduler._heap) < 100


async def test_a_loop_that_turns_says_when_and_one_that_is_stuck_does_not() -> None:
    async with running() as work:
        await turns()
        work.scheduler.last_turn = 0.0
        await turns()
        assert work.scheduler.last_turn == 0.0  # nothing woke it
        work.scheduler.wake("a")
        await turns()
        assert work.scheduler.last_turn > 0.0


async def test_a_clock_that_is_set_back_makes_nobody_wait_for_a_time_that_was_meant_to_be_now() -> None:
    async with running() as work:
        work.due["a"] = NOW + timedelta(minutes=5)
        work.scheduler.wake("a")
        await turns()
        await work.pass_time(-6 * 3600)
        assert len(work.calls) == 2


async def test_a_reconcile_that_hangs_is_cut_short_for_what_cannot_wait() -> None:
    async with running() as work:
        hanging = work.gate = asyncio.Event()
        work.scheduler.wake("a")
        await turns()
        work.gate = None
        work.scheduler.wake("a")
        await turns()
        assert len(work.calls) == 1
        work.scheduler.interrupt("a")
        await turns()
        assert (len(work.calls), work.most_at_once, hanging.is_set()) == (2, 1, False)


async def test_stopping_gives_a_last_turn_to_those_who_have_something_to_tell() -> None:
    async with running() as work:
        stopping = asyncio.create_task(work.scheduler.stop(30, {"a"}))
        await asyncio.sleep(0)
        work.scheduler.wake("b")
        assert await stopping
        assert [uid for uid, _ in work.calls] == ["a"]
