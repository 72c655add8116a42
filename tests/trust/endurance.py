"""Everything at once for a long time: short streams, short tokens, flapping quota, proxies that join and leave, clocks that jump."""

import asyncio
import re
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.support.control_plane import ControlPlane

from .endurance_stack import EnduranceStack, message_of
from .load import Load, p99
from .pool_stack import own_control_plane, subject_of
from .program import Program, Report, Say
from .proxy_process import troubles
from .samples import Samples

PROMISE = (
    "Hours are like minutes: memory, descriptors and latency stay as they are while tokens are refreshed, quota "
    "flaps, proxies come and go and clocks jump; no request fails, and no log line is unexplained."
)
JUMPS = (300.0, -300.0, 3600.0, -3600.0)
EXPLAINED = {
    "account benched": "its quota was used up, as it is made to be",
    "the clock was set back": "so it was",
    "provider broken cannot be used": "the stack has one of which no account is",
}
"""Log lines of level WARNING that have to come, by their beginning."""


@dataclass(frozen=True)
class Size:
    seconds: float
    accounts: int = 50
    life: int = 40
    """Seconds of an access token."""
    rate: float = 100
    """Short streams a second."""
    membership: float = 20
    """Seconds after which a proxy joins, or leaves."""
    jump: float = 8
    """Seconds that a clock is wrong."""
    judges_growth: bool = True


def short() -> Size:
    """Too little time for anything to grow."""
    return Size(8, accounts=6, life=12, rate=20, membership=2, jump=0.5, judges_growth=False)


def program(minutes: float = 15) -> Program:
    """`minutes` is how long it lasts before the clocks jump."""

    def run(is_short: bool, say: Say) -> Report:
        with own_control_plane() as plane:
            return run_on(plane, short() if is_short else Size(minutes * 60), say)

    return Program("endurance", PROMISE, run, minutes=minutes + 10)


def run_on(plane: ControlPlane, size: Size, say: Say) -> Report:
    return asyncio.run(_run(plane, size, say))


async def _run(plane: ControlPlane, size: Size, say: Say) -> Report:
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        stack = EnduranceStack(plane, Path(folder), size.accounts, size.life)
        try:
            await asyncio.to_thread(stack.begin)
            trial = Endurance(stack, size, say)
            await trial.run()
        finally:
            await asyncio.to_thread(stack.close)
    return trial.report


class Endurance:
    def __init__(self, stack: EnduranceStack, size: Size, say: Say) -> None:
        self.report = Report(("what", "after warm-up", "at the end", "allowed"))
        self._stack, self._size, self._say = stack, size, say
        self._guests_lines: list[str] = []
        self._ports = [proxy.port for proxy in stack.stay]
        self._visits = self._exhausted = 0

    async def run(self) -> None:
        stack, size = self._stack, self._size
        load = Load(lambda: self._ports, rate=size.rate, is_streamed=True)
        self._say(f"{size.rate:g} streams a second, {size.accounts} accounts, {size.seconds / 60:.1f} minutes")
        async with load.running():
            busy = [asyncio.create_task(self._flap()), asyncio.create_task(self._come_and_go())]
            samples = await self._watch()
            await asyncio.to_thread(stack.give_long_tokens)
            await self._jump()
            for task in busy:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._judge(load, samples)

    # --- what happens ------------------------------------------------------------------------------------------------

    async def _watch(self) -> Samples:
        samples, began = Samples(self._stack.pids), time.monotonic()
        while (passed := time.monotonic() - began) < self._size.seconds:
            samples.take(passed)
            if int(passed) % 60 == 59:
                self._say(f"{passed / 60:.0f} minutes; {samples.latest}")
            await asyncio.sleep(1)
        return samples

    async def _flap(self) -> None:
        """Now this account has no quota for some seconds, now that one."""
        for number in count():
            name = self._stack.logins[number % len(self._stack.logins)]
            await asyncio.to_thread(self._stack.simulator.exhaust, subject_of(name), reset_in=5)
            self._exhausted += 1
            await asyncio.sleep(3)

    async def _come_and_go(self) -> None:
        """One proxy more, then one less. It is asked as soon as it is ready, and no more before it ends, as by a Service."""
        for number in count():
            guest = await asyncio.to_thread(self._stack.join, f"guest-{number}")
            try:
                await asyncio.to_thread(self._stack.wait_until_it_holds, guest, self._size.accounts)
                self._ports.append(guest.port)
                await asyncio.sleep(self._size.membership)
                self._ports.remove(guest.port)
                await asyncio.sleep(0.5)
            finally:
                self._ports = [port for port in self._ports if port != guest.port]
                code = await asyncio.shield(asyncio.to_thread(self._stack.leave, guest))
                self._guests_lines += troubles(guest.process.lines)
            if code != 0:
                self.report.failures.append(f"{guest.name} ended with exit code {code}")
            self._visits += 1
            await asyncio.sleep(self._size.membership)

    async def _jump(self) -> None:
        """Each clock in each direction, and back."""
        for program in ("operator", "proxy"):
            for seconds in JUMPS:
                self._say(f"the clock of {program} jumps by {seconds:+g} s")
                self._stack.jump(program, seconds)
                await asyncio.sleep(self._size.jump)
                self._stack.jump(program, 0)
                await asyncio.sleep(self._size.jump / 2)

    # --- what came of it -----------------------------------------------------------------------------------------------

    async def _judge(self, load: Load, samples: Samples) -> None:
        stack, size, report = self._stack, self._size, self.report
        judged = samples.judge(grows=size.judges_growth)
        report.rows += judged.rows
        report.failures += judged.failures
        self._judge_latency(load, samples)
        report.rows.append(("streams, failed", load.seen.requests, load.seen.failed, 0))
        report.failures += load.seen.failures
        done, failed = [await asyncio.to_thread(stack.refreshes, result) for result in ("success", "failure")]
        report.rows.append(("refreshes, failed", done, failed, 0))
        if failed:
            report.failures.append(f"{failed} refreshes failed")
        if done < size.accounts * size.seconds / 60:
            report.failures.append(f"only {done} refreshes: the trial shows little")
        report.rows.append(("quota used up, proxies that came and went", self._exhausted, self._visits, "any"))
        self._judge_lines()

    def _judge_latency(self, load: Load, samples: Samples) -> None:
        times = list(load.seen.seconds)
        middle = samples.began + self._size.seconds * 2 / 3
        warm = [took for sent, took in times if samples.began + self._size.seconds / 3 <= sent < middle]
        end = [took for sent, took in times if middle <= sent < samples.began + self._size.seconds]
        before, after = p99(warm) * 1000, p99(end) * 1000
        most = before * 1.5 + 5
        self.report.rows.append(("p99 of a stream, ms", f"{before:.1f}", f"{after:.1f}", f"{most:.1f}"))
        if self._size.judges_growth and after > most:
            self.report.failures.append(f"p99 rose from {before:.1f} ms to {after:.1f} ms")

    def _judge_lines(self) -> None:
        stack = self._stack
        lines = [*troubles(stack.operator.lines), *self._guests_lines]
        lines += [line for proxy in stack.stay for line in troubles(proxy.process.lines)]
        unexplained = Counter(
            re.sub(r"\d+", "N", message_of(line)) for line in lines if not message_of(line).startswith(tuple(EXPLAINED))
        )
        self.report.rows.append(("log lines of WARN and ERROR, unexplained", len(lines), unexplained.total(), 0))
        self.report.failures += [f"{times} log lines: {text}" for text, times in unexplained.most_common(20)]
