"""Bodies of requests: how many bytes of them are held, how long they may take, and what waits for what meanwhile."""

import asyncio
import socket
import tracemalloc
from contextlib import AsyncExitStack

import pytest

from oauth_pool_proxy.downstream.admission import READ_AHEAD
from oauth_pool_proxy.request import Request
from tests.support.proxy_server import Head, RawClient, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

MIB = 1024 * 1024
LITTLE = 64 * 1024
PIECE = b"x" * 65_536


def head(size: int | None) -> bytes:
    framing = b"transfer-encoding: chunked" if size is None else b"content-length: %d" % size
    return b"POST / HTTP/1.1\r\nhost: a\r\n%s\r\n\r\n" % framing


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def free(proxy: RunningProxy) -> int:
    return proxy.app.admission.memory.free


async def held(upstream: UpstreamServer, client: RawClient, size: int) -> UpstreamConnection:
    """The upstream's side of a request whose answer has not begun."""
    await client.request("POST", "/", "", b"x" * size)
    connection = await upstream.accept()
    await connection.request()
    return connection


async def taken_of(client: RawClient, size: int) -> int:
    """How much of a body of that size goes out before no more does; the client's own socket holds little."""
    raw = client.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LITTLE)
    for number in range(size // len(PIECE)):
        client.writer.write(PIECE)
        try:
            async with asyncio.timeout(0.2):
                await client.writer.drain()
        except TimeoutError:
            return (number + 1) * len(PIECE)
    raise AssertionError("all of it was taken")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_finds_no_room_is_not_read_until_there_is_some(
    upstream: UpstreamServer, start: Start, framing: str
) -> None:
    size = 48 * MIB  # more than fits into all sockets on the way
    proxy = start(max_body_bytes=size, max_buffered_bytes=size)
    async with proxy.connect() as first, proxy.connect() as second:
        connection = await held(upstream, first, 2 * MIB)
        if framing == "length":
            await second.send(head(size))
            sent = await taken_of(second, size)
        else:
            await second.send(head(None) + b"%x\r\n" % size)
            sent = await taken_of(second, size)
        await until(lambda: proxy.waiting == 1, "the second one to wait")
        assert free(proxy) == size - 2 * MIB
        await connection.send(json_answer(b"first"))  # and now it is the second one's turn
        receiving = asyncio.create_task(connection.request())
        for _ in range((size - sent) // len(PIECE)):
            await second.send(PIECE)
        if framing == "chunked":
            await second.send(b"\r\n0\r\n\r\n")
        assert len((await receiving).body) == size


async def test_room_is_given_back_when_the_answer_begins(upstream: UpstreamServer, start: Start) -> None:
    """What was sent is not sent again then, and a stream may last for an hour."""
    proxy = start(max_body_bytes=2 * MIB, max_buffered_bytes=3 * MIB)
    async with proxy.connect() as first, proxy.connect() as second:
        connection = await held(upstream, first, 2 * MIB)
        assert free(proxy) == MIB
        await second.request("POST", "/", "", b"x" * 2 * MIB)
        await until(lambda: proxy.waiting == 1, "the second one to wait")
        await connection.send(SSE_HEAD + chunk(b"data: \n\n"))
        await first.head()
        assert len((await (await upstream.accept()).request()).body) == 2 * MIB
        assert proxy.app.service.in_flight == 2


async def test_a_stream_does_not_hold_the_body_that_asked_for_it(upstream: UpstreamServer, start: Start) -> None:
    size = 16 * MIB
    proxy = start(max_body_bytes=size)
    tracemalloc.start()
    try:
        async with proxy.connect() as client:
            before, _ = tracemalloc.get_traced_memory()
            connection = await held(upstream, client, size)
            await connection.send(SSE_HEAD + chunk(b"data: \n\n"))
            await client.head()
            await client.chunk()
            kept = tracemalloc.get_traced_memory()[0] - before
            assert proxy.app.service.in_flight == 1
    finally:
        tracemalloc.stop()
    assert kept < size / 4


def test_what_a_request_forgets_is_gone() -> None:
    request = Request(Head("POST", b"/", [(b"a", b"b")]))
    request.body = b"body"
    request.forget()
    assert (request.body, request.headers, request.fields, request.describe()) == (b"", [], {}, None)


@pytest.mark.parametrize("how", ["answered", "refused", "failed", "left"])
async def test_room_is_given_back_however_a_request_ends(upstream: UpstreamServer, start: Start, how: str) -> None:
    proxy = start(max_body_bytes=2 * MIB, max_buffered_bytes=2 * MIB, attempts=1)
    async with proxy.connect() as client:
        if how == "refused":  # in the middle of its body
            await client.send(head(None) + chunk(b"x" * MIB))
            await until(lambda: free(proxy) == 0, "it to have room for the longest body")
            await client.send(chunk(b"x" * 2 * MIB))
            assert (await client.answer()).status == 413
        else:
            connection = await held(upstream, client, 2 * MIB)
            assert free(proxy) == 0
            if how == "left":
                client.abort()
            elif how == "failed":
                connection.abort()
                assert (await client.answer()).status == 502
            else:
                await connection.send(json_answer())
                assert (await client.answer()).status == 200
        await until(lambda: free(proxy) == 2 * MIB, "all of it to be free")


async def test_a_body_in_chunks_gives_back_what_it_did_not_need(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_body_bytes=2 * MIB, max_buffered_bytes=2 * MIB)
    async with proxy.connect() as client:
        await client.send(head(None) + chunk(b"x" * MIB))
        await until(lambda: free(proxy) == 0, "it to have room for the longest body")
        await client.send(b"0\r\n\r\n")
        await (await upstream.accept()).request()
        assert free(proxy) == MIB


async def test_bodies_in_chunks_do_not_wait_for_each_other_for_ever(upstream: UpstreamServer, start: Start) -> None:
    """Each of them fits, not both: with room for one at a time all get through."""
    upstream.answer_all(lambda request: json_answer(b"%d" % len(request.body)))
    proxy = start(max_body_bytes=2 * MIB, max_buffered_bytes=2 * MIB)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(proxy.connect()) for _ in range(5)]
        for client in clients:
            client.writer.write(head(None) + chunk(b"x" * MIB))
        await until(lambda: proxy.waiting == 4, "all but one to wait")
        for client in clients:
            client.writer.write(chunk(b"x" * MIB) + b"0\r\n\r\n")
        for client in clients:
            assert (await client.answer()).body == b"%d" % (2 * MIB)
    assert free(proxy) == 2 * MIB


async def test_who_only_announces_a_body_needs_no_room(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer(b"served"))
    proxy = start(max_body_bytes=2 * MIB, max_buffered_bytes=2 * MIB)
    async with AsyncExitStack() as stack:
        for size in (2 * MIB, None):
            client = await stack.enter_async_context(proxy.connect())
            await client.send(head(size))
        await until(lambda: proxy.app.service.in_flight == 2, "them to be there")
        assert free(proxy) == 2 * MIB
        assert (await proxy.request("POST", "/", "", b"x" * 2 * MIB)).body == b"served"


async def test_a_short_body_does_not_wait_behind_a_long_one(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_body_bytes=2 * MIB, max_buffered_bytes=2 * MIB)
    async with proxy.connect() as first, proxy.connect() as second, proxy.connect() as third:
        await held(upstream, first, 2 * MIB)
        await second.request("POST", "/", "", b"x" * 2 * MIB)
        await until(lambda: proxy.waiting == 1, "the second one to wait")
        await held(upstream, third, READ_AHEAD)
        assert free(proxy) == -READ_AHEAD  # counted all the same


async def test_a_slow_upload_takes_nobody_s_slot(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer(b"served"))
    proxy = start(max_connections=1)
    async with proxy.connect() as slow:
        await slow.send(head(MIB) + b"x" * (READ_AHEAD + 1))
        await until(lambda: free(proxy) < 48 * MIB, "it to be read")
        assert (await proxy.request()).body == b"served"
        await slow.send(b"x" * (MIB - READ_AHEAD - 1))
        assert (await slow.answer()).body == b"served"


@pytest.mark.parametrize("beginning", [head(10) + b"half", head(None) + b"3\r\nabc\r\n"])
async def test_a_body_that_takes_too_long_is_refused_however_it_trickles(
    upstream: UpstreamServer, start: Start, beginning: bytes
) -> None:
    proxy = start(body_timeout_secs=60)
    async with proxy.connect() as client:
        await client.send(beginning)
        await until(lambda: proxy.app.service.in_flight == 1, "the request to be there")
        await proxy.look(later=59)
        assert proxy.app.service.in_flight == 1
        await client.send(b"1")  # a byte now and then does not help
        await proxy.look(later=61)
        answer = await client.answer()
        assert (answer.status, answer.values(b"connection")) == (408, [b"close"])
        error = {"type": "timeout_error", "message": "The request body did not arrive within 60 s"}
        assert answer.json()["error"] == error
        assert await client.rest() == b""
    await until(lambda: free(proxy) == 48 * MIB, "its room to be free")
    assert (await proxy.metrics())['proxy_upstream_errors_total{error_type="invalid_request"}'] == 1


@pytest.mark.parametrize("framing", [f"content-length: {MIB}", "transfer-encoding: chunked"])
async def test_a_body_that_stalls_does_not_hold_its_room_for_long(
    upstream: UpstreamServer, start: Start, framing: str
) -> None:
    """Two that stop in the middle would otherwise keep every longer body out for `body_timeout_secs`."""
    proxy = start(body_timeout_secs=300)
    begun = b"x" * 100_000 if "length" in framing else b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    async with proxy.connect() as client:
        await client.send(f"POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n".encode() + begun)
        await until(lambda: free(proxy) < 48 * MIB, "it to have room")
        await proxy.look(later=29)
        assert proxy.app.service.in_flight == 1
        await proxy.look(later=62)
        answer = await client.answer()
    assert answer.status == 408
    assert b"too slowly" in answer.body
    await until(lambda: free(proxy) == 48 * MIB, "its room to be free")


async def test_a_body_that_only_trickles_does_not_hold_its_room_for_long(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start(body_timeout_secs=300)
    async with proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % MIB + b"x" * 100_000)
        await until(lambda: free(proxy) < 48 * MIB, "it to have room")
        for later in (25, 50, 75):
            await client.send(b"1")
            await proxy.look(later=later)
        assert (await client.answer()).status == 408


async def test_the_time_in_line_is_not_the_client_s(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(body_timeout_secs=60, max_body_bytes=2 * MIB, max_buffered_bytes=2 * MIB)
    async with proxy.connect() as first, proxy.connect() as second:
        connection = await held(upstream, first, 2 * MIB)
        await second.request("POST", "/", "", b"x" * 2 * MIB)
        await until(lambda: proxy.waiting == 1, "the second one to wait")
        await proxy.look(later=1000)
        await connection.send(json_answer())
        assert len((await connection.request()).body) == 2 * MIB


async def test_who_comes_when_as_many_wait_as_may_is_told_to_come_again(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=1, max_queued=1)
    async with proxy.connect() as first, proxy.connect() as second:
        connection = await held(upstream, first, 10)
        await second.request("GET", "/second")
        await until(lambda: proxy.waiting == 1, "the second one to wait")
        answer = await proxy.request("POST", "/", "", b"{}")
        assert (answer.status, answer.values(b"retry-after")) == (503, [b"1"])
        assert answer.json()["error"]["type"] == "overloaded_error"  # type: ignore[index]
        await connection.send(json_answer())
        await connection.request()
        await connection.send(json_answer(b"second"))
        assert (await second.answer()).body == b"second"
