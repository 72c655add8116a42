"""The data plane alone: clients go on asking two proxies while everything else is killed, silent, deleted or rolled back."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support.control_plane import ControlPlane
from tests.test_operator.crash_trials.api_link import ApiLink

from .data_plane_faults import FAULTS, Deleted, Fault, WatchesForgotten
from .data_plane_stack import LOGINS, MAPS, DataPlaneStack
from .load import Load
from .pool_stack import own_control_plane
from .program import Program, Report, Say

CONVERGED_SECONDS = 15.0
PATIENCE_SECONDS = 120.0
DUE_MEANWHILE_SECONDS = 30.0
"""In a shorter outage, no token is due."""
COLUMNS = ("what went wrong", "lasted s", "requests", "streams", "failed", "right again s", "new tokens used s")
PROMISE = (
    "Clients notice nothing of API server, operator and ConfigMaps while tokens are valid; "
    f"{CONVERGED_SECONDS:.0f} s after a fault has ended, everything is as if it had not been."
)


@dataclass(frozen=True)
class Size:
    rate: float
    """Requests a second."""
    streams: int
    """At once."""
    outage: float
    """Seconds."""
    pause: float = 1
    """Seconds between two events of a stream."""
    converged: float = CONVERGED_SECONDS
    faults: tuple[type[Fault], ...] = FAULTS


def short() -> Size:
    """A crowded machine may take its time. Nobody waits for a bookmark that does not come, or for two looks of the operator."""
    faults = tuple(fault for fault in FAULTS if fault not in (WatchesForgotten, Deleted))
    return Size(20, 10, 1, pause=0.2, converged=PATIENCE_SECONDS, faults=faults)


def program(outage: float = 240) -> Program:
    """`outage` in seconds is how long what is away stays away."""

    def run(is_short: bool, say: Say) -> Report:
        with own_control_plane() as plane:
            return run_on(plane, short() if is_short else Size(100, 200, outage), say)

    return Program("data-plane", PROMISE, run, minutes=20 + 4 * outage / 60)


def run_on(plane: ControlPlane, size: Size, say: Say) -> Report:
    """On a control plane that nobody else uses."""
    return asyncio.run(_run(plane, size, say))


async def _run(plane: ControlPlane, size: Size, say: Say) -> Report:
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        link = ApiLink(httpx2.URL(plane.server).port or 443)
        async with link.running():
            stack = DataPlaneStack(plane, Path(folder), tokens="sealed")
            stack.link = link
            try:
                await asyncio.to_thread(stack.begin, size.pause)
                load = Load(lambda: stack.ports, rate=size.rate, streams=size.streams)
                say(f"{size.rate:g} requests a second and {size.streams} streams through two proxies")
                async with load.running():
                    trial = Trial(stack, load, size, say)
                    for fault in size.faults:
                        await trial.suffer(fault)
            finally:
                await asyncio.to_thread(stack.close)
    trial.report.failures += load.seen.failures
    return trial.report


class Trial:
    def __init__(self, stack: DataPlaneStack, load: Load, size: Size, say: Say) -> None:
        self.report = Report(COLUMNS)
        self._stack, self._seen, self._size, self._say = stack, load.seen, size, say
        self._older: dict[str, dict[str, str]] = {}
        self._rotations = 0

    async def suffer(self, kind: type[Fault]) -> None:
        """One fault from its beginning to the time when nothing is left of it."""
        if not self._older:
            await self._rotate(time.monotonic(), "the first rotation")
        due_meanwhile = kind.lasts and self._size.outage >= DUE_MEANWHILE_SECONDS
        if due_meanwhile:
            await self._make_some_due(1.5 * self._size.outage)
        generations = await asyncio.to_thread(self._stack.generations)
        seen = self._seen
        before = seen.requests, seen.streams, seen.failed
        fault, began = kind(self._stack, self._older), time.monotonic()
        self._say(f"{fault.name} …")
        await fault.begin()
        await asyncio.sleep(self._size.outage if fault.lasts else 0)
        await fault.end()
        ended = time.monotonic()

        def is_right() -> bool:
            if not self._stack.is_right() or not self._stack.has_lease():
                return False
            now, newer = self._stack.generations(), LOGINS if due_meanwhile else ()
            return all(now[name] >= number + (name in newer) for name, number in generations.items())

        right = await self._in_time(ended, fault.name, "right again", is_right)
        used = await self._rotate(ended, fault.name)
        counts = [now - then for now, then in zip((seen.requests, seen.streams, seen.failed), before, strict=True)]
        self.report.rows.append((fault.name, f"{ended - began:.0f}", *counts, f"{right:.1f}", f"{used:.1f}"))
        if counts[-1]:
            self.report.failures.append(f"{fault.name}: {counts[-1]} requests failed")
        self._say(f"{fault.name}: {counts[-1]} failed, new tokens in use {used:.1f} s after its end")

    async def _make_some_due(self, life: float) -> None:
        """Some accounts have tokens that are refreshed after half that many seconds: in the middle of what comes."""
        await asyncio.to_thread(self._stack.set_life, round(life))
        await self._rotate(time.monotonic(), "tokens that will be due")
        await asyncio.to_thread(self._stack.set_life, None)

    async def _rotate(self, since: float, what: str) -> float:
        """Ask for new tokens; seconds from `since` until both proxies use no others."""
        stack = self._stack
        self._older = {which: await asyncio.to_thread(stack.data, which) for which in MAPS}
        old = set((await asyncio.to_thread(stack.fingerprints)).values())
        self._rotations += 1
        await asyncio.to_thread(stack.ask_for_tokens, f"trust-{self._rotations}")

        def are_used() -> bool:
            if not stack.is_right() or old & (new := set(stack.fingerprints().values())):
                return False
            return all(used and used <= new for used in stack.in_use())

        return await self._in_time(since, what, "new tokens in use", are_used)

    async def _in_time(self, since: float, what: str, state: str, holds: Callable[[], bool]) -> float:
        """Seconds from `since` until that holds; a failure if they are too many."""
        while not await asyncio.to_thread(_holds, holds):
            if time.monotonic() - since > PATIENCE_SECONDS:
                break
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - since
        if seconds > self._size.converged:
            self.report.failures.append(f"{what}: {state} only after {seconds:.1f} s")
        return seconds


def _holds(holds: Callable[[], bool]) -> bool:
    """An API server that does not answer says no."""
    try:
        return holds()
    except httpx2.TransportError:
        return False
