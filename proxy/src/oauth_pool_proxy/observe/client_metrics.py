"""Metrics per client, only where clients are identified. The number of names is limited."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from oauth_pool_proxy.observe.instruments import BUCKETS, Histogram, Series, in_parts

STRANGER = "stranger"
"""The label for requests from unknown clients, including those refused for that reason."""
OTHER = "other"


class _Client:
    """The numbers for one label."""

    __slots__ = ("duration", "statuses")

    def __init__(self, duration: Series) -> None:
        self.statuses: dict[int, int] = {}
        self.duration = duration


class ClientMetrics:
    """The first `most_names` clients each get a label. Later ones share one."""

    def __init__(self, most_names: int) -> None:
        self._most_names = most_names
        self._duration = Histogram(
            "proxy_client_request_duration_seconds",
            "Time from a client's request to the last byte of its answer",
            BUCKETS,
            "client",
        )
        self._queue_wait = Histogram(
            "proxy_client_queue_wait_seconds", "Time that a client's requests waited in line", BUCKETS, "client"
        )
        self._clients: dict[str, _Client] = {}
        self.label_of(STRANGER)  # strangers are never counted under `other`
        self.collectors: tuple[Collector, ...] = (_Requests(self._clients), self._duration, self._queue_wait)

    def label_of(self, client: str) -> str:
        if client in self._clients:
            return client
        label = client if len(self._clients) <= self._most_names else OTHER
        if label not in self._clients:
            self._clients[label] = _Client(self._duration.series((label,)))
        return label

    def finished(self, client: str, status: int, seconds: float) -> None:
        numbers = self._clients.get(client) or self._clients[self.label_of(client)]
        try:
            numbers.statuses[status] += 1
        except KeyError:
            numbers.statuses[status] = 1
        self._duration.add(numbers.duration, seconds)

    def waited(self, client: str, seconds: float) -> None:
        self._queue_wait.observe(seconds, (self.label_of(client),))


class _Requests(Collector):
    def __init__(self, clients: Mapping[str, _Client]) -> None:
        self._clients = clients

    def describe(self) -> Iterable[Metric]:
        return [_requests()]

    def collect(self) -> Iterator[Metric]:
        rows = [(label, status, count) for label, of in self._clients.items() for status, count in of.statuses.items()]
        return in_parts(_requests, rows, lambda family, row: family.add_metric([row[0], str(row[1])], row[2]))


def _requests() -> CounterMetricFamily:
    return CounterMetricFamily("proxy_client_requests", "Finished requests of each client", labels=["client", "status"])
