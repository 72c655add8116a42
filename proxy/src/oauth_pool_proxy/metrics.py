"""The proxy's Prometheus metrics. Names and labels of the first group are an interface: dashboards and alerts use them.

Requests are counted when they end, which for a stream is its last byte. What the pool's accounts are doing is asked
when somebody scrapes, so it is never older than that.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oauth_pool_proxy.pool import Pool, State
from oauth_pool_proxy.quota import Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each one, which nobody reads
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("proxy_requests", "Finished requests", ["status", "method"], registry=registry)
        self._duration = Histogram(
            "proxy_request_duration_seconds",
            "Time from the request to the last byte of its answer",
            ["status"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "proxy_upstream_errors", "Requests that failed in the proxy", ["error_type"], registry=registry
        )
        self._failovers = Counter(
            "pool_failovers", "Requests moved on to another account", ["from_account", "reason"], registry=registry
        )
        self._exhaustions = Counter(
            "pool_quota_exhaustions", "Times an account's quota was found used up", ["account_id"], registry=registry
        )
        self._first_byte = Histogram(
            "proxy_time_to_first_byte_seconds",
            "Time from the request to the head of its answer",
            buckets=BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "proxy_requests_in_flight", "Requests that have a slot or wait for one", registry=registry
        )
        self._queued = Gauge("proxy_requests_queued", "Requests that wait for a slot", registry=registry)
        for error_type in ("timeout", "connection", "invalid_request"):
            self._errors.labels(error_type)  # so that a rate over it exists before the first error
        self.requests_served = 0
        self.errors_total = 0

    def finished(self, method: str, status: int, seconds: float, first_byte: float | None) -> None:
        self.requests_served += 1
        self._requests.labels(str(status), method).inc()
        self._duration.labels(str(status)).observe(seconds)
        if first_byte is not None:
            self._first_byte.observe(first_byte)

    def failed(self, error_type: str | None) -> None:
        """A request that the proxy could not serve; `error_type` is none when that was not the upstream's doing."""
        self.errors_total += 1
        if error_type:
            self._errors.labels(error_type).inc()

    def failover(self, account: str, verdict: Verdict) -> None:
        self._failovers.labels(account, verdict.name.lower()).inc()

    def quota_exhausted(self, account: str) -> None:
        self._exhaustions.labels(account).inc()

    def watch_queue(self, in_flight: Callable[[], float], queued: Callable[[], float]) -> None:
        self._in_flight.set_function(in_flight)
        self._queued.set_function(queued)

    def watch_pool(self, pool: Pool, now: Callable[[], float], last_success: Callable[[], float | None]) -> None:
        self._registry.register(_PoolCollector(pool, now, last_success))

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _PoolCollector(Collector):
    def __init__(self, pool: Pool, now: Callable[[], float], last_success: Callable[[], float | None]) -> None:
        self._pool, self._now, self._last_success = pool, now, last_success

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._now()
        # Every status has a series, 1 for the current one: an alert on a sum needs the zeros.
        status = GaugeMetricFamily(
            "pool_account_status", "1 for the account's current status", labels=["account_id", "status"]
        )
        in_flight = GaugeMetricFamily(
            "pool_account_in_flight", "Requests under way with the account", labels=["account_id"]
        )
        for account in self._pool.accounts:
            current = account.state(now)
            for state in State:
                status.add_metric([account.name, state.value], float(state is current))
            in_flight.add_metric([account.name], account.in_flight)
        yield status
        yield in_flight
        synced = GaugeMetricFamily("pool_index_last_success_timestamp_seconds", "When the pool index was last seen")
        synced.add_metric([], self._last_success() or 0)
        yield synced
