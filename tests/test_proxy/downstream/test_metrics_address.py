"""`metrics_addr`: what tells names is on a listener of its own, and the traffic port keeps silent about them."""

import asyncio

import pytest

from tests.support.proxy_server import PoolFolder
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

ALONE = "127.0.0.1:0"


@pytest.fixture
def accounts(folder: PoolFolder) -> PoolFolder:
    folder.account("claude-1")
    folder.account("claude-2", status="Suspended")
    return folder


async def test_the_traffic_port_tells_no_names(upstream: UpstreamServer, start: Start, accounts: PoolFolder) -> None:
    upstream.answer_all(json_answer())
    proxy = start(metrics_addr=ALONE, oauth=accounts.oauth())
    health, ready, metrics = [await proxy.request("GET", path) for path in ("/health", "/ready", "/metrics")]
    assert (health.status, ready.status, metrics.status) == (200, 200, 404)
    counts = {"accounts_total": 2, "accounts_available": 1, "accounts_cooling": 0, "accounts_disabled": 1}
    assert (health.json()["status"], health.json()["pool"]) == ("degraded", counts)
    error = {"type": "not_found_error", "message": "Metrics are at metrics_addr, not here"}
    assert metrics.json()["error"] == error
    assert metrics.values(b"request-id") == [str(metrics.json()["request_id"]).encode()]
    assert not any(b"claude" in answer.body for answer in (health, ready, metrics))
    assert upstream.requests == []


async def test_its_own_port_tells_everything_and_forwards_nothing(
    upstream: UpstreamServer, start: Start, accounts: PoolFolder
) -> None:
    upstream.answer_all(json_answer())
    proxy = start(metrics_addr=ALONE, oauth=accounts.oauth())
    port = proxy.metrics_port
    health = await proxy.request("GET", "/health", port=port)
    assert b'"claude-1"' in health.body
    assert (await proxy.request("GET", "/ready", port=port)).status == 200
    metrics = await proxy.metrics()
    assert metrics['pool_account_status{account_id="claude-1",status="available"}'] == 1
    assert (await proxy.request("POST", "/v1/messages", "", b"{}", port=port)).status == 404
    assert (await proxy.request("TRACE", "/metrics", port=port)).status == 405
    assert upstream.requests == []


async def test_without_it_everything_is_on_the_traffic_port(start: Start, accounts: PoolFolder) -> None:
    proxy = start(oauth=accounts.oauth())
    assert proxy.metrics_port == proxy.port
    assert b'"claude-1"' in (await proxy.request("GET", "/health")).body
    assert (await proxy.metrics())['pool_account_in_flight{account_id="claude-1"}'] == 0


async def test_when_the_proxy_has_ended_nobody_listens_there(start: Start) -> None:
    proxy = start(metrics_addr=ALONE)
    async with proxy.connect(proxy.metrics_port) as kept:
        await kept.request("GET", "/ready")
        await kept.answer()
        await asyncio.to_thread(proxy.stop)
        assert await kept.rest() == b""
    with pytest.raises(ConnectionError):
        await proxy.request("GET", "/ready", port=proxy.metrics_port)
