"""What is done to a variant, case by case, and the figures that come of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.load_program import Figures, Generator
from tests.bench.processes import PeakRss
from tests.bench.variants import Target

CONNECTIONS = 32
SETTLED = 0.3
"""Seconds after which a process that is ready, or has nothing to do any more, has the RSS that it keeps."""


class Measurement:
    """One variant, started anew, and the load it gets. CPU and RSS are its process's; `direct` has none."""

    def __init__(self, target: Target, generator: Generator, seconds: float) -> None:
        self.target, self.seconds = target, seconds
        self._generator = generator
        time.sleep(SETTLED)
        self.idle_rss = self.rss()

    def rss(self) -> float:
        return self.target.process.rss_mib() if self.target.process else 0

    def requests(self, seconds: float | None = None, **flags: float) -> Figures:
        return self.load("requests", connections=CONNECTIONS, seconds=seconds or self.seconds, **flags)

    def storm(self, streams: int, per_second: int) -> Figures:
        """All streams opened within one second, each on a new connection."""
        events = int(per_second * max(1, self.seconds))
        return self.load("streams", streams=streams, events=events, per_second=per_second)

    def load(self, kind: str, **flags: float) -> Figures:
        process = self.target.process
        if not process:
            return self._generator.run(kind, **flags)
        cpu, began = process.cpu_seconds(), time.monotonic()
        with PeakRss(process) as peak:
            figures = self._generator.run(kind, **flags)
        process.check()
        took, used = time.monotonic() - began, process.cpu_seconds() - cpu
        if done := figures["done"]:
            figures["cpu_us"] = used * 1e6 / done
        return figures | {"busy_percent": 100 * used / took, "rss_peak": peak.mib}

    def with_rss(self, figures: Figures) -> Figures:
        """The figures, and the RSS before and after."""
        if not self.target.process:
            return figures
        time.sleep(1)
        return figures | {"rss_idle": self.idle_rss, "rss_after": self.rss()}


@dataclass(frozen=True)
class Case:
    title: str
    measure: Callable[[Measurement], Figures]
    is_tls: bool = False
    is_direct: bool = True
    """Whether there is something to compare without a proxy."""
    is_for_slow: bool = False
    """Whether a variant that serves about 100 requests a second takes part."""
    length: float = 1
    """How many times `--seconds` it takes per measurement, to have enough to count."""


def json_requests(of: Measurement) -> Figures:
    return of.with_rss(of.requests())


def latency(of: Measurement) -> Figures:
    return of.requests(rate=100)


def streams_200(of: Measurement) -> Figures:
    return of.with_rss(of.storm(200, 50))


def streams_1000(of: Measurement) -> Figures:
    return of.with_rss(of.storm(1000, 20))


CASES = {
    "json": Case(
        f"{CONNECTIONS} connections, JSON answers of 2 KB, as fast as it goes", json_requests, is_for_slow=True
    ),
    "latency": Case("100 requests per second", latency, length=4),
    "sse-200": Case("200 streams of 50 events per second", streams_200, is_for_slow=True),
    "sse-1000": Case("1,000 streams of 20 events per second, opened within one second", streams_1000, length=1.5),
}
