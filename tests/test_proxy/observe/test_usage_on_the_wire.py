"""Tokens per account and model, counted exactly from what passes, and what passes unchanged by that."""

import gzip
import json

import pytest

from oauth_pool_proxy.observe.metrics import MOST_MODELS
from tests.support.proxy_server import PoolFolder, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import LIMIT, answers

TYPES = ("input", "output", "cache_read", "cache_creation")


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def usage(**counts: int) -> dict[str, int]:
    return {name if name.endswith("tokens") else f"{name}_tokens": count for name, count in counts.items()}


START_USAGE = usage(input=100, output=1, cache_read_input=30, cache_creation_input=7)
STREAM = b"".join(
    [
        event("message_start", message={"model": "claude-x", "usage": START_USAGE}),
        event("content_block_delta", delta={"text": "the message_start of something: é"}),
        event("ping"),
        event("message_delta", usage=usage(output=20)),
        event("message_delta", usage=usage(output=55)),
        event("message_stop"),
    ]
)
JSON = json.dumps({"model": "claude-x", "content": ["é"], "usage": {**START_USAGE, "output_tokens": 55}}).encode()


async def tokens(proxy: RunningProxy) -> dict[tuple[str, str], tuple[float, ...]]:
    """By account and model."""
    metrics = await proxy.metrics()
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for name in metrics:
        if name.startswith("pool_tokens_total{"):
            account, model, _ = (label.partition("=")[2].strip('"}') for label in name.partition("{")[2].split(","))
            found[account, model] = tuple(
                metrics[f'pool_tokens_total{{account_id="{account}",model="{model}",type="{kind}"}}'] for kind in TYPES
            )
    return found


def chunked(body: bytes, size: int, headers: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return SSE_HEAD[:-2] + headers + b"\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


GZIP = b"content-encoding: gzip\r\n"
ANSWERS = {
    "stream at once": chunked(STREAM, 100_000),
    "stream byte by byte": chunked(STREAM, 1),
    "stream in pieces": chunked(STREAM, 37),
    "stream, gzip": chunked(gzip.compress(STREAM), 20, GZIP),
    "JSON": json_answer(JSON),
    "JSON in chunks": chunked(JSON, 9).replace(b"text/event-stream", b"application/json"),
    "JSON, gzip": json_answer(gzip.compress(JSON), 200, ("content-encoding", "gzip")),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_tokens_are_counted_by_account_and_model(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, kind: str
) -> None:
    folder.account("a")
    folder.account("b")
    upstream.answer_all(ANSWERS[kind])
    proxy = start(oauth=folder.oauth())
    for _ in range(3):
        answer = await proxy.request("POST", "/v1/messages", "", b"{}")
        assert (gzip.decompress(answer.body) if "gzip" in kind else answer.body) in (STREAM, JSON)
    once = (100, 55, 30, 7)
    assert await tokens(proxy) == {
        ("a", "claude-x"): tuple(2 * count for count in once),
        ("b", "claude-x"): once,
    }


async def test_a_stream_that_broke_off_counts_as_far_as_it_told(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    proxy = start(oauth=folder.oauth())
    for is_client in (False, True):
        async with proxy.connect() as client:
            await client.request()
            connection = await upstream.accept()
            await connection.request()
            await connection.send(SSE_HEAD)
            await connection.chunk(event("message_start", message={"model": "claude-x", "usage": START_USAGE}))
            await client.read_until(b"message_start")
            (client if is_client else connection).abort()
            await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
    assert await tokens(proxy) == {("a", "claude-x"): (200, 2, 60, 14)}


@pytest.mark.parametrize(
    "answer",
    [json_answer(JSON, 400), json_answer(b"[]"), json_answer(b'{"model":"claude-x"}'), json_answer(JSON[:-1])],
    ids=["an error", "something else", "no usage", "broken JSON"],
)
async def test_what_tells_no_usage_counts_nothing(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, answer: bytes
) -> None:
    folder.account("a")
    upstream.answer_all(answer)
    proxy = start(oauth=folder.oauth())
    await proxy.request()
    assert await tokens(proxy) == {}


async def test_what_an_account_was_asked_in_vain_is_not_counted_for_it(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": json_answer(LIMIT, 429)}, otherwise=json_answer(JSON))
    proxy = start(oauth=folder.oauth())
    await proxy.request()
    assert {account for account, _ in await tokens(proxy)} == {"b"}


async def test_a_model_beyond_so_many_is_counted_as_other(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    """Its name is somebody else's word, and each one costs a time series."""
    folder.account("a")
    upstream.answer_all(lambda request: json_answer(JSON.replace(b"claude-x", request.target[1:])))
    proxy = start(oauth=folder.oauth())
    async with proxy.connect() as client:
        for number in [*range(MOST_MODELS + 5), 0]:
            await client.request("GET", f"/model-{number}")
            await client.answer()
    found = await tokens(proxy)
    assert len(found) == MOST_MODELS + 1
    assert found["a", "other"] == tuple(5 * count for count in (100, 55, 30, 7))
    assert found["a", "model-0"] == (200, 110, 60, 14)


@pytest.mark.parametrize("mode", ["off by setting", "passthrough"])
async def test_it_can_be_off(upstream: UpstreamServer, start: Start, folder: PoolFolder, mode: str) -> None:
    folder.account("a")
    upstream.answer_all(json_answer(JSON))
    proxy = start() if mode == "passthrough" else start(oauth=folder.oauth(usage_metrics=False))
    assert (await proxy.request()).body == JSON
    assert await tokens(proxy) == {}
