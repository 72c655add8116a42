"""When each account is reconciled: at once when something happened, and again when it is due.

One task with a heap of due times for all accounts. An account is never reconciled twice at a time; what happens meanwhile
is looked at once more afterwards. An unexpected failure is tried again, later each time.
"""

import asyncio
import heapq
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.errors import ClusterUnavailable

log = logging.getLogger(__name__)

FIRST_RETRY = timedelta(seconds=1)
LAST_RETRY = timedelta(minutes=1)
# How long the heap's task sleeps at most: wall-clock times are due even after the clock was set.
LONGEST_SLEEP = 30.0


@dataclass
class _Entry:
    due: datetime | None = None
    is_running: bool = False
    is_wanted: bool = False
    failures: int = 0


class Scheduler:
    """Calls `reconcile(uid)`, which returns the next due time, or None when there will be none."""

    def __init__(
        self,
        reconcile: Callable[[str], Awaitable[datetime | None]],
        *,
        clock: Callable[[], datetime],
        name_of: Callable[[str], str] = str,
        may_start: Callable[[], bool] = lambda: True,
    ) -> None:
        self._reconcile = reconcile
        self._clock = clock
        self._may_start = may_start  # while it says no, what is due waits; `look` after it has changed its mind
        self._name_of = name_of  # for log lines
        self._entries: dict[str, _Entry] = {}
        self._heap: list[tuple[datetime, str]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_stopping = False
        self.last_turn = time.monotonic()

    def wake(self, uid: str) -> None:
        """Reconcile the account as soon as possible."""
        self._set_due(uid, self._entries.setdefault(uid, _Entry()), self._clock())

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

    async def stop(self, grace: float) -> bool:
        """Start nothing more and wait for what runs; True when all of it has ended within `grace` seconds."""
        self._is_stopping = True
        if not self._running:
            return True
        log.info("waiting for %d reconciles in flight", len(self._running))
        _, pending = await asyncio.wait(self._running, timeout=grace)
        return not pending

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
            if entry is None or entry.due != due or entry.is_running or self._is_stopping:
                continue  # superseded by an earlier due time, or gone
            entry.due, entry.is_running = None, True
            task = asyncio.create_task(self._run_one(uid, entry), name=f"reconcile {uid}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run_one(self, uid: str, entry: _Entry) -> None:
        try:
            due = await self._reconcile(uid)
            entry.failures = 0
        except Exception as error:  # noqa: BLE001 (one account must not end the loop)
            due = self._clock() + min(FIRST_RETRY * 2**entry.failures, LAST_RETRY)
            if isinstance(error, ClusterUnavailable):
                due = min(due, error.next_check)
                error = error.__cause__ if isinstance(error.__cause__, Exception) else error
            entry.failures = min(entry.failures + 1, 16)
            # the traceback names code, not data; the error's own text may quote an object, so only its kind is logged
            log.warning("%s: reconcile failed (%s); again at %s", self._name_of(uid), _kind(error), rfc3339(due))
            log.debug("where it failed: %s", "".join(traceback.format_tb(error.__traceback__)))
        finally:
            entry.is_running = False
        if entry.is_wanted:
            entry.is_wanted = False
            due = self._clock() if entry.failures == 0 else due
        if due is None:
            self._entries.pop(uid, None)
        elif due < NEVER:
            self._set_due(uid, entry, due)


def _kind(error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return f"{type(error).__name__}, {status}" if status is not None else type(error).__name__
