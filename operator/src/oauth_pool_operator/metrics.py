"""The operator's Prometheus metrics."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from oauth_pool_operator.account import conditions as c

RESULTS = ("success", "failure")
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
for result in ("success", "error"):
    RECONCILES.labels(result)  # so that an increase of it exists before the first error
RECONCILE_SECONDS = Histogram(
    "pool_reconcile_duration_seconds",
    "Duration of one account's reconcile",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
)
CONDITIONS = (c.READY, c.LOGIN_REQUIRED, c.STALLED)
"""Those of an account that have a series. The others say what is under way, or what proxies know better."""
INDEX_BYTES = Gauge("pool_index_bytes", "Size of the pool index, by number of its ConfigMap", ["shard"])
TOKENS_BYTES = Gauge("pool_tokens_bytes", "Size of the sealed tokens, by number of their ConfigMap", ["shard"])
TOKENS_SEALED = Counter("pool_tokens_sealed_total", "Access tokens sealed, each to one proxy")
LEASE_HELD = Gauge("pool_operator_lease_held", "1 while this operator leads, 0 while it waits")


class AccountConditions(NamedTuple):
    """An account, the word shown as its STATUS, and its conditions that are True."""

    account_id: str
    status_word: str
    are_true: frozenset[str]


class SealedCounts(NamedTuple):
    """Of sealed tokens."""

    shards: int
    proxies: Mapping[str, int]  # by what becomes of them


class Counts(NamedTuple):
    """What is counted when somebody looks."""

    accounts: list[AccountConditions]
    logins_open: int
    reconciles_due: int
    reconciles_in_flight: int
    token_requests_waiting: int
    index_shards: int
    rotations_in_flight: int = 0
    # by provider: until when it is left alone
    provider_holds: Mapping[str, datetime | None] = MappingProxyType({})
    # by volume: the age in seconds of the oldest call that has not returned
    volumes_unanswered: Mapping[str, float] = MappingProxyType({})
    # the age in seconds of the last thing that the watch of accounts has said
    watch_silent: float = 0
    # of folders on the state volume that no account owns
    orphaned_folders: int = 0
    # None when tokens reach the proxies by a volume
    sealed: SealedCounts | None = None


class PoolCollector(Collector):
    """Gauges that nobody keeps up to date: they are counted when somebody looks, from another thread."""

    def __init__(self, count: Callable[[], Counts]) -> None:
        self._count = count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = self._count()
        yield _gauge("pool_logins_open", "Login sessions that wait for a person", counts.logins_open)
        yield _gauge("pool_reconciles_due", "Accounts whose reconcile is due and has not begun", counts.reconciles_due)
        yield _gauge("pool_reconciles_in_flight", "Accounts that are being reconciled", counts.reconciles_in_flight)
        yield _gauge(
            "pool_token_requests_waiting", "Accounts that wait for their turn to ask", counts.token_requests_waiting
        )
        yield _gauge(
            "pool_rotations_in_flight",
            "Accounts that wait for a provider, or for their turn",
            counts.rotations_in_flight,
        )
        yield _gauge("pool_index_shards", "ConfigMaps that the pool index uses", counts.index_shards)
        if counts.sealed is not None:
            yield _gauge("pool_token_shards", "ConfigMaps that the sealed tokens use", counts.sealed.shards)
            yield _proxies(counts.sealed.proxies)
        yield _held(counts.provider_holds)
        yield _gauge(
            "pool_watch_silent_seconds",
            "Age of the last event or bookmark of the watch of accounts",
            counts.watch_silent,
        )
        yield _gauge(
            "pool_orphaned_folders", "Folders on the state volume that no account owns", counts.orphaned_folders
        )
        yield _volumes(counts.volumes_unanswered)
        family = GaugeMetricFamily("pool_accounts", "Accounts by the word shown as STATUS", labels=["status"])
        for word, number in sorted(Tally(account.status_word for account in counts.accounts).items()):
            family.add_metric([word], number)
        yield family
        yield _conditions(counts.accounts)


def _conditions(accounts: list[AccountConditions]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "pool_account_condition", "1 while the condition of the account is True", labels=["account_id", "condition"]
    )
    for account in accounts:
        for condition in CONDITIONS:
            family.add_metric([account.account_id, condition], condition in account.are_true)
    return family


def _proxies(by_state: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "pool_proxies", "OAuthProxy objects by whether tokens are sealed to them", labels=["state"]
    )
    for state, number in by_state.items():
        family.add_metric([state], number)
    return family


def _held(until: Mapping[str, datetime | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "pool_provider_held_until_timestamp_seconds",
        "Until when the operator waits, because the provider asked for it (Unix time); 0 when it does not",
        labels=["provider"],
    )
    for provider, instant in until.items():
        family.add_metric([provider], instant.timestamp() if instant is not None else 0)
    return family


def _volumes(unanswered: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "pool_volume_unanswered_seconds",
        "Age of the oldest call to the volume that has not returned",
        labels=["volume"],
    )
    for volume, seconds in unanswered.items():
        family.add_metric([volume], seconds)
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def refreshed(account_id: str, result: str) -> None:
    """Count one request for a token; the other result's series begins with it, so that an increase sees its first."""
    for known in RESULTS:
        TOKEN_REFRESHES.labels(account_id, known).inc(known == result)


def token_expires(account_id: str, at: float | None) -> None:
    """When the access token ends that is kept fresh; None when none is, and its end is no news."""
    if at is None:
        TOKEN_EXPIRES.remove(account_id)
    else:
        TOKEN_EXPIRES.labels(account_id).set(at)


def forget(account_id: str) -> None:
    """Remove the series of an account that no longer exists."""
    for result in RESULTS:
        TOKEN_REFRESHES.remove(account_id, result)
    TOKEN_EXPIRES.remove(account_id)
