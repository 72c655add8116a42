"""The state of the accounts and of the upstream connections, collected at scrape time."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from oauth_pool_proxy.observe.instruments import in_parts
from oauth_pool_proxy.pool.account import Account, State
from oauth_pool_proxy.pool.limits import Window
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.upstream.upstream import Upstream

_WINDOWS = 10
"""At least as many as an account has. It allows for the time to parse them from headers, too."""


class PoolCollector(Collector):
    """`index` returns when the pool index was last seen, and how many times it was listed."""

    def __init__(self, pool: Pool, now: Callable[[], float], index: Callable[[], tuple[float | None, int]]) -> None:
        self._pool, self._now, self._index = pool, now, index

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        accounts = list(self._pool.accounts)  # a copy, as the pool may be swapped between two parts
        yield from self._statuses(accounts)
        yield from _per_account(
            "pool_account_in_flight", "Requests under way with the account", accounts, lambda a: a.in_flight
        )
        yield from _per_account(
            "pool_account_token_expiry_timestamp_seconds",
            "When the access token at hand expires",
            accounts,
            lambda a: a.token.expires_at if a.token else 0,
        )
        yield from _per_account(
            "pool_account_token_age_seconds",
            "How long the access token has been in use here",
            accounts,
            lambda a: max(0.0, self._now() - a.token.read_at) if a.token else 0,
        )
        yield from _windows(
            "pool_account_window_utilization_ratio",
            "Use of a rate limit window; 1 is all of it",
            accounts,
            lambda window: window.utilization,
        )
        yield from _windows(
            "pool_account_window_reset_timestamp_seconds",
            "When a rate limit window is reset",
            accounts,
            lambda window: window.resets_at,
        )
        yield _single("pool_access_tokens_held", "Accounts whose access token is here", self._pool.tokens_held)
        last_success, lists = self._index()
        yield _single(
            "pool_index_last_success_timestamp_seconds", "When the pool index was last seen", last_success or 0
        )
        age = self._now() - last_success if last_success else 0
        yield _single("pool_index_age_seconds", "Time since the pool index was last seen", max(0.0, age))
        relists = CounterMetricFamily("pool_index_lists", "Times that the whole pool index was read")
        relists.add_metric([], lists)
        yield relists

    def _statuses(self, accounts: Iterable[Account]) -> Iterator[Metric]:
        # Every status has a series, with 1 for the current one: an alert on a sum needs the zeros.
        now = self._now()

        def add(family: GaugeMetricFamily, account: Account) -> None:
            current = account.state(now)
            for state in State:
                family.add_metric([account.name, state.value], float(state is current))

        return in_parts(
            lambda: GaugeMetricFamily(
                "pool_account_status", "1 for the account's current status", labels=["account_id", "status"]
            ),
            accounts,
            add,
            samples=len(State),
        )


class SealedTokensCollector(Collector):
    """`unopened` returns how many announced access tokens this proxy does not have, by reason."""

    def __init__(self, unopened: Callable[[], Mapping[str, int]]) -> None:
        self._unopened = unopened

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "pool_sealed_tokens_unopened", "Access tokens that the index names and that are not here", labels=["reason"]
        )
        for reason, count in self._unopened().items():
            family.add_metric([reason], count)
        yield family


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
        handshakes = CounterMetricFamily(
            "proxy_upstream_tls_handshakes",
            "TLS handshakes with the upstream, by whether they resumed the session of one before",
            labels=["kind"],
        )
        for kind, count in upstream.handshakes.items():
            handshakes.add_metric([kind], count)
        yield handshakes


def _per_account(
    name: str, text: str, accounts: Iterable[Account], value: Callable[[Account], float]
) -> Iterator[Metric]:
    return in_parts(
        lambda: GaugeMetricFamily(name, text, labels=["account_id"]),
        accounts,
        lambda family, account: family.add_metric([account.name], value(account)),
    )


def _windows(
    name: str, text: str, accounts: Iterable[Account], value: Callable[[Window], float | None]
) -> Iterator[Metric]:
    def add(family: GaugeMetricFamily, account: Account) -> None:
        for window in account.windows:
            if (number := value(window)) is not None:
                family.add_metric([account.name, window.name], number)

    return in_parts(
        lambda: GaugeMetricFamily(name, text, labels=["account_id", "window"]), accounts, add, samples=_WINDOWS
    )


def _single(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
