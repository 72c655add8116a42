"""Streams and everything that can end them early, with raw sockets on both sides: nothing here repairs what it sees."""

import asyncio
import gc
import json

import pytest

from oauth_pool_proxy.upstream.exchange import Exchange
from tests.support.proxy_server import RawClient, until
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start


async def streaming(upstream: UpstreamServer, client: RawClient, first: bytes = b"data: 1\n\n") -> UpstreamConnection:
    """An event stream whose first event has arrived at the client."""
    await client.request("POST", "/v1/messages", "", b"{}")
    connection = await upstream.accept()
    await connection.request()
    await connection.send(SSE_HEAD)
    await client.head()
    await connection.chunk(first)
    assert await client.chunk() == first
    return connection


def last_event(body: bytes) -> tuple[str, dict[str, object]]:
    name, data = body.rstrip(b"\n").split(b"\n")[-2:]
    document: dict[str, object] = json.loads(data.removeprefix(b"data: "))
    return name.removeprefix(b"event: ").decode(), document


async def test_each_chunk_arrives_before_the_next_one_is_sent(upstream: UpstreamServer, start: Start) -> None:
    async with start().connect() as client:
        connection = await streaming(upstream, client)
        for piece in (b"event: a\n", b"data: \xc3", b"\xa9\n", b"\n"):  # split inside a character, between two newlines
            await connection.chunk(piece)
            assert await client.chunk() == piece
        await connection.send(b"0\r\n\r\n")
        assert await client.chunk() == b""


async def test_what_arrives_together_is_passed_on_whole(upstream: UpstreamServer, start: Start) -> None:
    body = bytes(range(256)) * 40_000
    upstream.answer_all(json_answer(body))
    answer = await start().request()
    assert (answer.body, answer.is_complete) == (body, True)


@pytest.mark.parametrize(
    ("relayed", "separator"),
    [(b"data: 1\n\n", b""), (b"data: 1\r\n\r\n", b""), (b'data: {"a', b"\n\n"), (b"data: 1\n", b"\n\n")],
    ids=["between events", "CRLF", "in a line", "between lines"],
)
async def test_a_stream_cut_by_the_upstream_ends_with_an_error_event_and_not_like_a_whole_one(
    upstream: UpstreamServer, start: Start, relayed: bytes, separator: bytes
) -> None:
    async with start().connect() as client:
        connection = await streaming(upstream, client, relayed)
        connection.abort()
        event = await client.chunk()
        assert event.startswith(separator + b"event: error\ndata: ")
        name, document = last_event(event)
        assert (name, document["type"]) == ("error", "error")
        assert document["error"]["type"] == "api_error"  # type: ignore[index]
        assert await client.rest() == b""  # and no last chunk


async def test_a_stream_that_falls_silent_is_ended_in_the_same_way(upstream: UpstreamServer, start: Start) -> None:
    async with start(idle_timeout_secs=1).connect() as client:
        connection = await streaming(upstream, client)
        assert last_event(await client.chunk())[1]["error"] == {
            "type": "api_error",
            "message": "The upstream was silent for 1 s",
        }
        assert await client.rest() == b""
        await connection.wait_closed()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n", b"a"),
        (SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n", b"1\r\na\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 10\r\n\r\n", b"a"),
    ],
    ids=["chunked", "content-length", "compressed stream", "stream with a length"],
)
async def test_any_other_answer_that_is_cut_arrives_cut(
    upstream: UpstreamServer, start: Start, head: bytes, body: bytes
) -> None:
    async with start().connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(head + body)
        await client.head()
        await client.read_until(b"a")
        connection.close()
        assert await client.rest() in (b"", b"\r\n")


async def test_bad_chunking_in_mid_stream_breaks_the_answer(upstream: UpstreamServer, start: Start) -> None:
    async with start().connect() as client:
        connection = await streaming(upstream, client)
        await connection.send(b"7\r\ndata:\n\n\r\nzz\r\n")
        assert await client.chunk() == b"data:\n\n"  # what came before it is not lost
        assert last_event(await client.chunk())[0] == "error"
        assert await client.rest() == b""


async def test_an_error_event_of_the_upstream_passes_untouched(upstream: UpstreamServer, start: Start) -> None:
    async with start().connect() as client:
        connection = await streaming(upstream, client, b'event: error\ndata: {"type":"error"}\n\n')
        await connection.send(b"0\r\n\r\n")
        assert await client.chunk() == b""


async def test_a_client_that_leaves_while_it_sends_its_body_frees_everything(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start(max_connections=1)
    async with proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc")
        await until(lambda: proxy.app.service.in_flight == 1, "the request to be there")
        client.abort()
        await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
    upstream.answer_all(json_answer())
    assert (await proxy.request()).status == 200  # the only slot is free again
    assert len(upstream.requests) == 1


async def test_a_client_that_leaves_before_the_head_cancels_the_upstream_request(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.request("POST", "/", "", b"{}")
        connection = await upstream.accept()
        await connection.request()
        client.abort()
        await connection.wait_closed()
    await until(lambda: proxy.app.upstream.open_connections == 0, "the connection to be gone")
    assert (
        b'proxy_requests_total{method="POST",status="499",verdict="client"} 1.0'
        in (await proxy.request("GET", "/metrics")).body
    )


async def test_a_client_that_leaves_in_mid_stream_cancels_the_upstream_request(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start()
    async with proxy.connect() as client:
        connection = await streaming(upstream, client)
        client.abort()
        await connection.wait_closed()
    await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
    assert proxy.app.upstream.open_connections == 0


async def test_a_storm_of_disconnects_leaves_nothing_behind(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=20)
    upstream.answer_all(lambda request: SSE_HEAD if request.target == b"/with-head" else b"")

    async def visit(number: int) -> None:
        async with proxy.connect() as client:
            await client.request("POST", ("/", "/without-head", "/with-head")[number % 3], "", b"{}")
            if number % 3 == 2:
                await client.head()
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(number) for number in range(90)))
    await until(lambda: proxy.app.service.in_flight == 0, "all requests to end")
    await until(lambda: proxy.app.upstream.open_connections == 0, "all connections to be gone")
    upstream.answer_all(json_answer())
    assert (await proxy.request()).status == 200


async def test_an_answer_that_comes_before_the_body_was_sent_is_relayed(upstream: UpstreamServer, start: Start) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.request("POST", "/", "", b"x" * 9_000_000)
        connection = await upstream.accept()
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(json_answer(b"too large", 413))
        answer = await client.answer()
    assert (answer.status, answer.body) == (413, b"too large")
    await until(
        lambda: proxy.app.upstream.open_connections == 0, "the connection, of which the rest of the body is due"
    )


async def test_the_head_of_an_answer_is_not_kept_while_its_stream_runs(upstream: UpstreamServer, start: Start) -> None:
    """A stream may last for an hour, and its head is a third of the memory that it costs."""
    proxy = start()
    async with proxy.connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD[:-2] + b"x-long: kept-or-not\r\n\r\n")
        await connection.chunk(b"event: ping\ndata: {}\n\n")
        assert b"kept-or-not" in await client.head()
        await client.chunk()
        (exchange,) = (thing for thing in gc.get_objects() if isinstance(thing, Exchange) and not thing.is_at_end)
        assert (exchange.headers, exchange.fields) == ([], {})
