"""A client that leaves costs nothing from that moment on, however far its request has come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oauth_pool_proxy.downstream.admission import READ_AHEAD
from tests.support.proxy_server import PoolFolder, RawClient, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start


@asynccontextmanager
async def asked(proxy: RunningProxy, upstream: UpstreamServer) -> AsyncIterator[tuple[RawClient, UpstreamConnection]]:
    """A client, and the upstream's side of its request."""
    async with proxy.connect() as client:
        await client.request("POST", "/v1/messages", "", b"{}")
        connection = await upstream.accept()
        await connection.request()
        yield client, connection


async def all_is_free(proxy: RunningProxy, upstream: UpstreamServer, phase: str) -> None:
    """The proxy has one slot, so that one more request shows whether it is free."""
    await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
    await until(lambda: proxy.app.upstream.open_connections == 0, "its connection to be gone")
    metrics = await proxy.metrics()
    assert metrics[f'proxy_client_disconnects_total{{phase="{phase}"}}'] == 1
    for account in proxy.app.pool.accounts if proxy.app.pool else ():
        assert account.in_flight == 0
    upstream.answer_all(json_answer(b"next"))
    assert (await proxy.request()).body == b"next"


@pytest.mark.parametrize("body", [b"", b"x" * 100], ids=["no body", "with its body"])
async def test_while_it_waits_for_a_slot(upstream: UpstreamServer, start: Start, body: bytes) -> None:
    proxy = start(max_connections=1)
    async with asked(proxy, upstream) as (_, connection), proxy.connect() as client:
        await client.request("POST", "/", "", body)
        await until(lambda: proxy.app.service.in_flight == 2, "the request to wait")
        client.abort()
        await until(lambda: proxy.app.service.in_flight == 1, "it to end")
        connection.abort()
    await all_is_free(proxy, upstream, "queued")
    assert len(upstream.requests) == 1  # the one that was asked last


MUCH = 4 * READ_AHEAD


async def test_while_it_waits_for_room(upstream: UpstreamServer, start: Start) -> None:
    """Its connection is not read from then, and says nothing by itself."""
    proxy = start(max_connections=2, max_body_bytes=MUCH, max_buffered_bytes=MUCH)
    async with proxy.connect() as first, proxy.connect() as client:
        await first.request("POST", "/", "", b"x" * MUCH)
        connection = await upstream.accept()
        await connection.request()
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % MUCH)
        await client.send(b"x" * (READ_AHEAD + 20_000))  # the rest waits in the sockets, and the end behind it
        await until(lambda: client.writer.transport.get_write_buffer_size() == 0, "all of it to be on its way")
        await until(lambda: proxy.waiting == 1, "the request to wait")
        client.abort()
        await until(lambda: proxy.app.service.in_flight == 1, "it to end")
        await connection.send(json_answer())
        await first.answer()
        connection.abort()
    await all_is_free(proxy, upstream, "queued")


@pytest.mark.parametrize(
    "framing", [b"content-length: 10\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_while_it_sends_its_body(upstream: UpstreamServer, start: Start, framing: bytes) -> None:
    proxy = start(max_connections=1)
    async with proxy.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + framing)
        await until(lambda: proxy.app.service.in_flight == 1, "the request to be there")
        client.abort()
    await all_is_free(proxy, upstream, "body")


async def test_while_the_upstream_is_being_connected_to(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=1, upstream_url=upstream.url.replace("http:", "https:"))
    async with proxy.connect() as client:
        await client.request()
        connection = await upstream.accept()  # and says nothing: there is no handshake
        assert await connection.reader.read(1) == b"\x16"
        client.abort()
        await connection.wait_closed()
    await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
    assert (await proxy.metrics())['proxy_client_disconnects_total{phase="waiting"}'] == 1
    assert proxy.app.upstream.open_connections == 0


async def test_while_it_waits_for_the_head(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=1)
    async with asked(proxy, upstream) as (client, connection):
        client.abort()
        await connection.wait_closed()
    await all_is_free(proxy, upstream, "waiting")


@pytest.mark.parametrize("beginning", [b"", b"8\r\nevent: e\r\n"], ids=["nothing", "not enough to tell"])
async def test_while_the_first_event_is_waited_for(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, beginning: bytes
) -> None:
    folder.account("a", maxConcurrentRequests=1)
    proxy = start(max_connections=1, oauth=folder.oauth())
    async with asked(proxy, upstream) as (client, connection):
        await connection.send(SSE_HEAD + beginning)
        client.abort()
        await connection.wait_closed()
    await all_is_free(proxy, upstream, "waiting")


async def test_between_two_pieces_of_a_stream(upstream: UpstreamServer, start: Start, folder: PoolFolder) -> None:
    folder.account("a", maxConcurrentRequests=1)
    proxy = start(max_connections=1, oauth=folder.oauth())
    async with asked(proxy, upstream) as (client, connection):
        await connection.send(SSE_HEAD + b"6\r\ndata: \r\n")
        await client.read_until(b"data: ")
        client.abort()
        await connection.wait_closed()
    await all_is_free(proxy, upstream, "answering")


async def test_while_it_does_not_read(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(max_connections=1)
    async with asked(proxy, upstream) as (client, connection):
        await connection.send(SSE_HEAD)
        await client.head()
        with pytest.raises(TimeoutError):
            while True:
                connection.writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                async with asyncio.timeout(0.2):
                    await connection.writer.drain()
        client.abort()
        await connection.wait_closed()
    await all_is_free(proxy, upstream, "answering")


async def test_while_it_has_more_requests_on_the_same_connection(upstream: UpstreamServer, start: Start) -> None:
    """The connection is not read from until the first of them is answered."""
    proxy = start(max_connections=1)
    async with asked(proxy, upstream) as (client, connection):
        await client.send(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n" * 2)
        client.abort()
        await connection.wait_closed()
    await all_is_free(proxy, upstream, "waiting")
    assert [request.target for request in upstream.requests] == [b"/v1/models"]


async def test_who_closes_its_own_side_has_left(upstream: UpstreamServer, start: Start) -> None:
    """HTTP lets a client do that and still read. Hardly one does, and the end of its side is how most of them leave."""
    proxy = start(max_connections=1)
    async with asked(proxy, upstream) as (client, connection):
        client.writer.write_eof()
        await connection.wait_closed()
        assert await client.rest() == b""
    await all_is_free(proxy, upstream, "waiting")
