"""What the pool mode, with everything that is on by default, has to reach, and what `[clients]` may cost beside it. Most bars are ratios to what the same run measured beside it."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.figures import Results


@dataclass(frozen=True)
class Bar:
    case: str
    what: str
    limit: float
    value: Callable[[Results], float | None]
    """None if the run did not measure all that it takes."""
    is_at_least: bool = False

    def is_reached(self, results: Results) -> bool | None:
        value = self.value(results)
        if value is None:
            return None
        return value >= self.limit if self.is_at_least else value <= self.limit


def bars() -> list[Bar]:
    return [
        Bar("json", "requests/s, of nginx", 0.22, _ratio("json", "per_second", "nginx"), is_at_least=True),
        Bar("json", "requests/s, of LiteLLM", 100, _ratio("json", "per_second", "litellm"), is_at_least=True),
        Bar("json", "CPU per request, clients of pool", 1.08, _clients_cost()),
        Bar("latency", "p99 over direct, ms", 1, _over_direct("latency", "duration_p99")),
        Bar("sse-1000", "failed streams", 0, _median("sse-1000", "failed", worst=True)),
        Bar("sse-1000", "CPU per event, of nginx", 1.5, _ratio("sse-1000", "cpu_us", "nginx")),
        Bar("sse-1000", "chunk delay p99 over direct, ms", 1, _over_direct("sse-1000", "delay_p99")),
        Bar("sse-1000", "first byte p99, ms", 100, _median("sse-1000", "first_byte_p99")),
        Bar("sse-1000", "peak RSS, MiB", 72, _median("sse-1000", "rss_peak")),
        Bar("body-1mb", "requests/s, of nginx", 0.5, _ratio("body-1mb", "per_second", "nginx"), is_at_least=True),
        Bar("tls-1000", "failed streams and requests", 0, _median("tls-1000", "failed", worst=True)),
        Bar("tls-1000", "CPU per event, warm, of nginx", 2.2, _ratio("tls-1000", "warm_cpu_us", "nginx")),
        Bar("tls-1000", "CPU per event, cold, of nginx", 2.2, _ratio("tls-1000", "cold_cpu_us", "nginx")),
        Bar("tls-1000", "first byte p99, cold, ms", 1000, _median("tls-1000", "cold_first_byte_p99")),
        Bar("tls-1000", "first byte p99, warm, ms", 100, _median("tls-1000", "warm_first_byte_p99")),
        Bar("tls-1000", "peak RSS, MiB", 96, _median("tls-1000", "rss_peak")),
        Bar("after-storm", "requests/s, of before", 0.9, _median("after-storm", "after_of_before"), is_at_least=True),
        Bar("after-storm", "RSS after, over idle, MiB", 30, _over_idle("after-storm", "rss_after")),
        Bar("slow-reader", "memory for 100 clients, MiB", 64, _median("slow-reader", "many_cost")),
        Bar("uploads", "failed streams and uploads", 0, _median("uploads", "failed", worst=True)),
        Bar("uploads", "peak RSS, MiB", 112, _median("uploads", "rss_peak", worst=True)),
        Bar("uploads", "latest event of a stream, ms", 100, _median("uploads", "delay_max", worst=True)),
        Bar("idle", "RSS, MiB", 48, _median("idle", "rss_idle")),
        Bar("idle", "seconds to ready", 0.6, _median("idle", "ready_seconds")),
    ]


Value = Callable[[Results], float | None]


def _ratio(case: str, figure: str, base: str) -> Value:
    return lambda results: results.ratio(case, "pool", figure, base)


def _clients_cost() -> Value:
    return lambda results: results.ratio("json", "clients", "cpu_us", "pool")


def _median(case: str, figure: str, *, worst: bool = False) -> Value:
    if worst:
        return lambda results: max(results.rounds(case, "pool", figure), default=None)
    return lambda results: results.median(case, "pool", figure)


def _over_direct(case: str, figure: str) -> Value:
    return lambda results: _middle(results.over(case, "pool", figure, "direct"))


def _over_idle(case: str, figure: str) -> Value:
    def value(results: Results) -> float | None:
        pairs = zip(results.rounds(case, "pool", figure), results.rounds(case, "pool", "rss_idle"), strict=True)
        return _middle([after - idle for after, idle in pairs])

    return value


def _middle(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
