"""The documents that monitoring reads: an interface, so spelled out."""

from typing import Any

import pytest

from oauth_pool_proxy.config import Verdict
from oauth_pool_proxy.observe.health import health, readiness
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.pool_metrics import PoolCollector
from oauth_pool_proxy.pool.pool import Pool, Reason
from tests.test_proxy.pool.test_pool import NOW, entry, pool_of


def report(pool: Pool | None) -> dict[str, Any]:
    return health("anthropic" if pool else "passthrough", 3600.9, 12345, 2, pool, NOW)


def test_passthrough() -> None:
    assert report(None) == {
        "status": "healthy",
        "mode": "passthrough",
        "uptime_seconds": 3600,
        "requests_served": 12345,
        "errors_total": 2,
    }


def test_a_pool_with_each_kind_of_account() -> None:
    pool = pool_of(entry("claude-1"), entry("claude-2"), entry("claude-3", status="Disabled"))
    pool.accounts[1].cool_down(Reason.QUOTA_EXHAUSTED, NOW + 3600, NOW)
    pool.is_ready = True
    document = report(pool)
    assert (document["status"], document["mode"]) == ("degraded", "anthropic")
    assert document["pool"] == {
        "accounts_total": 3,
        "accounts_available": 1,
        "accounts_cooling": 1,
        "accounts_disabled": 1,
        "accounts": [
            {"id": "claude-1", "status": "available"},
            {
                "id": "claude-2",
                "status": "cooling_down",
                "reason": "QuotaExhausted",
                "cooldown_remaining_secs": 3600,
            },
            {"id": "claude-3", "status": "disabled", "reason": "Disabled"},
        ],
    }


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["Available", "Available"], "healthy"),
        (["Available", "Suspended"], "degraded"),
        (["Disabled", "Suspended"], "unhealthy"),
        ([], "unhealthy"),
    ],
)
def test_the_status_in_a_word(statuses: list[str], expected: str) -> None:
    pool = pool_of(*(entry(str(number), status=status) for number, status in enumerate(statuses)))
    assert report(pool)["status"] == expected


def test_what_a_pool_that_is_not_ready_waits_for_is_told_with_and_without_names() -> None:
    pool = pool_of(entry("a"))
    pool.waits_for = "something"
    for names in (True, False):
        document = health("anthropic", 1, 0, 0, pool, NOW, names=names)["pool"]
        assert isinstance(document, dict) and document["waits_for"] == "something"
    assert readiness(True, pool) == (503, {"status": "not ready", "reason": "something"})


def test_ready_is_running_and_knowing_the_pool() -> None:
    pool = Pool()
    assert [readiness(running, pool)[0] for running in (False, True)] == [503, 503]
    pool.is_ready = True
    assert readiness(True, pool) == (200, {"status": "ready"})
    assert readiness(True, None)[0] == 200
    assert readiness(False, None)[0] == 503


def test_metrics_have_the_documented_names_labels_and_buckets() -> None:
    metrics, pool = Metrics(), pool_of(entry("a"))
    metrics.add(PoolCollector(pool, lambda: NOW, lambda: (5.0, 2)))
    metrics.watch_queue(lambda: 3, lambda: 1)
    metrics.finished("POST", 200, "ok", 0.3, 0.02)
    metrics.failed("timeout")
    metrics.failed(None)
    metrics.failover("a", Verdict.QUOTA_EXHAUSTED)
    metrics.quota_exhausted("a")
    text = b"".join(metrics.pieces()).decode()
    for line in [
        'proxy_requests_total{method="POST",status="200",verdict="ok"} 1.0',
        'proxy_request_duration_seconds_bucket{le="0.005",status="200"} 0.0',
        'proxy_request_duration_seconds_bucket{le="0.5",status="200"} 1.0',
        'proxy_request_duration_seconds_bucket{le="60.0",status="200"} 1.0',
        'proxy_upstream_errors_total{error_type="timeout"} 1.0',
        'proxy_upstream_errors_total{error_type="connection"} 0.0',
        'proxy_upstream_errors_total{error_type="invalid_request"} 0.0',
        'pool_account_status{account_id="a",status="available"} 1.0',
        'pool_account_status{account_id="a",status="cooling_down"} 0.0',
        'pool_account_status{account_id="a",status="disabled"} 0.0',
        'pool_failovers_total{from_account="a",reason="quota_exhausted"} 1.0',
        'pool_quota_exhaustions_total{account_id="a"} 1.0',
        'pool_account_in_flight{account_id="a"} 0.0',
        "proxy_requests_in_flight 3.0",
        "proxy_requests_queued 1.0",
        "pool_index_last_success_timestamp_seconds 5.0",
        "proxy_time_to_first_byte_seconds_count 1.0",
    ]:
        assert f"\n{line}\n" in text
    assert "_created" not in text
    assert metrics.errors_total == 2


def test_what_happens_seldom_is_counted_from_0_so_that_a_rate_sees_the_first() -> None:
    metrics = Metrics()
    metrics.account_answered("a", 0.1)
    text = b"".join(metrics.pieces()).decode()
    for line in [
        'proxy_upstream_retries_total{reason="new_token"} 0.0',
        'proxy_client_disconnects_total{phase="answering"} 0.0',
        'pool_failovers_total{from_account="a",reason="quota_exhausted"} 0.0',
        'pool_quota_exhaustions_total{account_id="a"} 0.0',
    ]:
        assert f"\n{line}\n" in text
    metrics.quota_exhausted("a")
    metrics.account_answered("a", 0.1)
    assert 'pool_quota_exhaustions_total{account_id="a"} 1.0' in b"".join(metrics.pieces()).decode()
