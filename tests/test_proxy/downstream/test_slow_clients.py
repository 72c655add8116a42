"""Whoever makes no progress loses connection, slot and account; and there are only so many connections.

Progress is what the client's kernel acknowledges: a process that is stopped goes on acknowledging until its socket is full.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from oauth_pool_proxy.downstream import kernel
from tests.support.proxy_server import PoolFolder, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

LITTLE = 64 * 1024
CHUNK = b"10000\r\n%s\r\n" % (b"x" * 0x10000)


@asynccontextmanager
async def client_with_little_room(proxy: RunningProxy) -> AsyncIterator[socket.socket]:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
    raw.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", proxy.port))
        yield raw
    finally:
        raw.close()


async def stuck(upstream: UpstreamServer, raw: socket.socket) -> UpstreamConnection:
    """A stream of which the client takes nothing any more."""
    await asyncio.get_running_loop().sock_sendall(raw, b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
    connection = await upstream.accept()
    connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LITTLE)
    await connection.request()
    await connection.send(SSE_HEAD)
    with suppress(TimeoutError):
        while True:
            connection.writer.write(CHUNK)
            async with asyncio.timeout(0.2):
                await connection.writer.drain()
    return connection


async def test_who_takes_nothing_of_an_answer_loses_connection_slot_and_account(
    upstream: UpstreamServer,
    start: Start,
    folder: PoolFolder,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "oauth_pool_proxy.observe.access_log")
    folder.account("a", maxConcurrentRequests=1)
    proxy = start(max_connections=1, idle_timeout_secs=60, oauth=folder.oauth())
    async with client_with_little_room(proxy) as raw:
        connection = await stuck(upstream, raw)
        await proxy.look()
        await proxy.look(later=59)
        assert proxy.app.service.in_flight == 1
        await proxy.look(later=61)
        await connection.wait_closed()
        await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
        metrics = await proxy.metrics()
        assert metrics['proxy_client_disconnects_total{phase="answering"}'] == 1
        assert metrics['pool_account_in_flight{account_id="a"}'] == 0
        assert '"outcome":"client_gone"' in capfd.readouterr().out
        upstream.answer_all(json_answer(b"next"))
        assert (await proxy.request()).body == b"next"
        await until(lambda: not proxy.connections, "its connection to be gone")


async def test_who_takes_a_little_now_and_then_keeps_them(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(idle_timeout_secs=60)
    loop = asyncio.get_running_loop()
    async with client_with_little_room(proxy) as raw:
        connection = await stuck(upstream, raw)
        (served,) = proxy.connections
        for times in range(1, 4):
            await proxy.look(later=times * 50)
            # as much as makes the kernel say to the other side that there is room again, and the upstream has more to send
            before = kernel.unsent(served.socket), served.transport.get_write_buffer_size()
            while (kernel.unsent(served.socket), served.transport.get_write_buffer_size()) == before:
                await loop.sock_recv(raw, LITTLE)
                await asyncio.sleep(0.01)
        await proxy.look(later=190)
        assert proxy.app.service.in_flight == 1
        connection.abort()


async def test_silence_of_the_upstream_is_not_the_client_s(upstream: UpstreamServer, start: Start) -> None:
    proxy = start(idle_timeout_secs=60)
    async with proxy.connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD + b"5\r\ndata:\r\n")
        await client.read_until(b"data:")
        for seconds in (0, 59, 61, 1000):
            await proxy.look(later=seconds)
        await connection.send(b"0\r\n\r\n")
        assert (await client.read_until(b"\r\n0\r\n\r\n")).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("ending", [b"", b"connection: close\r\n"], ids=["kept", "closing"])
async def test_who_does_not_fetch_an_answer_that_is_complete_loses_the_connection(
    upstream: UpstreamServer, start: Start, ending: bytes
) -> None:
    """The requests have ended long ago; the bytes are still here."""
    upstream.answer_all(json_answer(b"x" * 10_000))
    proxy = start(idle_timeout_secs=60)
    requests = [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"] * 60
    async with client_with_little_room(proxy) as raw:
        await until(lambda: proxy.connections, "it to be connected")
        (served,) = proxy.connections
        served.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LITTLE)
        requests[-1] = b"GET / HTTP/1.1\r\nhost: a\r\n%s\r\n" % ending
        await asyncio.get_running_loop().sock_sendall(raw, b"".join(requests))
        await until(lambda: proxy.app.metrics.requests_served == len(requests), "all of them to end")
        assert served.transport.get_write_buffer_size()
        await proxy.look()
        await proxy.look(later=59)
        assert proxy.connections
        await proxy.look(later=61)
        await proxy.look(later=130)  # the kernels may have moved a few more bytes since the first look
        await until(lambda: not proxy.connections, "it to be gone")


async def test_who_was_refused_and_stays_is_not_listened_to_for_ever(start: Start) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.answer()).status == 400
        assert await client.reader.read() == b""  # its side is open still
        await proxy.look()
        assert len(proxy.connections) == 1
        await proxy.look(later=3)
        await until(lambda: not proxy.connections, "it to be gone")


async def test_one_connection_more_than_there_may_be_is_closed_and_that_is_said_once(
    upstream: UpstreamServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answer_all(json_answer(b"served"))
    proxy = start(max_client_connections=2)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(proxy.connect()) for _ in range(2)]
        for client in clients:
            await client.request()
            await client.answer()
        for _ in range(3):
            assert await refused(proxy)
        for client in clients:  # the others are not touched
            await client.request()
            assert (await client.answer()).body == b"served"
        clients[0].abort()
        await until(lambda: len(proxy.connections) == 1, "one of them to be gone")
        assert (await proxy.request()).body == b"served"
    messages = [record.message for record in caplog.records if "too many client connections" in record.message]
    assert len(messages) == 1


async def refused(proxy: RunningProxy) -> bool:
    async with proxy.connect() as client:
        with suppress(ConnectionError):
            await client.request()
        return await client.rest() == b""


async def test_a_full_traffic_port_does_not_keep_a_scrape_out(start: Start) -> None:
    proxy = start(max_client_connections=1, metrics_addr="127.0.0.1:0")
    async with proxy.connect() as client:
        await client.request("GET", "/ready")
        await client.answer()
        for _ in range(2):
            assert (await proxy.request("GET", "/ready", port=proxy.metrics_port)).status == 200
        assert await refused(proxy)


def test_what_the_kernel_is_asked() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"abc")
        assert (kernel.unread(near), kernel.has_left(near)) == (3, False)
        near.recv(3)
        assert kernel.unread(near) == 0
        far.close()
        assert kernel.has_left(near)
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.setblocking(False)
            sent = 0
            with suppress(BlockingIOError):
                while True:
                    sent += accepted.send(b"x" * LITTLE)
            assert 0 < kernel.unsent(accepted) < sent + 1
            while kernel.unsent(accepted):
                client.recv(LITTLE)
