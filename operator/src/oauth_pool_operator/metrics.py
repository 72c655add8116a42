"""The operator's Prometheus metrics."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

TOKEN_REFRESHES = Counter(
    "pool_token_refreshes_total",
    "Access tokens obtained by refresh, code exchange or assertion exchange",
    ["account_id", "result"],
)
REFRESH_SECONDS = Histogram(
    "pool_token_refresh_duration_seconds",
    "Time from the request to the token endpoint to the stored answer",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
TOKEN_EXPIRES = Gauge(
    "pool_token_expiry_timestamp_seconds", "When the access token expires (Unix time)", ["account_id"]
)
RECONCILES = Counter("pool_reconciles_total", "Reconciles of single accounts", ["result"])
RECONCILE_SECONDS = Histogram(
    "pool_reconcile_duration_seconds",
    "Duration of one account's reconcile",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
)
INDEX_BYTES = Gauge("pool_index_bytes", "Size of the pool index, by number of its ConfigMap", ["shard"])
LEASE_HELD = Gauge("pool_operator_lease_held", "1 while this operator leads, 0 while it waits")


class AccountsCollector(Collector):
    """`pool_accounts{status}`, counted when somebody looks."""

    def __init__(self, words: Callable[[], Iterable[str]]) -> None:
        self._words = words

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("pool_accounts", "Accounts by the word shown as STATUS", labels=["status"])
        for word, number in sorted(Tally(self._words()).items()):
            family.add_metric([word], number)
        yield family


def forget(account_id: str) -> None:
    """Remove the series of an account that no longer exists."""
    for metric, rest in ((TOKEN_REFRESHES, ("success", "failure")), (TOKEN_EXPIRES, (None,))):
        for value in rest:
            labels = (account_id,) if value is None else (account_id, value)
            try:
                metric.remove(*labels)
            except KeyError:
                continue
