"""What is done to a variant, case by case, and the figures that come of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.figures import Figures
from tests.bench.load_program import Generator, Target
from tests.bench.processes import PeakRss, Process, other_cpu_seconds

CONNECTIONS = 32
SETTLED = 0.3
"""Seconds after which a process that is ready has the RSS that it starts from."""


class Measurement:
    """One variant, started anew, and the load it gets. CPU and RSS are its process's; `direct` has none."""

    def __init__(self, target: Target, generator: Generator, upstream: Process, seconds: float) -> None:
        self.target, self.seconds = target, seconds
        self._generator = generator
        self._ours = [upstream, target.process] if target.process else [upstream]
        self._other_cpu_seconds = self._seconds = 0.0
        time.sleep(SETTLED)
        self.idle_rss = self.rss()

    def rss(self) -> float:
        return self.target.process.rss_mib() if self.target.process else 0

    def requests(self, **flags: float) -> Figures:
        return self.load("requests", connections=CONNECTIONS, seconds=self.seconds, **flags)

    def storm(self, streams: int, per_second: int) -> Figures:
        """All streams opened within one second, each on a new connection."""
        events = int(per_second * max(2, self.seconds))
        return self.load("streams", streams=streams, events=events, per_second=per_second)

    def load(self, kind: str, **flags: float) -> Figures:
        other, began = other_cpu_seconds(self._ours), time.monotonic()
        figures = self._load(kind, **flags)
        self._other_cpu_seconds += other_cpu_seconds(self._ours) - other
        self._seconds += time.monotonic() - began
        return figures

    def other_work(self) -> float:
        """How much of a core, in percent, something else on this machine took while load was sent."""
        return 100 * self._other_cpu_seconds / self._seconds if self._seconds else 0

    def _load(self, kind: str, **flags: float) -> Figures:
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
        return figures | {"busy": 100 * used / took, "rss_peak": peak.mib}

    def with_rss(self, figures: Figures) -> Figures:
        """The figures, and the RSS before and after."""
        if not self.target.process:
            return figures
        time.sleep(1)
        return figures | {"rss_idle": self.idle_rss, "rss_after": self.rss()}


def json_requests(of: Measurement) -> Figures:
    return of.with_rss(of.requests())


def handshakes(of: Measurement) -> Figures:
    """Requests on kept connections, and as many as go on new ones: the difference is a handshake, TCP included."""
    kept, new = of.requests(), of.requests(last=True)
    figures = of.with_rss(_in_phases(kept=kept, new=new))
    if of.target.process:
        figures["handshake_cpu_us"] = new["cpu_us"] - kept["cpu_us"]
    return figures


def latency(of: Measurement) -> Figures:
    return of.requests(rate=100)


def large_bodies(of: Measurement) -> Figures:
    return of.with_rss(of.requests(body_bytes=1 << 20))


def sse_200(of: Measurement) -> Figures:
    return of.with_rss(of.storm(200, 50))


def sse_1000(of: Measurement) -> Figures:
    return of.with_rss(of.storm(1000, 20))


def tls_1000(of: Measurement) -> Figures:
    """A storm that finds no connection to the upstream, one that finds those of the first, and requests."""
    cold = of.storm(1000, 20)
    time.sleep(1)
    return of.with_rss(_in_phases(cold=cold, warm=of.storm(1000, 20), json=of.requests()))


def after_storm(of: Measurement) -> Figures:
    before, storm = of.requests(), of.storm(1000, 20)
    time.sleep(1)
    after = of.requests()
    figures = of.with_rss(_in_phases(before=before, storm=storm, after=after))
    return figures | {"after_of_before": after["per_second"] / before["per_second"]}


def slow_reader(of: Measurement) -> Figures:
    """What one, and then a hundred clients cost that take a little of 10 MiB at a time."""
    one, many = of.load("slow", clients=1, seconds=of.seconds), of.load("slow", clients=100, seconds=of.seconds)
    figures = of.with_rss(_in_phases(one=one, many=many))
    return figures | {f"{name}_cost": figures[f"{name}_rss_peak"] - of.idle_rss for name in ("one", "many")}


def large_uploads(of: Measurement) -> Figures:
    """30 bodies of 8 MiB at once, heads 3 s late, 50 streams beside them."""
    return of.with_rss(of.load("uploads"))


def idle(of: Measurement) -> Figures:
    time.sleep(3 - SETTLED)
    return {"rss_idle": of.rss(), "ready_seconds": of.target.ready_seconds}


def _in_phases(**phases: Figures) -> Figures:
    """One after the other on the same process: each figure with its phase's name, failures and peak of all together."""
    figures = {f"{phase}_{name}": value for phase, each in phases.items() for name, value in each.items()}
    figures["failed"] = sum(each["failed"] for each in phases.values())
    if peaks := [each["rss_peak"] for each in phases.values() if "rss_peak" in each]:
        figures["rss_peak"] = max(peaks)
    return figures


@dataclass(frozen=True)
class Case:
    title: str
    measure: Callable[[Measurement], Figures]
    is_tls: bool = False
    has_direct: bool = True
    """Whether there is something to compare without a proxy."""
    is_for_slow: bool = False
    """Whether variants take part that serve no more than about 100 requests a second."""
    accounts: int = 10
    """In the pool."""
    length: float = 1
    """How many times `--seconds` it takes, to have enough to count."""


CASES = {
    "json": Case("32 connections, answers of 2 KB, as fast as it goes", json_requests, is_for_slow=True),
    "json-1000": Case("json, with 1,000 accounts in the pool", json_requests, has_direct=False, accounts=1000),
    "handshakes": Case("json over TLS, on kept connections and on new ones", handshakes, is_tls=True, has_direct=False),
    "latency": Case("100 requests per second", latency, length=4),
    "sse-200": Case("200 streams of 50 events per second", sse_200, is_for_slow=True),
    "sse-1000": Case("1,000 streams of 20 events per second", sse_1000, length=1.5),
    "body-1mb": Case("32 connections, requests of 1 MB", large_bodies),
    "tls-1000": Case(
        "sse-1000 and json with an upstream behind TLS, cold and warm", tls_1000, is_tls=True, has_direct=False
    ),
    "after-storm": Case("json before and after sse-1000, and the memory", after_storm, has_direct=False),
    "slow-reader": Case("100 clients that read 10 MiB slowly", slow_reader, has_direct=False),
    "uploads": Case(
        "30 bodies of 8 MiB at once, an upstream behind TLS whose heads are 3 s late, 50 streams beside them",
        large_uploads,
        is_tls=True,
        has_direct=False,
    ),
    "idle": Case("start and rest", idle, has_direct=False, is_for_slow=True),
}
"""In each storm all streams are opened within one second, on new connections."""
