"""What one side does not take, the other is not asked for: nothing piles up in between.

The sockets of the test hold little, so that what the other side could send shows what the proxy and its own sockets hold.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.proxy_server import RawClient, RunningProxy, until
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

MIB = 1024 * 1024
LITTLE, MUCH = 64 * 1024, 4 * MIB
PIECE = b"x" * 65_536
CHUNK = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)


@asynccontextmanager
async def slow_client(proxy: RunningProxy) -> AsyncIterator[RawClient]:
    """One that has no room for what it does not read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", proxy.port))
    client = RawClient(*await asyncio.open_connection(sock=raw, limit=LITTLE))
    try:
        yield client
    finally:
        client.abort()


def give_room(side: RawClient | UpstreamConnection, size: int) -> None:
    raw = side.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


async def send_until_stuck(connection: UpstreamConnection, piece: bytes, most: int) -> int:
    """How many pieces were taken before no more were; at most that many."""
    for number in range(most):
        connection.writer.write(piece)
        try:
            async with asyncio.timeout(0.2):
                await connection.writer.drain()
        except TimeoutError:
            return number + 1
    raise AssertionError(f"{most} pieces were taken, and nobody had read them")


MORE_THAN_FITS = 48 * MIB
"""Into all sockets on the way: Linux lets a receive buffer grow to 32 MiB."""


@pytest.mark.parametrize("framing", ["chunked", "length", "until close"])
async def test_a_client_that_does_not_read_stops_the_upstream_and_loses_nothing(
    upstream: UpstreamServer, start: Start, framing: str
) -> None:
    head = {
        "chunked": SSE_HEAD,
        "length": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % MORE_THAN_FITS,
        "until close": b"HTTP/1.1 200 OK\r\n\r\n",
    }[framing]
    piece, most = CHUNK if framing == "chunked" else PIECE, MORE_THAN_FITS // len(PIECE)
    async with slow_client(start()) as client:
        await client.request()
        connection = await upstream.accept()
        give_room(connection, LITTLE)
        await connection.request()
        await connection.send(head)
        await client.head()
        sent = await send_until_stuck(connection, piece, most)
        give_room(client, MUCH)
        give_room(connection, MUCH)
        count = most if framing == "length" else sent
        sending = asyncio.create_task(send_rest(connection, piece, count - sent, framing))
        received = 0
        while received < count * len(PIECE):
            part = await client.reader.read(MIB) if framing == "length" else await client.chunk()
            assert part and part.strip(b"x") == b""
            received += len(part)
        if framing != "length":
            assert await client.chunk() == b""
        await sending


async def send_rest(connection: UpstreamConnection, piece: bytes, count: int, framing: str) -> None:
    for _ in range(count):
        await connection.send(piece)
    if framing == "chunked":
        await connection.send(b"0\r\n\r\n")
    elif framing == "until close":
        connection.close()


async def test_a_hundred_slow_readers_cost_the_others_nothing(upstream: UpstreamServer, start: Start) -> None:
    proxy = start()
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(100):
            client = await stack.enter_async_context(slow_client(proxy))
            await client.request()
            connection = await upstream.accept()
            give_room(connection, LITTLE)
            await connection.request()
            await connection.send(SSE_HEAD + CHUNK * 6)
            clients.append((client, connection))
        for client, _ in clients:
            await client.head()
        # None of them reads on; somebody else comes and is served.
        upstream.answer_all(json_answer(b"at once"))
        for _ in range(20):
            assert (await proxy.request()).body == b"at once"
        assert proxy.app.service.in_flight == 100
        for client, connection in clients:
            await connection.send(b"0\r\n\r\n")
            body = b""
            while chunk := await client.chunk():
                body += chunk
            assert body == PIECE * 6
        await until(lambda: proxy.app.service.in_flight == 0, "all of them to end")


async def test_an_upstream_that_does_not_read_costs_one_body_and_leaves_with_the_client(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.request("POST", "/", "", b"x" * 8 * MIB)
        connection = await upstream.accept()
        await connection.reader.readuntil(b"\r\n\r\n")
        client.abort()
        await connection.wait_closed()
    await until(lambda: proxy.app.service.in_flight == 0, "the request to end")
    assert proxy.app.upstream.open_connections == 0
