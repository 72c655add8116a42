"""What the operator is told, as the API server receives it."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.account import AccessToken, Account, Reason
from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.kube_api import KubeApi
from oauth_pool_proxy.pool.limits import Window
from oauth_pool_proxy.pool.reports import MOST_WAITING, StatusReporter
from tests.support.api_server import ApiServer, api_server
from tests.support.proxy_server import index_entry

NOW = 1_800_000_000.0
USED_UP = (Window("5h", "rejected", 1.02, NOW + 1800), Window("7d", "allowed", 0.4, None))


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as api:
        yield api


@asynccontextmanager
async def reporting(server: ApiServer) -> AsyncIterator[StatusReporter]:
    api = KubeApi(KubernetesConfig(server.url, "pool"))
    reporter = StatusReporter(api, "proxy-0", Backoff(0.001, 0.01))
    task = asyncio.create_task(reporter.run())
    try:
        yield reporter
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        api.close()


def account(name: str = "a") -> Account:
    built = Account(msgspec.convert(index_entry(name), IndexEntry))
    built.adopt(AccessToken(17, "fingerprint", NOW + 3600, "secret"))
    return built


def headers(utilization: float) -> list[tuple[bytes, bytes]]:
    prefix = b"anthropic-ratelimit-unified-5h-"
    return [(prefix + b"status", b"allowed"), (prefix + b"utilization", str(utilization).encode())]


def works(
    reporter: StatusReporter, account: Account, generation: int, limits: list[tuple[bytes, bytes]], now: float
) -> None:
    account.note_limits(limits)
    reporter.works(account, generation, now)


async def entries(server: ApiServer) -> list[dict[str, Any]]:
    call = await server.call()
    await call.answer({})
    assert call.body is not None
    reports: list[dict[str, Any]] = call.body["status"]["reports"]
    return reports


async def test_a_report_is_applied_under_our_own_field_manager(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        reporter.benched(account(), Reason.QUOTA_EXHAUSTED, NOW + 1805.7, 17, USED_UP, NOW)
        call = await server.call()
        await call.answer({})
    assert (call.method, call.path) == ("PATCH", "/apis/oauthpool.dev/v1alpha1/namespaces/pool/oauthaccounts/a/status")
    assert call.query == {"fieldManager": "oauth-pool-proxy-proxy-0", "force": "true"}
    assert call.content_type == "application/apply-patch+yaml"
    assert call.body == {
        "apiVersion": "oauthpool.dev/v1alpha1",
        "kind": "OAuthAccount",
        "metadata": {"name": "a", "uid": "uid-a"},
        "status": {
            "reports": [
                {
                    "reporter": "proxy-0",
                    "observedTime": "2027-01-15T08:00:00Z",
                    "reason": "QuotaExhausted",
                    "untilTime": "2027-01-15T08:30:05Z",
                    "tokenGeneration": 17,
                    "windows": [
                        {"name": "5h", "utilization": 1.02, "status": "rejected", "resetTime": "2027-01-15T08:30:00Z"},
                        {"name": "7d", "utilization": 0.4, "status": "allowed"},
                    ],
                }
            ]
        },
    }


async def test_a_failure_is_tried_again_and_the_latest_report_counts(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        reporter.benched(one, Reason.RATE_LIMITED, NOW + 5, 17, (), NOW)
        call = await server.call()
        reporter.benched(one, Reason.UNAUTHORIZED, None, 17, (), NOW + 1)  # while the first is on its way
        await call.answer({}, 503)
        (entry,) = await entries(server)
    assert entry == {
        "reporter": "proxy-0",
        "observedTime": "2027-01-15T08:00:01Z",
        "reason": "Unauthorized",
        "tokenGeneration": 17,
        "windows": [],
    }


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
async def test_a_refusal_is_not_repeated_and_holds_up_nobody(server: ApiServer, status: int) -> None:
    async with reporting(server) as reporter:
        reporter.benched(account("a"), Reason.FORBIDDEN, None, 17, (), NOW)
        await (await server.call()).answer({}, status)
        reporter.benched(account("b"), Reason.FORBIDDEN, None, 17, (), NOW)
        call = await server.call()
        assert "/oauthaccounts/b/" in call.path


async def test_an_account_that_works_again_loses_its_reason(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 100, NOW)
        reporter.benched(one, Reason.QUOTA_EXHAUSTED, NOW + 100, 17, USED_UP, NOW)
        await entries(server)
        works(reporter, one, 17, headers(0.9), NOW + 1)  # the answer to a request from before
        works(reporter, one, 17, headers(0.01), NOW + 101)
        (entry,) = await entries(server)
        assert "reason" not in entry and "untilTime" not in entry
        assert entry["windows"] == [{"name": "5h", "utilization": 0.01, "status": "allowed"}]


async def test_an_account_that_works_again_and_says_nothing_of_windows_loses_its_entry(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        reporter.benched(one, Reason.UNAUTHORIZED, None, 17, (), NOW)
        await entries(server)
        works(reporter, one, 18, [], NOW + 101)
        assert await entries(server) == []


async def test_the_use_of_windows_is_reported_when_it_changes_and_at_most_once_a_minute(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        for second, utilization in [(0, 0.101), (30, 0.2), (61, 0.102), (122, 0.1), (183, 0.3)]:
            works(reporter, one, 17, headers(utilization), NOW + second)
            if second in (0, 183):
                (entry,) = await entries(server)
                assert entry["windows"][0]["utilization"] == utilization


@pytest.mark.parametrize("reason", Reason)
async def test_every_reason_is_reported(server: ApiServer, reason: Reason) -> None:
    async with reporting(server) as reporter:
        works(
            reporter, account("b"), 17, [], NOW
        )  # and an account in good order of which there is nothing to say is not
        reporter.benched(account("a"), reason, None, 17, (), NOW)
        call = await server.call()
        assert call.body and call.body["status"]["reports"][0]["reason"] == reason.value
        assert "/oauthaccounts/a/" in call.path


async def test_an_end_later_than_the_api_server_can_take_is_the_latest_that_it_can(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        reporter.benched(account(), Reason.QUOTA_EXHAUSTED, NOW + 1e13, 17, (), NOW)
        (entry,) = await entries(server)
        assert entry["untilTime"] == "9999-12-31T23:59:59Z"


async def test_an_instant_that_cannot_be_written_is_left_out(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        reporter.benched(account(), Reason.QUOTA_EXHAUSTED, NOW, 17, (Window("5h", resets_at=1e15),), NOW)
        (entry,) = await entries(server)
        assert entry["windows"] == [{"name": "5h"}]


async def test_what_waits_and_what_was_on_its_way_is_sent_before_the_end(server: ApiServer) -> None:
    api = KubeApi(KubernetesConfig(server.url, "pool"))
    reporter = StatusReporter(api, "proxy-0", Backoff(0.001, 0.01))
    task = asyncio.create_task(reporter.run())
    for name in ("a", "b", "c"):
        reporter.benched(account(name), Reason.FORBIDDEN, None, 17, (), NOW)
    assert "/a/" in (await server.call()).path  # not answered: nobody knows whether it has arrived
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    flushing = asyncio.create_task(reporter.flush(20))
    sent = []
    for _ in range(3):
        call = await server.call()
        sent.append(call.path.split("/")[-2])
        await call.answer({}, 404 if sent[-1] == "b" else 200)  # one that is refused does not hold up the others
    await flushing
    assert sorted(sent) == ["a", "b", "c"]
    api.close()


async def test_an_api_server_that_does_not_answer_does_not_hold_up_the_end(server: ApiServer) -> None:
    api = KubeApi(KubernetesConfig(server.url, "pool"))
    reporter = StatusReporter(api, "proxy-0")
    reporter.benched(account(), Reason.FORBIDDEN, None, 17, (), NOW)
    await reporter.flush(0.01)
    api.close()


async def test_an_access_token_that_expired_is_reported_once(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        reporter.expired(one, NOW)
        (entry,) = await entries(server)
        assert (entry["reason"], entry["tokenGeneration"]) == ("Unauthorized", 17)
        reporter.expired(one, NOW + 1)
        reporter.benched(account("b"), Reason.FORBIDDEN, None, 17, (), NOW)
        call = await server.call()
        assert "/oauthaccounts/b/" in call.path
        await call.answer({})
        one.adopt(AccessToken(18, "fingerprint", NOW + 200, "secret"))
        reporter.expired(one, NOW + 300)
        (entry,) = await entries(server)
        assert entry["tokenGeneration"] == 18


async def test_a_window_s_new_status_is_reported_at_once(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        works(reporter, one, 17, headers(0.5), NOW)
        await entries(server)
        works(reporter, one, 17, headers(0.7), NOW + 1)  # only more of it used
        warned = [(name, b"allowed_warning" if name.endswith(b"status") else value) for name, value in headers(0.9)]
        works(reporter, one, 17, warned, NOW + 2)
        (entry,) = await entries(server)
        assert entry["windows"] == [{"name": "5h", "utilization": 0.9, "status": "allowed_warning"}]


async def test_requests_per_minute_are_those_since_the_last_report(server: ApiServer) -> None:
    async with reporting(server) as reporter:
        one = account()
        works(reporter, one, 17, headers(0.1), NOW)
        (entry,) = await entries(server)
        assert "requestsPerMinute" not in entry
        for _ in range(30):
            one.begin()
        works(reporter, one, 17, headers(0.2), NOW + 90)
        (entry,) = await entries(server)
        assert entry["requestsPerMinute"] == 20
        one.begin()
        reporter.benched(one, Reason.QUOTA_EXHAUSTED, NOW + 500, 17, USED_UP, NOW + 95)  # too soon for a rate
        (entry,) = await entries(server)
        assert "requestsPerMinute" not in entry


async def test_a_report_that_hangs_holds_up_the_others_for_as_long_as_a_write_may_take_and_no_longer(
    server: ApiServer,
) -> None:
    api = KubeApi(KubernetesConfig(server.url, "pool"), read_timeout=3600, write_timeout=0.1)
    reporter = StatusReporter(api, "proxy-0", Backoff(0.001, 0.01))
    task = asyncio.create_task(reporter.run())
    reporter.benched(account("a"), Reason.FORBIDDEN, None, 17, (), NOW)
    assert "/oauthaccounts/a/" in (await server.call()).path  # never answered
    reporter.benched(account("b"), Reason.FORBIDDEN, None, 17, (), NOW)
    paths = [(await server.call()).path for _ in range(2)]
    assert any("/oauthaccounts/b/" in path for path in paths)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    api.close()


def test_nothing_is_kept_of_an_account_that_is_gone() -> None:
    reporter = StatusReporter(KubeApi(KubernetesConfig("http://127.0.0.1:1", "pool")), "proxy-0")
    kept = account("kept")
    for one in [kept, *(account(str(number)) for number in range(20))]:
        reporter.expired(one, NOW + 9999)
        works(reporter, one, 17, headers(0.5), NOW)
    del one
    gc.collect()
    assert (list(reporter._said), list(reporter._expired)) == ([kept], [kept])


async def test_the_queue_is_bounded() -> None:
    reporter = StatusReporter(KubeApi(KubernetesConfig("http://127.0.0.1:1", "pool")), "proxy-0")
    for number in range(MOST_WAITING + 10):
        reporter.benched(account(str(number)), Reason.FORBIDDEN, None, 1, (), NOW)
    assert len(reporter._waiting) == MOST_WAITING
