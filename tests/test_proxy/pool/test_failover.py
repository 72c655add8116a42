"""Pool mode on the wire: whose access token is used, what its answer means, and what the client is told at the end."""

import asyncio
import json

import pytest

from oauth_pool_proxy.pool.pool import State
from tests.support.proxy_server import NOW, Clock, PoolFolder, RunningProxy, token_of, until
from tests.support.upstream_server import SSE_HEAD, RawRequest, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

QUOTA = (
    ("anthropic-ratelimit-unified-status", "rejected"),
    ("anthropic-ratelimit-unified-5h-status", "rejected"),
    ("anthropic-ratelimit-unified-5h-reset", str(int(NOW) + 1800)),
    ("anthropic-ratelimit-unified-5h-utilization", "1.02"),
)
ENVELOPE = b'{"type":"error","error":{"type":"%s","message":"%s"}}'
LIMIT = ENVELOPE % (
    b"rate_limit_error",
    b"This request would exceed your account's rate limit. Please try again later.",
)
REVOKED = ENVELOPE % (b"permission_error", b"OAuth token has been revoked. Please obtain a new token.")
EXPIRED = ENVELOPE % (b"authentication_error", b"OAuth token has expired. Please obtain a new token.")
NO_CREDIT = ENVELOPE % (b"billing_error", b"Your credit balance is too low to access the API.")
NO_SCOPE = ENVELOPE % (b"permission_error", b"OAuth token does not meet scope requirement user:profile")


def account_of(request: RawRequest) -> str:
    """Which account's access token a request carried, as `name-generation`."""
    (value,) = request.values(b"authorization")
    return value.decode().removeprefix("Bearer access-token-of-")


def asked(upstream: UpstreamServer) -> list[str]:
    return [account_of(request) for request in upstream.requests]


async def statuses(proxy: RunningProxy) -> dict[str, str]:
    pool = (await proxy.request("GET", "/health")).json()["pool"]
    assert isinstance(pool, dict)
    return {account["id"]: account["status"] for account in pool["accounts"]}


def answers(upstream: UpstreamServer, by_account: dict[str, bytes], otherwise: bytes = json_answer(b"good")) -> None:
    """Answer by the access token's owner; a key may name a generation."""

    def answer(request: RawRequest) -> bytes:
        account = account_of(request)
        return by_account.get(account, by_account.get(account.rpartition("-")[0], otherwise))

    upstream.answer_all(answer)


async def test_the_request_carries_the_account_and_the_header_contract_and_nothing_of_the_client_s_credentials(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer())
    proxy = start(
        oauth=folder.oauth(
            user_agent="our own/1", headers=[{"name": "x-team", "value": "t"}, {"name": "anthropic-beta", "value": "z"}]
        )
    )
    lines = "authorization: Bearer c\r\nx-api-key: c\r\ncookie: c\r\nuser-agent: sdk\r\nx-stainless-lang: python\r\n"
    await proxy.request("POST", "/v1/messages?beta=true", lines + "anthropic-beta: a,oauth-2025-04-20\r\n", b"{}")
    assert upstream.requests[0].head == (
        b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
        b"x-stainless-lang: python\r\nx-team: t\r\nuser-agent: our own/1\r\n"
        b"anthropic-beta: a,oauth-2025-04-20,z\r\nanthropic-version: 2023-06-01\r\n"
        b"authorization: Bearer access-token-of-a-1\r\ncontent-length: 2\r\n\r\n" % upstream.port
    )


async def test_a_client_s_own_version_and_user_agent_are_kept(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer())
    lines = "anthropic-version: 2026-10-21\r\nuser-agent: sdk\r\n"
    await start(oauth=folder.oauth(anthropic_beta=[])).request("GET", "/", lines)
    (request,) = upstream.requests
    assert request.values(b"anthropic-version") == [b"2026-10-21"]
    assert request.values(b"user-agent") == [b"sdk"]
    assert request.values(b"anthropic-beta") == []


async def test_accounts_take_turns(upstream: UpstreamServer, start: Start, folder: PoolFolder) -> None:
    for name in "abc":
        folder.account(name)
    upstream.answer_all(json_answer())
    proxy = start(oauth=folder.oauth())
    for _ in range(6):
        await proxy.request()
    assert asked(upstream) == ["a-1", "b-1", "c-1"] * 2


