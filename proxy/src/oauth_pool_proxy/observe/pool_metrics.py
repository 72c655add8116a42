"""What the accounts and the upstream's connections are doing, asked when somebody scrapes."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oauth_pool_proxy.pool.account import Account, State
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.upstream.upstream import Upstream


class PoolCollector(Collector):
    """`index` says when the pool index was last seen, and how often it was listed anew."""

    def __init__(self, pool: Pool, now: Callable[[], float], index: Callable[[], tuple[float | None, int]]) -> None:
        self._pool, self._now, self._index = pool, now, index

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield self._statuses()
        yield _per_account(
            "pool_account_in_flight", "Requests under way with the account", self._pool, lambda a: a.in_flight
        )
        yield _per_account(
            "pool_account_token_expiry_timestamp_seconds",
            "When the access token at hand expires",
            self._pool,
            lambda a: a.token.expires_at if a.token else 0,
        )
        yield _per_account(
            "pool_account_token_age_seconds",
            "How long the access token has been in use here",
            self._pool,
            lambda a: max(0.0, self._now() - a.token.read_at) if a.token else 0,
        )
        yield from self._windows()
        last_success, lists = self._index()
        yield _single(
            "pool_index_last_success_timestamp_seconds", "When the pool index was last seen", last_success or 0
        )
        age = self._now() - last_success if last_success else 0
        yield _single("pool_index_age_seconds", "Time since the pool index was last seen", max(0.0, age))
        relists = CounterMetricFamily("pool_index_lists", "Times that the whole pool index was read")
        relists.add_metric([], lists)
        yield relists

    def _statuses(self) -> Metric:
        # Every status has a series, 1 for the current one: an alert on a sum needs the zeros.
        family = GaugeMetricFamily(
            "pool_account_status", "1 for the account's current status", labels=["account_id", "status"]
        )
        now = self._now()
        for account in self._pool.accounts:
            current = account.state(now)
            for state in State:
                family.add_metric([account.name, state.value], float(state is current))
        return family

    def _windows(self) -> Iterator[Metric]:
        labels = ["account_id", "window"]
        used = GaugeMetricFamily(
            "pool_account_window_utilization_ratio", "Use of a rate limit window; 1 is all of it", labels=labels
        )
        reset = GaugeMetricFamily(
            "pool_account_window_reset_timestamp_seconds", "When a rate limit window is reset", labels=labels
        )
        for account in self._pool.accounts:
            for window in account.windows:
                if window.utilization is not None:
                    used.add_metric([account.name, window.name], window.utilization)
                if window.resets_at is not None:
                    reset.add_metric([account.name, window.name], window.resets_at)
        yield used
        yield reset


class UpstreamCollector(Collector):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        upstream = self._upstream
        yield _single("proxy_upstream_connections_open", "Connections to the upstream", upstream.open_connections)
        yield _single(
            "proxy_upstream_connections_idle", "Those of them that wait for a request", upstream.idle_connections
        )
        requests = CounterMetricFamily(
            "proxy_upstream_requests",
            "Requests sent to the upstream, by the connection they took",
            labels=["connection"],
        )
        for connection, count in upstream.requests.items():
            requests.add_metric([connection], count)
        yield requests


def _per_account(name: str, text: str, pool: Pool, value: Callable[[Account], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["account_id"])
    for account in pool.accounts:
        family.add_metric([account.name], value(account))
    return family


def _single(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
