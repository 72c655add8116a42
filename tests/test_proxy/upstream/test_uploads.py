"""Long bodies on their way up: what they cost in memory and in turns of the event loop, and how long they may take."""

import asyncio
import sys
from pathlib import Path

import pytest

from oauth_pool_proxy.errors import UpstreamTimeout
from oauth_pool_proxy.upstream.connection import Connection
from oauth_pool_proxy.upstream.tls import TlsConnection
from tests.support.proxy_server import Clock, until
from tests.support.upstream_server import DEADLINE, UpstreamConnection, UpstreamServer, json_answer, upstream_server
from tests.test_proxy.downstream.test_back_pressure import LITTLE, MIB, give_room
from tests.test_proxy.upstream.test_upstream import ask, client_of, read_all
from tests.test_proxy.upstream.test_upstream_tls import certificate, server_context, tls_client

MORE_THAN_FITS = bytes(48 * MIB)
"""Into the sockets of both sides, and into the reader."""
A_PART = 16 * MIB
"""More than fits as well: when so much has been read, something was sent."""


async def uploading(upstream: UpstreamServer) -> UpstreamConnection:
    """The upstream's side of an upload, with the head read."""
    connection = await upstream.accept()
    give_room(connection, LITTLE)
    async with asyncio.timeout(DEADLINE):
        await connection.reader.readuntil(b"\r\n\r\n")
    return connection


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_between_two_slices_the_event_loop_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_tls: bool
) -> None:
    kind, most = (TlsConnection, 64 * 1024) if is_tls else (Connection, MIB)
    turn = 0
    slices: list[tuple[int, int]] = []
    write = kind._write

    def recorded(self: Connection, parts: list[bytes | memoryview]) -> None:
        slices.append((turn, len(parts[-1])))
        write(self, parts)  # type: ignore[arg-type]  # it is one of its own

    async def take_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(kind, "_write", recorded)
    pair = certificate(tmp_path, "127.0.0.1")
    async with upstream_server(server_context(*pair) if is_tls else None) as server:
        server.answer_all(lambda request: json_answer(b"%d" % len(request.body)))
        others = asyncio.create_task(take_turns())
        body = bytes(10 * MIB + 1)
        if is_tls:
            with tls_client(server, pair[0]) as client:
                assert await read_all(await ask(client, b"POST", body)) == b"%d" % len(body)
        else:
            async with client_of(server) as client:
                assert await read_all(await ask(client, b"POST", body)) == b"%d" % len(body)
        others.cancel()
    assert max(size for _, size in slices) <= most
    assert sum(size for _, size in slices) == len(body)
    turns = [turn for turn, _ in slices]
    assert len(set(turns)) == len(turns)


UPLOADS = """
import asyncio, sys
from pathlib import Path
import uvloop
from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.upstream.upstream import Upstream

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main(port: int, ca_file: Path, count: int, size: int) -> None:
    client = Upstream(UpstreamUrl(True, "127.0.0.1", port, b""), timeout=60, ca_file=ca_file)

    async def ask(body: bytes) -> None:
        answer = await client.send(b"POST", b"/", [], body)
        while not answer.is_at_end:
            await answer.read()
        answer.release()

    body = bytes(range(256)) * (size // 256)
    await asyncio.gather(*[ask(b"x") for _ in range(count)])
    before = peak = resident()
    uploads = asyncio.gather(*[ask(body) for _ in range(count)])
    while not uploads.done():
        peak = max(peak, resident())
        await asyncio.sleep(0.005)
    await uploads
    assert client.idle_connections == client.open_connections == count
    print(peak - before, resident() - before)

uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""


async def uploads(server: UpstreamServer, ca_file: Path, count: int, size: int) -> tuple[int, int]:
    """What so many at once cost a process in memory, beside the one body that they share: at most, and afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UPLOADS, *map(str, (server.port, ca_file, count, size)), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(3 * DEADLINE):
        output, _ = await process.communicate()
    assert process.returncode == 0
    peak, afterwards = output.split()
    return int(peak), int(afterwards)


async def read_slowly(connection: UpstreamConnection, size: int) -> None:
    """A short request, and then a long one, of which nothing is read for a while."""
    await connection.request()
    await connection.send(json_answer())
    async with asyncio.timeout(2 * DEADLINE):
        await connection.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        await connection.reader.readexactly(size)
    await connection.send(json_answer())