async def test_an_exhausted_account_cools_down_until_its_reset_and_the_request_goes_to_the_next(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": json_answer(LIMIT, 429, *QUOTA)})
    proxy = start(oauth=folder.oauth())
    assert (await proxy.request("POST", "/", "", b"body")).body == b"good"
    assert asked(upstream) == ["a-1", "b-1"]
    assert [request.body for request in upstream.requests] == [b"body"] * 2
    assert await statuses(proxy) == {"a": "cooling_down", "b": "available"}

    clock.advance(1800)  # the reset is over, the jitter after it is not
    assert (await statuses(proxy))["a"] == "cooling_down"
    clock.advance(31)
    assert (await statuses(proxy))["a"] == "available"

    metrics = (await proxy.request("GET", "/metrics")).body.decode()
    assert 'pool_failovers_total{from_account="a",reason="quota_exhausted"} 1.0' in metrics
    assert 'pool_quota_exhaustions_total{account_id="a"} 1.0' in metrics
    assert 'pool_account_status{account_id="a",status="available"} 1.0' in metrics
    assert 'pool_account_status{account_id="a",status="cooling_down"} 0.0' in metrics


async def test_with_every_account_cooling_the_client_is_told_when_to_come_back(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    folder.write_entry("c", status="Suspended", generation=0)
    later = [(name, value.replace(str(int(NOW) + 1800), str(int(NOW) + 9000))) for name, value in QUOTA]
    answers(upstream, {"a": json_answer(LIMIT, 429, *QUOTA), "b": json_answer(LIMIT, 429, *later)})
    proxy = start(oauth=folder.oauth())
    for _ in range(2):
        answer = await proxy.request()
        assert answer.status == 429
        document = answer.json()
        assert document["type"] == "error"
        assert document["error"]["type"] == "rate_limit_error"  # type: ignore[index]
        assert document["request_id"] == answer.values(b"request-id")[0].decode()
        assert 1801 <= int(answer.values(b"retry-after")[0]) <= 1830
    assert asked(upstream) == ["a-1", "b-1"]  # each once, and the second request none
    assert (await proxy.request("GET", "/health")).json()["status"] == "unhealthy"


async def test_a_rate_limit_is_waited_out_as_long_as_it_says(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("a")
    answers(upstream, {"a": json_answer(LIMIT, 429, ("retry-after", "20"))})
    proxy = start(oauth=folder.oauth())
    assert (await proxy.request()).values(b"retry-after") == [b"20"]
    clock.advance(20)
    assert await statuses(proxy) == {"a": "available"}


async def test_words_are_the_fallback_and_cool_down_as_long_as_the_account_says(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("a", cooldownSeconds=600)
    words = ENVELOPE % (b"rate_limit_error", b"You have reached the usage limit for your plan")
    answers(upstream, {"a": json_answer(words, 429)})
    proxy = start(oauth=folder.oauth())
    assert 600 < int((await proxy.request()).values(b"retry-after")[0]) <= 630


@pytest.mark.parametrize(
    ("headers", "retry_after"),
    [
        ((), []),
        (
            (
                ("anthropic-ratelimit-unified-status", "rejected"),
                ("anthropic-ratelimit-unified-7d_oi-status", "rejected"),
                ("anthropic-ratelimit-unified-7d_oi-reset", str(int(NOW) + 500)),
                ("anthropic-ratelimit-unified-5h-status", "allowed"),
            ),
            [b"500"],
        ),
    ],
    ids=["windowless", "one model only"],
)
async def test_a_429_that_says_nothing_of_the_account_benches_nobody(
    upstream: UpstreamServer,
    start: Start,
    folder: PoolFolder,
    headers: tuple[tuple[str, str], ...],
    retry_after: list[bytes],
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": json_answer(LIMIT, 429, *headers)})
    proxy = start(oauth=folder.oauth())
    assert (await proxy.request()).body == b"good"
    assert await statuses(proxy) == {"a": "available", "b": "available"}
    answers(upstream, {}, otherwise=json_answer(LIMIT, 429, *headers))
    upstream.requests.clear()
    for connection in upstream.connections:
        connection.abort()
    await until(lambda: proxy.app.upstream.open_connections == 0, "new connections to be needed")
    answer = await proxy.request()
    assert (answer.status, answer.values(b"retry-after")) == (429, retry_after)
    assert sorted(asked(upstream)) == ["a-1", "b-1"]


ONE_MODEL = (
    ("anthropic-ratelimit-unified-status", "rejected"),
    ("anthropic-ratelimit-unified-7d_oi-status", "rejected"),
    ("anthropic-ratelimit-unified-7d_oi-reset", str(int(NOW) + 500)),
    ("anthropic-ratelimit-unified-5h-status", "allowed"),
)


async def test_a_limit_of_one_model_benches_the_account_for_that_model_and_no_other(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    for name in "ab":
        folder.account(name)
    reset = False

    def answer(request: RawRequest) -> bytes:
        is_limited = account_of(request) == "a-1" and b"opus" in request.body and not reset
        return json_answer(LIMIT, 429, *ONE_MODEL) if is_limited else json_answer(b"good")

    upstream.answer_all(answer)
    proxy = start(oauth=folder.oauth(affinity=False))

    async def ask(model: str) -> list[str]:
        """The accounts that were asked for it."""
        upstream.requests.clear()
        assert (await proxy.request("POST", "/", "", b'{"model":"%s"}' % model.encode())).body == b"good"
        return asked(upstream)

    assert await ask("opus") == ["a-1", "b-1"]
    assert [await ask("opus") for _ in range(3)] == [["b-1"]] * 3
    assert sorted([await ask("haiku") for _ in range(2)]) == [["a-1"], ["b-1"]]
    assert await statuses(proxy) == {"a": "available", "b": "available"}
    assert (await proxy.metrics())['pool_failovers_total{from_account="a",reason="model_limited"}'] == 1
    clock.advance(500)
    reset = True
    assert sorted([await ask("opus") for _ in range(2)]) == [["a-1"], ["b-1"]]


async def test_with_the_model_used_up_everywhere_the_client_is_told_when_the_first_is_reset(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer(LIMIT, 429, *ONE_MODEL))
    proxy = start(oauth=folder.oauth())
    for second in (0, 100):
        clock.now = NOW + second
        answer = await proxy.request("POST", "/", "", b'{"model":"opus"}')
        assert (answer.status, answer.values(b"retry-after")) == (429, [b"%d" % (500 - second)])
    assert asked(upstream) == ["a-1"]


async def test_a_refused_token_is_read_anew_and_the_newer_one_used(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a-1": json_answer(b"old", 401)})
    proxy = start(oauth=folder.oauth())
    folder.write_token("a", 2)  # the index has not heard of it yet
    assert (await proxy.request()).body == b"good"
    assert asked(upstream) == ["a-1", "a-2"]
    assert (await statuses(proxy))["a"] == "available"


@pytest.mark.parametrize(
    ("answer", "reason", "seconds"),
    [
        (json_answer(EXPIRED, 401), "unauthorized", 60),
        (json_answer(REVOKED, 403), "forbidden", 60),
        (json_answer(NO_CREDIT, 402), "billing", 300),
    ],
    ids=["401", "403 revoked", "402"],
)
async def test_an_account_that_is_refused_is_left_alone_and_the_next_one_used(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock, answer: bytes, reason: str, seconds: int
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": answer})
    proxy = start(oauth=folder.oauth())
    for _ in range(3):
        assert (await proxy.request()).body == b"good"
    assert asked(upstream) == ["a-1", "b-1", "b-1", "b-1"]
    assert await statuses(proxy) == {"a": "disabled", "b": "available"}
    metrics = (await proxy.request("GET", "/metrics")).body.decode()
    assert f'pool_failovers_total{{from_account="a",reason="{reason}"}} 1.0' in metrics
    assert f'pool_account_benched_total{{account_id="a",reason="{reason.capitalize()}"}} 1.0' in metrics
    clock.advance(seconds - 1)
    assert (await statuses(proxy))["a"] == "disabled"
    clock.advance(2)
    assert (await statuses(proxy))["a"] == "available"  # one request will find out


async def test_a_newer_generation_ends_a_rejection(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a-1": json_answer(EXPIRED, 401)})
    proxy = start(oauth=folder.oauth())
    await proxy.request()
    assert (await statuses(proxy))["a"] == "disabled"
    folder.account("a", generation=2)
    assert proxy.app.pool is not None
    (account, _) = proxy.app.pool.accounts
    await until(lambda: account.state(clock.now) is State.AVAILABLE, "the newer access token to be used")


async def test_with_every_account_refused_beyond_doubt_the_client_gets_our_own_answer(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    secret = ENVELOPE % (b"authentication_error", b"OAuth token of secret@example.com has expired")
    answers(upstream, {"a": json_answer(REVOKED, 403), "b": json_answer(secret, 401)})
    proxy = start(oauth=folder.oauth())
    answer = await proxy.request()
    assert answer.status == 503
    error = answer.json()["error"]
    assert isinstance(error, dict)
    assert error["type"] == "pool_exhausted"
    causes = "1 was refused by the API (Forbidden); 1 was refused by the API (Unauthorized)"
    assert error["message"].startswith(f"No account is available: {causes}")
    assert error["pool"] == {
        "accounts_total": 2,
        "accounts_available": 0,
        "accounts_cooling": 0,
        "accounts_disabled": 2,
    }
    assert b"secret" not in answer.body


async def test_an_empty_pool_says_how_to_add_an_account(start: Start, folder: PoolFolder) -> None:
    answer = await start(oauth=folder.oauth()).request()
    assert answer.status == 503
    assert b"kubectl" in answer.body and b'"accounts_total":0' in answer.body


@pytest.mark.parametrize(
    "answer",
    [
        json_answer(b"overloaded", 529),
        json_answer(b"error", 500),
        json_answer(b"bad", 400),
        json_answer(b"missing", 404),
        json_answer(b"large", 413),
    ],
    ids=["529", "500", "400", "404", "413"],
)
async def test_an_answer_about_the_request_passes_untouched(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, answer: bytes
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": answer})
    proxy = start(oauth=folder.oauth())
    received = await proxy.request()
    assert received.status == int(answer.split(b" ")[1])
    assert received.body == answer.partition(b"\r\n\r\n")[2]
    assert await statuses(proxy) == {"a": "available", "b": "available"}
    assert asked(upstream) == ["a-1"]


async def test_a_long_403_is_passed_on_whole(upstream: UpstreamServer, start: Start, folder: PoolFolder) -> None:
    folder.account("a")
    body = bytes(range(256)) * 2000
    answers(upstream, {"a": json_answer(body, 403)})
    received = await start(oauth=folder.oauth()).request()
    assert (received.status, received.body, received.is_complete) == (403, body, True)


async def test_after_the_first_byte_no_other_account_is_tried(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    proxy = start(oauth=folder.oauth())
    task = asyncio.create_task(proxy.request())
    connection = await upstream.accept()
    await connection.request()
    await connection.send(SSE_HEAD)
    await connection.chunk(b"event: message_start\n")
    connection.close()
    assert not (await task).is_complete
    assert len(upstream.connections) == 1


async def test_a_lower_tier_is_used_while_the_higher_one_is_unavailable(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("low", priority=-1)
    folder.account("high", priority=5)
    answers(upstream, {"high": json_answer(LIMIT, 429, ("retry-after", "10"))})
    proxy = start(oauth=folder.oauth())
    for _ in range(2):
        await proxy.request()
    assert asked(upstream) == ["high-1", "low-1", "low-1"]
    clock.advance(10)
    await proxy.request()
    assert asked(upstream)[3] == "high-1"


async def test_an_account_has_no_more_requests_than_it_may_have_streams_included(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a", maxConcurrentRequests=1)
    proxy = start(oauth=folder.oauth())
    async with proxy.connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD)
        await connection.chunk(b"event: ping\ndata: {}\n\n")
        await client.head()
        await client.chunk()
        busy = await proxy.request()
        assert (busy.status, busy.values(b"retry-after")) == (429, [b"1"])
        await connection.send(b"0\r\n\r\n")
        await client.chunk()
    upstream.answer_all(json_answer(b"good"))
    await until(lambda: proxy.app.service.in_flight == 0, "the stream to end")
    task = asyncio.create_task(proxy.request())
    await connection.request()
    await connection.send(json_answer(b"good"))
    assert (await task).body == b"good"


async def test_an_expired_token_makes_the_account_unavailable(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock
) -> None:
    folder.account("a")
    upstream.answer_all(json_answer())
    proxy = start(oauth=folder.oauth())
    clock.advance(3601)
    assert await statuses(proxy) == {"a": "disabled"}
    assert (await proxy.request()).status == 503
    assert upstream.requests == []


async def test_a_change_of_the_index_is_taken_over_while_requests_run(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    proxy = start(oauth=folder.oauth())
    task = asyncio.create_task(proxy.request())
    connection = await upstream.accept()
    await connection.request()
    (folder.index / "a").unlink()
    folder.account("b")
    await until(lambda: [account.name for account in proxy.app.pool.accounts] == ["b"], "the swap")  # type: ignore[union-attr]
    await connection.send(json_answer(b"from a"))
    assert (await task).body == b"from a"
    assert json.dumps(token_of("a")).encode() not in (await proxy.request("GET", "/health")).body
