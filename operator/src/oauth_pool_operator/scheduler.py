"""Schedules the reconciles of all accounts: at once when something happened, and again when one is due.

One task has a heap of due times for all accounts. An account never has two reconciles at a time; if something happens
meanwhile, it is reconciled once more afterwards. An unexpected failure is retried, later each time. Due times are wall-clock
times: when the clock is set back, every account is checked, so that none waits for a time that has passed.
"""

import asyncio
import heapq
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from oauth_pool_operator.account.backoff import Backoff
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.errors import ClusterUnavailable

log = logging.getLogger(__name__)

LAST_RETRY = timedelta(minutes=1)
# How long the heap's task sleeps at most: wall-clock times are due even after the clock was set.
LONGEST_SLEEP = 30.0
# A wall clock that has lost more than this against a clock that nobody sets was set back.
SET_BACK_SECONDS = 2.0


@dataclass(slots=True)
class _Entry:
    due: datetime | None = None
    is_running: bool = False
    is_wanted: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(longest=LAST_RETRY))
    task: asyncio.Task[None] | None = None


class Scheduler:
    """Calls `reconcile(uid)`, which returns the next due time, or None when there will be none."""

    def __init__(
        self,
        reconcile: Callable[[str], Awaitable[datetime | None]],
        *,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float] = time.monotonic,
        name_of: Callable[[str], str] = str,
        may_start: Callable[[], bool] = lambda: True,
    ) -> None:
        self._reconcile = reconcile
        self._clock = clock
        self._elapsed = elapsed
        self._started = clock().timestamp() - elapsed()  # on the wall clock as it is now
        self._may_start = may_start  # while it says no, what is due waits; `look` after it has changed its mind
        self._name_of = name_of  # for log lines
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[datetime, str]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._last: set[str] = set()  # who has a last turn while stopping
        self._has_ended = asyncio.Event()
        self.last_turn = time.monotonic()

    def wake(self, uid: str) -> None:
        """Reconcile the account as soon as possible."""
        self._set_due(uid, self._entries.setdefault(uid, _Entry()), self._clock())

    def interrupt(self, uid: str) -> None:
        """The same, also when the account is being reconciled, which may hang: that is cut short. Every step can be."""
        entry = self._entries.get(uid)
        if entry is not None and entry.task is not None:
            entry.task.cancel()
        self.wake(uid)

    def look(self) -> None:
        """Look at once whether something is due."""
        self._changed.set()

    def number_due(self) -> int:
        """How many accounts are due and wait; may be called from any thread."""
        now = self._clock()
        return sum(entry.due is not None and entry.due <= now for entry in list(self._entries.values()))

    def number_running(self) -> int:
        return len(self._running)

    def beat(self) -> None:
        """The loop turns, says whoever calls this."""
        self.last_turn = time.monotonic()

    async def run(self) -> None:
        """Start what is due, until cancelled."""
        while True:
            self.beat()
            self._changed.clear()
            self._notice_a_set_clock()
            timeout = LONGEST_SLEEP
            if self._may_start():
                self._start_due()
            if self._heap and self._may_start():
                timeout = min(timeout, max(0.0, (self._heap[0][0] - self._clock()).total_seconds()))
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def stop(self, grace: float, last: Collection[str] = ()) -> bool:
        """Start nothing more but a last turn of those accounts, and wait for what runs; True when all of it has ended within
        `grace` seconds."""
        self._is_stopping, self._last = True, set(last)
        for uid in last:
            self.wake(uid)
        self.look()
        if self._running:
            log.info("waiting for %d reconciles in flight", len(self._running))
        try:
            async with asyncio.timeout(grace):
                while self._running or (self._last and self._may_start()):
                    self._has_ended.clear()
                    await self._has_ended.wait()
        except TimeoutError:
            return False
        return True

    def _notice_a_set_clock(self) -> None:
        started = self._clock().timestamp() - self._elapsed()
        if started < self._started - SET_BACK_SECONDS:
            log.warning("the clock was set back by %.0f s; checking all accounts", self._started - started)
            for uid in self._entries:
                self.wake(uid)
        self._started = started

    def _set_due(self, uid: str, entry: _Entry, due: datetime) -> None:
        if entry.is_running:
            entry.is_wanted = True
        elif entry.due is None or due < entry.due:
            entry.due = due
            heapq.heappush(self._heap, (due, uid))
            if len(self._heap) > 2 * len(self._entries) + 64:  # mostly superseded due times
                self._heap = [(entry.due, uid) for uid, entry in self._entries.items() if entry.due is not None]
                heapq.heapify(self._heap)
            self._changed.set()

    def _start_due(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, uid = heapq.heappop(self._heap)
            entry = self._entries.get(uid)
            if entry is None or entry.due != due or entry.is_running:
                continue  # superseded by an earlier due time, or gone
            if self._is_stopping and uid not in self._last:
                continue
            self._last.discard(uid)
            entry.due, entry.is_running = None, True
            task = entry.task = asyncio.create_task(self._run_one(uid, entry), name=f"reconcile {uid}")
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._has_ended.set()

    async def _run_one(self, uid: str, entry: _Entry) -> None:
        due: datetime | None = self._clock()
        try:
            due = await self._reconcile(uid)
            entry.backoff.reset()
        except asyncio.CancelledError:
            if not entry.is_wanted:
                raise  # the process ends; else it was interrupted
        except Exception as error:  # noqa: BLE001 (one account must not end the loop)
            due = entry.backoff.put_off(self._clock())
            if isinstance(error, ClusterUnavailable):
                due = min(due, error.next_check)
                error = error.__cause__ if isinstance(error.__cause__, Exception) else error
            # the traceback names code, not data; the error's own text may quote an object, so only its kind is logged
            log.warning("%s: reconcile failed (%s); again at %s", self._name_of(uid), _kind(error), rfc3339(due))
            log.debug("where it failed: %s", "".join(traceback.format_tb(error.__traceback__)))
        finally:
            entry.is_running, entry.task = False, None
        if entry.is_wanted:
            entry.is_wanted = False
            due = self._clock() if entry.backoff.failures == 0 else due
        if due is None:
            self._entries.pop(uid, None)
        elif due < NEVER:
            self._set_due(uid, entry, due)


def _kind(error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return f"{type(error).__name__}, {status}" if status is not None else type(error).__name__
