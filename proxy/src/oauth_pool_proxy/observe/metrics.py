"""The proxy's Prometheus metrics. Names and labels of the first group are an interface: dashboards and alerts use them.

Requests are counted when they end. For a stream, that is at its last byte. The state of the pool's accounts is collected at
scrape time (`pool_metrics.py`), so it is always current.
"""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from oauth_pool_proxy.config import Verdict
from oauth_pool_proxy.downstream.line import Turn
from oauth_pool_proxy.observe.client_metrics import ClientMetrics
from oauth_pool_proxy.observe.exposition import pieces
from oauth_pool_proxy.observe.instruments import BUCKETS, Counter, Counters, Histogram, Series
from oauth_pool_proxy.observe.usage import Usage
from oauth_pool_proxy.pool.affinity import Outcome as AffinityOutcome
from oauth_pool_proxy.request import Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KINDS = ("input", "output", "cache_read", "cache_creation")
"""The kinds of tokens."""
MOST_MODELS = 50
"""Clients or the upstream choose model names. Beyond this many, the label is `other`."""


class Metrics:
    """`clients` has the metrics per client, where clients are identified."""

    def __init__(self, clients: ClientMetrics | None = None) -> None:
        self.clients = clients
        self._registry = CollectorRegistry()
        self.requests_served = 0
        self.errors_total = 0
        self._documented()
        self._beside_them()
        self._models: set[str] = set()
        self._in_use: set[str] = set()
        for collector in clients.collectors if clients else ():
            self.add(collector)

    def _documented(self) -> None:
        self._requests = self._counter("proxy_requests", "Finished requests", "status", "method", "verdict")
        self._duration = self._histogram(
            "proxy_request_duration_seconds", "Time from the request to the last byte of its answer", "status"
        )
        self._ends: dict[tuple[int, str, str], tuple[tuple[str, str, str], Series]] = {}
        self._errors = self._counter("proxy_upstream_errors", "Requests that failed in the proxy", "error_type")
        self._failovers = self._counter(
            "pool_failovers", "Requests moved on to another account", "from_account", "reason"
        )
        self._exhaustions = self._counter(
            "pool_quota_exhaustions", "Times an account's quota was found used up", "account_id"
        )
        _begin(self._errors, "timeout", "connection", "invalid_request")

    def _beside_them(self) -> None:
        self._first_byte = self._histogram(
            "proxy_time_to_first_byte_seconds", "Time from the request to the head of its answer"
        )
        self._all_first_bytes = self._first_byte.series(())
        self._account_first_byte = self._histogram(
            "pool_account_time_to_first_byte_seconds",
            "Time from asking with an account to the head of the answer",
            "account_id",
        )
        self._benchings = self._counter(
            "pool_account_benched", "Times an account was left alone for what it answered", "account_id", "reason"
        )
        self._queue_wait = self._histogram("proxy_queue_wait_seconds", "Time that requests waited in line")
        self._loop_delay = self._histogram(
            "proxy_event_loop_delay_seconds", "How late the proxy got to what was due, looked at ten times a second"
        )
        self.request_bytes = self.response_bytes = 0
        self.add(_BodyBytes(self))
        self._disconnects = self._counter(
            "proxy_client_disconnects", "Clients that left before their answer was complete", "phase"
        )
        _begin(self._disconnects, *(phase.value for phase in Phase))
        self._retries = self._counter("proxy_upstream_retries", "Requests sent to the upstream again", "reason")
        _begin(self._retries, "timeout", "connection", "new_token")
        of_client = ("client",) if self.clients else ()
        self._tokens = Counters(
            "pool_tokens", "Tokens used, as the upstream counts them", KINDS, "account_id", "model", *of_client, "type"
        )
        self.add(self._tokens)
        self._affinity = self._counter(
            "pool_affinity", "Requests of conversations, by which account they got", "result"
        )
        self._registry.register(_Build())
        ProcessCollector(registry=self._registry)

    def finished(self, method: str, status: int, verdict: str, seconds: float, first_byte: float | None) -> None:
        """`verdict` is what was responsible for how the request ended."""
        self.requests_served += 1
        labels, duration = self._ends.get((status, method, verdict)) or self._end(status, method, verdict)
        self._requests.add(labels)
        self._duration.add(duration, seconds)
        if first_byte is not None:
            self._first_byte.add(self._all_first_bytes, first_byte)

    def _end(self, status: int, method: str, verdict: str) -> tuple[tuple[str, str, str], Series]:
        """The series for requests that ended this way. There are few of them: only methods that the parser knows."""
        label = str(status)
        end = (label, method, verdict), self._duration.series((label,))
        self._ends[status, method, verdict] = end
        return end

    def failed(self, error_type: str | None) -> None:
        """Count a request that the proxy could not serve. `error_type` None: it is not in `proxy_upstream_errors_total`."""
        self.errors_total += 1
        if error_type:
            self._errors.add((error_type,))

    def failover(self, account: str, verdict: Verdict) -> None:
        self._failovers.add((account, verdict.value))

    def quota_exhausted(self, account: str) -> None:
        self._exhaustions.add((account,))

    def benched(self, account: str, reason: str) -> None:
        self._benchings.add((account, reason))

    def account_answered(self, account: str, seconds: float) -> None:
        self._account_first_byte.observe(seconds, (account,))
        if account not in self._in_use:  # any account in use may run out some day
            self._in_use.add(account)
            self._failovers.add((account, Verdict.QUOTA_EXHAUSTED.value), 0)
            self._exhaustions.add((account,), 0)

    def waited(self, seconds: float, turn: Turn) -> None:
        self._queue_wait.observe(seconds)
        if self.clients:
            self.clients.waited(turn.client, seconds)

    def loop_was_late(self, seconds: float) -> None:
        self._loop_delay.observe(seconds)

    def client_left(self, phase: str) -> None:
        self._disconnects.add((phase,))

    def retried(self, reason: str) -> None:
        self._retries.add((reason,))

    def affinity(self, outcome: AffinityOutcome) -> None:
        self._affinity.add((outcome,))

    def used(self, account: str, model: str | None, usage: Usage, client: str = "") -> None:
        if model not in self._models:
            model = self._admitted(model)
        labels = (account, model, self.clients.label_of(client)) if self.clients else (account, model)
        self._tokens.add(labels, (usage.input, usage.output, usage.cache_read, usage.cache_creation))

    def _admitted(self, model: str | None) -> str:
        if model is None or len(self._models) >= MOST_MODELS:
            return "other"
        self._models.add(model)
        return model

    def watch_queue(self, in_flight: Callable[[], float], queued: Callable[[], float]) -> None:
        self.add(_Gauge("proxy_requests_in_flight", "Requests that are not finished", in_flight))
        self.add(_Gauge("proxy_requests_queued", "Requests that wait in line", queued))

    def add(self, collector: Collector) -> None:
        self._registry.register(collector)

    def pieces(self) -> Iterator[bytes]:
        """The text of all metrics."""
        return pieces(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(name, text, *labels)
        self.add(counter)
        return counter

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        histogram = Histogram(name, text, BUCKETS, *labels)
        self.add(histogram)
        return histogram


def _begin(counter: Counter, *values: str) -> None:
    """Start each series at 0. A rate needs two scrapes of a series, and would miss the first event otherwise."""
    for value in values:
        counter.add((value,), 0)


class _Gauge(Collector):
    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._family, self._value = (name, text), value

    def collect(self) -> list[Metric]:
        return [GaugeMetricFamily(*self._family, value=self._value())]


class _BodyBytes(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        metric = CounterMetricFamily("proxy_body_bytes", "Bytes of bodies", labels=["direction"])
        metric.add_metric(["request"], self._metrics.request_bytes)
        metric.add_metric(["response"], self._metrics.response_bytes)
        return [metric]


class _Build(Collector):
    def collect(self) -> list[Metric]:
        build = {"version": version("oauth-pool-proxy"), "python": platform.python_version()}
        return [InfoMetricFamily("proxy_build", "What runs", value=build)]
