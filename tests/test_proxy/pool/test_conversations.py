"""Affinity on the wire: a conversation stays with its account while that is available, and comes back when it costs nothing."""

import json

import pytest

from oauth_pool_proxy.pool.account import State
from tests.support.proxy_server import NOW, Clock, PoolFolder, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import LIMIT, account_of, answers, asked


def body(opening: str = "hello", **members: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": opening}], **members}).encode()


KINDS: dict[str, tuple[str, bytes, str, bytes]] = {
    "header": ("x-claude-code-session-id: s1\r\n", body(), "X-Claude-Code-Session-Id: s2\r\n", body()),
    "user id": ("", body("a", metadata={"user_id": "u1"}), "", body("a", metadata={"user_id": "u2"})),
    "opening": ("", body("hello"), "", body("good morning")),
}
"""Header lines and body of two conversations."""


@pytest.fixture
def pool(folder: PoolFolder) -> PoolFolder:
    """Three accounts whose access tokens last for as long as a test takes."""
    for name in "abc":
        folder.write_token(name, 1, NOW + 1e6)
        folder.write_entry(name)
    return folder


async def say(proxy: RunningProxy, upstream: UpstreamServer, lines: str = "", text: bytes = body()) -> str:
    """Which account answered."""
    answer = await proxy.request("POST", "/v1/messages", lines, text)
    assert answer.status == 200
    return account_of(upstream.requests[-1])[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_keeps_its_account_whatever_others_have(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, kind: str
) -> None:
    lines, text, other_lines, other_text = KINDS[kind]
    answers(upstream, {})
    proxy = start(oauth=pool.oauth())
    home = await say(proxy, upstream, lines, text)
    assert [await say(proxy, upstream, lines, text) for _ in range(2)] == [home] * 2
    other = await say(proxy, upstream, other_lines, other_text)
    assert [await say(proxy, upstream, other_lines, other_text) for _ in range(2)] == [other] * 2
    assert await say(proxy, upstream, lines, text) == home
    metrics = await proxy.metrics()
    assert metrics['pool_affinity_total{result="new"}'] == 2
    assert metrics['pool_affinity_total{result="hit"}'] == 5


async def test_a_conversation_that_grows_stays_the_same_one(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    answers(upstream, {})
    proxy = start(oauth=pool.oauth())
    grown = json.loads(body())
    seen = [await say(proxy, upstream)]
    for number in range(3):
        grown["messages"] += [{"role": "assistant", "content": str(number)}, {"role": "user", "content": "go on"}]
        seen.append(await say(proxy, upstream, "", json.dumps(grown).encode()))
    assert seen == [seen[0]] * 4


async def test_it_moves_when_its_account_cools_down_and_comes_back_when_the_cache_is_cold(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, clock: Clock
) -> None:
    answers(upstream, {})
    proxy = start(oauth=pool.oauth())
    home = await say(proxy, upstream)
    connections = len(upstream.connections)
    answers(upstream, {home: json_answer(LIMIT, 429, ("retry-after", "20"))})
    for connection in upstream.connections[:connections]:
        connection.abort()
    away = await say(proxy, upstream)
    assert away != home
    assert asked(upstream)[-2:] == [f"{home}-1", f"{away}-1"]

    answers(upstream, {})
    for connection in upstream.connections:
        connection.abort()
    clock.advance(30)  # its account is available again, and its cache is warm elsewhere
    assert [await say(proxy, upstream) for _ in range(2)] == [away] * 2
    clock.advance(299)
    assert await say(proxy, upstream) == away
    clock.advance(300)
    assert [await say(proxy, upstream) for _ in range(2)] == [home] * 2
    metrics = await proxy.metrics()
    assert metrics['pool_affinity_total{result="moved"}'] == 2


async def test_it_does_not_hold_on_to_an_account_of_a_lower_tier(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, clock: Clock
) -> None:
    for name in "bc":
        pool.write_entry(name, priority=-1)
    answers(upstream, {"a": json_answer(LIMIT, 429, ("retry-after", "20"))})
    proxy = start(oauth=pool.oauth())
    low = await say(proxy, upstream)
    assert low in "bc"
    assert await say(proxy, upstream) == low
    answers(upstream, {})
    for connection in upstream.connections:
        connection.abort()
    clock.advance(21)
    assert await say(proxy, upstream) == "a"


async def test_proxies_agree_on_every_conversation_s_account_without_talking_and_after_a_restart(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    answers(upstream, {})
    proxies = [start(oauth=pool.oauth()) for _ in range(2)]
    await proxies[1].request()  # one of them has had other requests
    texts = [body(str(number)) for number in range(12)]
    seen = [[await say(proxy, upstream, "", text) for text in texts] for proxy in proxies]
    proxies[0].stop()
    seen.append([await say(start(oauth=pool.oauth()), upstream, "", texts[0]), *seen[0][1:]])
    assert seen[1] == seen[0] == seen[2]
    assert set(seen[0]) == set("abc")


async def test_proxies_agree_on_where_a_conversation_goes_when_its_account_cools_down(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    answers(upstream, {})
    texts = [body(str(number)) for number in range(12)]
    one, other = start(oauth=pool.oauth()), start(oauth=pool.oauth())
    homes = [await say(one, upstream, "", text) for text in texts]
    pool.write_entry("a", status="CoolingDown")
    until_gone = [until(lambda proxy=proxy: _cools(proxy, "a"), "the index to be read") for proxy in (one, other)]  # type: ignore[misc]
    for waiting in until_gone:
        await waiting
    seen = [[await say(proxy, upstream, "", text) for text in texts] for proxy in (one, other)]
    assert seen[0] == seen[1]
    assert [now == home for now, home in zip(seen[0], homes, strict=True)] == [home != "a" for home in homes]


def _cools(proxy: RunningProxy, name: str) -> bool:
    assert proxy.app.pool
    account = proxy.app.pool.account(f"uid-{name}")
    return account is not None and account.state(NOW) is State.COOLING_DOWN


async def test_it_is_off_by_setting(upstream: UpstreamServer, start: Start, pool: PoolFolder) -> None:
    answers(upstream, {})
    proxy = start(oauth=pool.oauth(affinity=False))
    lines = KINDS["header"][0]
    assert [await say(proxy, upstream, lines) for _ in range(4)] == ["a", "b", "c", "a"]
    assert not [name for name in await proxy.metrics() if name.startswith("pool_affinity_total{")]


async def test_new_conversations_are_spread_whatever_they_have_in_common(
    upstream: UpstreamServer, start: Start, pool: PoolFolder
) -> None:
    """A system prompt that all of them share must not put them all on one account."""
    answers(upstream, {})
    proxy = start(oauth=pool.oauth())
    seen = [await say(proxy, upstream, "", body(str(number), system="You are a helper")) for number in range(30)]
    assert all(seen.count(name) >= 4 for name in "abc")


@pytest.mark.parametrize(("method", "text"), [("GET", b""), ("POST", b"not json"), ("POST", b'{"messages":[]}')])
async def test_what_is_no_conversation_takes_its_turn(
    upstream: UpstreamServer, start: Start, pool: PoolFolder, method: str, text: bytes
) -> None:
    answers(upstream, {})
    proxy = start(oauth=pool.oauth())
    for _ in range(3):
        await proxy.request(method, "/", "", text)
    assert asked(upstream) == ["a-1", "b-1", "c-1"]


async def test_a_stream_counts_from_its_first_event(upstream: UpstreamServer, start: Start, pool: PoolFolder) -> None:
    """Many requests of one conversation may be under way; the second must not wait for the end of the first."""
    proxy = start(oauth=pool.oauth())
    async with proxy.connect() as client:
        await client.request("POST", "/", "", body())
        connection = await upstream.accept()
        first = account_of(await connection.request())
        await connection.send(SSE_HEAD + b"6\r\ndata: \r\n")
        await client.head()
        answers(upstream, {})
        assert f"{await say(proxy, upstream)}-1" == first
