"""The threads of one volume, and a time limit for every call: a volume that hangs blocks only those who need it.

A call that hangs cannot be stopped, only abandoned. It may still finish one day, so no other call with the same key begins
before that: an abandoned call must not overwrite what came later.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from oauth_pool_operator.errors import StoreFailed

VOLUME_SECONDS = 10.0
THREADS = 4

_T = TypeVar("_T")
_Jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class VolumeSilent(StoreFailed):
    """A call to the volume did not return in time; what it has done or will do is unknown."""


class Volume:
    """Calls to one volume. People read `name`."""

    def __init__(self, name: str, *, seconds: float | None = None, threads: int = THREADS) -> None:
        self.name = name
        self._seconds = VOLUME_SECONDS if seconds is None else seconds
        self._most_threads = threads
        self._threads = 0
        self._jobs: _Jobs = SimpleQueue()
        self._latest: dict[str, Future[Any]] = {}  # by key
        self._unanswered: dict[Future[Any], float] = {}  # since when
        self._given_up = weakref.WeakSet[Future[Any]]()  # their callers were told that the volume is silent
        weakref.finalize(self, _end, self._jobs, threads)

    async def call(self, key: str, function: Callable[[], _T]) -> _T:
        """What the function returns or raises; `VolumeSilent` when that takes too long. Those of one key take turns."""
        future: Future[_T] | None = None
        try:
            async with asyncio.timeout(self._seconds):
                while (before := self._latest.get(key)) is not None and not before.done():
                    self._refuse_if(self._hangs(before))
                    await _end_of(before)
                self._refuse_if(sum(map(self._hangs, self._unanswered.copy())) >= self._most_threads)
                future = self._latest[key] = self._begin(function)
                try:
                    return await asyncio.wrap_future(future)
                finally:
                    if future.done() and self._latest.get(key) is future:
                        del self._latest[key]
        except TimeoutError:
            if future is not None:
                self._given_up.add(future)  # by the event loop's clock, which may be ahead of ours
            raise VolumeSilent(f"the {self.name} volume has not answered for {self._seconds:g} s") from None

    @property
    def unanswered_for(self) -> float:
        """The age in seconds of the oldest call that has not returned; may be read from any thread."""
        now = time.monotonic()
        return now - min(self._unanswered.copy().values(), default=now)

    @property
    def why_silent(self) -> str:
        """That it hangs, in a few words; empty when it does not. May be read from any thread."""
        if not any(map(self._hangs, self._unanswered.copy())):
            return ""
        return f"the {self.name} volume has not answered for {self.unanswered_for:.0f} s"

    def _hangs(self, future: Future[Any]) -> bool:
        if future in self._given_up:
            return True
        return time.monotonic() - self._unanswered.get(future, time.monotonic()) > self._seconds

    def _refuse_if(self, hangs: bool) -> None:
        """Fail at once instead of waiting for a call that hangs."""
        if hangs:
            raise VolumeSilent(self.why_silent or f"the {self.name} volume does not answer")

    def _begin(self, function: Callable[[], _T]) -> "Future[_T]":
        future = Future[_T]()
        self._unanswered[future] = time.monotonic()
        future.add_done_callback(lambda one: self._unanswered.pop(one, None) and None)
        self._jobs.put((future, function))
        if self._threads < min(self._most_threads, len(self._unanswered)):
            self._threads += 1
            # a daemon: the process ends, whatever hangs
            Thread(target=_work, args=(self._jobs,), name=f"{self.name} volume", daemon=True).start()
        return future


def _work(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        future, function = job
        if not future.set_running_or_notify_cancel():
            continue  # given up before it began
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is the caller's)
            future.set_exception(error)
        else:
            future.set_result(result)
        del job, future, function


def _end(jobs: _Jobs, threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)


async def _end_of(future: Future[Any]) -> None:
    """Wait for it, however it ends; whoever waits may be cancelled, and it is not."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(tell)
    await ended.wait()
