"""The proxy's life cycle: its states, the requests in flight, and the drain.

Initializing -> Starting -> Running -> Draining -> Stopped
"""

import asyncio
import logging
import time
from enum import Enum

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 0.3
"""Time for what is left after the drain timeout: error events and bytes already written."""


class ServiceState(Enum):
    INITIALIZING = "Initializing"
    STARTING = "Starting"
    RUNNING = "Running"
    DRAINING = "Draining"
    STOPPED = "Stopped"


_ORDER = list(ServiceState)


class Service:
    """States only move forward. Nothing leaves Stopped."""

    def __init__(self) -> None:
        self.state = ServiceState.INITIALIZING
        self.started_at = time.monotonic()
        self._tasks: set[asyncio.Task[object]] = set()
        self._changed = asyncio.Event()
        self.is_forced = False
        """Do not wait for requests: a second signal came."""

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def is_running(self) -> bool:
        return self.state is ServiceState.RUNNING

    def starting(self) -> None:
        if self._move(ServiceState.STARTING):
            log.info("state: Starting")

    def running(self, **addresses: str) -> None:
        if self._move(ServiceState.RUNNING):
            log.info("state: Running — accepting requests", extra={"fields": addresses})

    def stopped(self) -> None:
        if self._move(ServiceState.STOPPED):
            log.info("shutdown complete")

    def begin(self) -> asyncio.Task[object]:
        """Count the calling task as a request in flight until `end` is called with the returned task."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        return task

    def end(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    def force(self) -> None:
        """Stop waiting, at a second signal."""
        self.is_forced = True
        self._changed.set()

    def leave(self) -> None:
        """From now on, the proxy is no longer ready."""
        self._move(ServiceState.DRAINING)

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the requests in flight, then cancel the rest. Those tell their clients."""
        self.leave()
        if self.state is not ServiceState.DRAINING:
            return
        try:
            async with asyncio.timeout(timeout):
                while self._tasks and not self.is_forced:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if not self._tasks:
            log.info("all in-flight requests drained")
            return
        fields = {"remaining": len(self._tasks), "drain_timeout_secs": timeout}
        log.warning("drain timeout exceeded, forcing shutdown", extra={"fields": fields})
        survivors = list(self._tasks)
        for task in survivors:
            task.cancel()
        await asyncio.wait(survivors, timeout=FAREWELL_SECONDS)

    def _move(self, state: ServiceState) -> bool:
        if _ORDER.index(state) <= _ORDER.index(self.state):
            return False
        self.state = state
        return True