async def test_uploads_over_tls_cost_no_memory_beside_their_bodies(tmp_path: Path) -> None:
    """Neither while they wait for an upstream that reads slowly, nor afterwards. Encrypted at once it would be 80 MiB."""
    pair = certificate(tmp_path, "127.0.0.1")
    async with upstream_server(server_context(*pair)) as server:

        async def serve() -> None:
            connections = [await server.accept() for _ in range(10)]
            await asyncio.gather(*[read_slowly(connection, 8 * MIB) for connection in connections])

        serving = asyncio.create_task(serve())
        peak, afterwards = await uploads(server, pair[0], 10, 8 * MIB)
        await serving
    assert peak < 20 * MIB
    assert afterwards < 10 * MIB


async def test_a_kept_tls_connection_remembers_nothing_of_what_passed(tmp_path: Path) -> None:
    """OpenSSL's buffers stay as long as they once were: were everything written to them at once, 40 MiB would stay here."""
    pair = certificate(tmp_path, "127.0.0.1")
    count, size = 100, MIB // 2
    async with upstream_server(server_context(*pair)) as server:
        server.answer_all(lambda request: json_answer(request.body))
        _, afterwards = await uploads(server, pair[0], count, size)
    assert afterwards < 24 * MIB  # some 5, and on a busy machine, where more wait at once, 12


async def test_the_time_for_the_head_counts_from_the_end_of_the_upload(upstream: UpstreamServer, clock: Clock) -> None:
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client, b"POST", MORE_THAN_FITS))
        connection = await uploading(upstream)
        for _ in range(len(MORE_THAN_FITS) // A_PART):  # slow, but it moves
            clock.advance(50)
            async with asyncio.timeout(DEADLINE):
                await connection.reader.readexactly(A_PART)
            for _ in range(5):
                await asyncio.sleep(0)  # until its end is noticed
            client.look()
        clock.advance(59)
        client.look()
        await asyncio.sleep(0)
        assert not task.done()
        clock.advance(2)
        client.look()
        with pytest.raises(UpstreamTimeout, match="no answer within 60 s") as caught:
            await task
        assert caught.value.was_sent


async def test_an_upload_that_moves_no_more_is_a_timeout(upstream: UpstreamServer, clock: Clock) -> None:
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client, b"POST", MORE_THAN_FITS))
        await uploading(upstream)
        async with asyncio.timeout(DEADLINE):
            while not task.done():  # at first there is room on the way
                clock.advance(61)
                client.look()
                await asyncio.sleep(0.005)
        with pytest.raises(UpstreamTimeout, match="took no byte") as caught:
            await task
        assert caught.value.was_sent
        await until(lambda: client.open_connections == 0, "the connection to be gone")


async def test_an_answer_may_come_before_the_end_of_the_upload_and_last_longer(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task = asyncio.create_task(ask(client, b"POST", MORE_THAN_FITS))
        connection = await uploading(upstream)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nearly")
        answer = await task
        assert await answer.read() == b"early"
        async with asyncio.timeout(DEADLINE):
            await connection.reader.readexactly(len(MORE_THAN_FITS))
        await connection.send(b"late")
        assert await read_all(answer) == b"late"
        assert client.idle_connections == 1


async def test_an_answer_that_is_released_before_the_end_of_the_upload_ends_the_connection(
    upstream: UpstreamServer,
) -> None:
    async with client_of(upstream) as client:
        task = asyncio.create_task(ask(client, b"POST", MORE_THAN_FITS))
        connection = await uploading(upstream)
        await connection.send(json_answer(b"no", 413))
        assert await read_all(await task) == b"no"
        assert client.idle_connections == 0
        await connection.wait_closed()


async def test_a_slow_upload_keeps_an_early_answer_alive(upstream: UpstreamServer, clock: Clock) -> None:
    """An upstream that still takes the request is not silent."""
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client, b"POST", MORE_THAN_FITS))
        connection = await uploading(upstream)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n")
        reading = asyncio.create_task((await task).read())
        for _ in range(len(MORE_THAN_FITS) // A_PART):
            async with asyncio.timeout(DEADLINE):
                await connection.reader.readexactly(A_PART)
            clock.advance(250)
            client.look()
        await connection.send(b"x")
        assert await reading == b"x"
        (await task).release()
