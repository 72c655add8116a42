"""The upstream client against a real socket, with time passed by hand."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.answer import HIGH_WATER
from oauth_pool_proxy.upstream.connection import IDLE_SECONDS
from oauth_pool_proxy.upstream.exchange import MOST_HEAD_BYTES
from oauth_pool_proxy.upstream.upstream import Answer, Upstream
from tests.support.proxy_server import Clock, until
from tests.support.upstream_server import UpstreamConnection, UpstreamServer, json_answer


@asynccontextmanager
async def client_of(
    server: UpstreamServer, clock: Clock | None = None, *, base_path: bytes = b"", most_idle: int = 256
) -> AsyncIterator[Upstream]:
    url = UpstreamUrl(False, "127.0.0.1", server.port, base_path)
    client = Upstream(url, timeout=60, clock=clock, most_idle=most_idle)
    try:
        yield client
    finally:
        client.close()


async def ask(client: Upstream, method: bytes = b"GET", body: bytes = b"") -> Answer:
    return await client.send(method, b"/", [(b"x-a", b"b")], body)


async def read_all(answer: Answer) -> bytes:
    parts = []
    try:
        while part := await answer.read():
            parts.append(part)
    finally:
        answer.release()
    return b"".join(parts)


async def test_connections_are_kept_and_the_last_one_is_used_first(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream) as client:
        answers = [await ask(client) for _ in range(3)]
        for answer in answers:
            await read_all(answer)
        assert (client.idle_connections, client.open_connections) == (3, 3)
        for _ in range(5):
            await read_all(await ask(client))
        assert client.open_connections == 3
    counts = [len(upstream.requests)]
    assert counts == [8]


async def test_a_connection_that_was_closed_while_idle_is_not_used(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        upstream.answer_all(json_answer())
        await read_all(await ask(client))
        upstream.connections[0].close()
        await until(lambda: client.open_connections == 0, "the close to be noticed")
        assert client.idle_connections == 0
        await read_all(await ask(client))
    assert len(upstream.requests) == 2


async def test_only_so_many_connections_are_kept(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream, most_idle=2) as client:
        for answer in await asyncio.gather(*[ask(client) for _ in range(4)]):
            await read_all(answer)
        assert client.idle_connections == 2
        await until(lambda: client.open_connections == 2, "the others to be ended")


async def kept(client: Upstream, upstream: UpstreamServer) -> UpstreamConnection:
    """The upstream's side of a connection that waits for its second request."""
    task, connection = await begun(client, upstream)
    await connection.send(json_answer())
    await read_all(await task)
    assert client.idle_connections == 1
    return connection


async def test_a_request_that_crossed_a_kept_connection_s_end_is_sent_again_once(
    upstream: UpstreamServer, clock: Clock
) -> None:
    async with client_of(upstream, clock) as client:
        first = await kept(client, upstream)
        task = asyncio.create_task(ask(client, b"POST", b"body"))
        await first.request()
        clock.advance(0.9)
        first.close()  # without one byte of an answer
        second = await upstream.accept()
        assert (await second.request()).body == b"body"
        second.close()  # a new connection: this may be the upstream's answer to the request
        with pytest.raises(UpstreamUnreachable) as caught:
            await task
        assert caught.value.was_sent
        assert client.requests == {"new": 2, "reused": 1, "resent": 1}


async def test_a_kept_connection_that_ends_later_may_have_had_the_request_done(
    upstream: UpstreamServer, clock: Clock
) -> None:
    """It is not sent again: it would be paid twice."""
    async with client_of(upstream, clock) as client:
        first = await kept(client, upstream)
        task = asyncio.create_task(ask(client, b"POST", b"body"))
        await first.request()
        clock.advance(1.1)
        first.close()
        with pytest.raises(UpstreamUnreachable) as caught:
            await task
        assert caught.value.was_sent
        assert (len(upstream.connections), client.requests["resent"]) == (1, 0)


async def test_a_request_that_a_kept_connection_never_had_whole_is_sent_again(
    upstream: UpstreamServer, clock: Clock
) -> None:
    """However long it took: nobody can act on a part of it."""
    body = b"x" * 48 * 1024 * 1024  # more than fits on the way
    async with client_of(upstream, clock) as client:
        first = await kept(client, upstream)
        task = asyncio.create_task(ask(client, b"POST", body))
        await first.reader.readuntil(b"\r\n\r\n")
        clock.advance(30)
        first.abort()
        second = await upstream.accept()
        assert len((await second.request()).body) == len(body)
        await second.send(json_answer(b"done"))
        assert await read_all(await task) == b"done"


async def test_what_began_on_a_kept_connection_is_not_sent_again(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        connection = await kept(client, upstream)
        task = asyncio.create_task(ask(client))
        await connection.request()
        await connection.send(b"HTTP/1.1 200")
        connection.close()
        with pytest.raises(UpstreamUnreachable):
            await task
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("method", "answer", "is_kept"),
    [
        (b"GET", json_answer(b"abc"), True),
        (b"GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
        (b"GET", b"HTTP/1.1 204 No\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", False),
        (b"GET", json_answer(b"", 200, ("connection", "Close")), False),
        (b"GET", b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
        (b"GET", json_answer() + json_answer(), False),
        (b"GET", json_answer() + b"HTTP/1.1 204 No\r\n\r\n", False),
        (b"GET", json_answer() + b"garbage", False),
    ],
    ids=[
        "length",
        "chunked",
        "204",
        "HEAD",
        "HEAD bare",
        "HEAD body",
        "close",
        "1.0",
        "two answers",
        "a second one without a body",
        "garbage after",
    ],
)
async def test_a_connection_is_kept_only_if_nothing_can_be_left_on_it(
    upstream: UpstreamServer, method: bytes, answer: bytes, is_kept: bool
) -> None:
    upstream.answer_all(answer)
    async with client_of(upstream) as client:
        await read_all(await ask(client, method))
        await until(lambda: client.idle_connections == client.open_connections == int(is_kept), "the connection's end")


async def test_an_answer_that_is_not_read_to_its_end_takes_its_connection_along(upstream: UpstreamServer) -> None:
    upstream.answer_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart")
    async with client_of(upstream) as client:
        answer = await ask(client)
        assert await answer.read() == b"part"
        answer.release()
        answer.release()  # does nothing
        await until(lambda: client.open_connections == 0, "the connection to be aborted")


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream) as client:
        await read_all(await ask(client))
        await upstream.connections[0].send(json_answer())
        await until(lambda: client.open_connections == 0, "the connection to be aborted")


async def test_an_idle_connection_is_not_kept_for_ever(upstream: UpstreamServer, clock: Clock) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream, clock) as client:
        await read_all(await ask(client))
        clock.advance(IDLE_SECONDS + 1)
        client.look()
        await until(lambda: client.open_connections == 0, "the connection to be dropped")


async def test_an_answer_whose_head_does_not_come_in_time_is_a_timeout(upstream: UpstreamServer, clock: Clock) -> None:
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n")  # neither is a head
        clock.advance(61)
        client.look()
        with pytest.raises(UpstreamTimeout):
            await task
        await connection.wait_closed()


async def test_silence_in_mid_answer_is_a_break_and_bytes_start_the_time_anew(
    upstream: UpstreamServer, clock: Clock
) -> None:
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
        answer = await task
        for part in (b"a", b"b"):
            reading = asyncio.create_task(answer.read())
            await asyncio.sleep(0)
            clock.advance(250)  # far beyond what a head may take
            client.look()
            await connection.send(part)
            assert await reading == part
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        clock.advance(299)
        client.look()
        await asyncio.sleep(0)
        assert not reading.done()
        clock.advance(2)
        client.look()
        with pytest.raises(StreamBroken) as caught:
            await reading
        assert caught.value.error_type == "timeout"
        answer.release()


async def test_silence_that_nobody_waits_through_does_not_count(upstream: UpstreamServer, clock: Clock) -> None:
    """A client that reads slowly is not the upstream's silence, and while we do not read it cannot send."""
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        size = 40 * HIGH_WATER
        sending = asyncio.create_task(
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        )
        answer = await task
        clock.advance(1000)
        client.look()
        assert not sending.done()
        assert len(await read_all(answer)) == size
        await sending


async def test_what_waits_unread_is_bounded(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        sending = asyncio.create_task(connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 40 * HIGH_WATER))
        answer = await task
        await asyncio.sleep(0.05)
        assert HIGH_WATER < len(await answer.read()) <= 2 * HIGH_WATER
        answer.release()
        sending.cancel()


async def test_bytes_that_came_before_a_failure_are_read_first(upstream: UpstreamServer) -> None:
    upstream.answer_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n")
    async with client_of(upstream) as client:
        answer = await ask(client)
        assert await answer.read() == b"a"
        with pytest.raises(StreamBroken):
            await answer.read()
        answer.release()


async def test_cancelling_leaves_no_connection_behind(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        for pause in (0.0, 0.0, 0.001, 0.002, 0.005, 0.01):
            tasks = [asyncio.create_task(ask(client)) for _ in range(10)]
            await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: client.open_connections == 0, "all connections to be gone")


async def test_nobody_listening_is_a_failure_that_was_not_sent() -> None:
    client = Upstream(UpstreamUrl(False, "127.0.0.1", 1, b""), timeout=60)
    with pytest.raises(UpstreamUnreachable) as caught:
        await ask(client)
    assert not caught.value.was_sent


async def begun(
    client: Upstream, upstream: UpstreamServer, method: bytes = b"GET"
) -> tuple[asyncio.Task[Answer], UpstreamConnection]:
    """A request, and the upstream's side of it."""
    task = asyncio.create_task(ask(client, method))
    connection = await upstream.accept()
    await connection.request()
    return task, connection


@pytest.mark.parametrize(
    "wire",
    [
        b"5;name=value\r\nabcde\r\n0\r\n\r\n",
        b"1\r\na\r\n4\r\nbcde\r\n0\r\n\r\n",
        b"5\r\nabcde\r\n0\r\nx-trailer: 1\r\nx-more: 2\r\n\r\n",
        b"0005\r\nabcde\r\n000\r\n\r\n",
    ],
    ids=["extension", "several", "trailers", "zeros"],
)
async def test_chunks_are_read_to_their_end_and_the_connection_kept(upstream: UpstreamServer, wire: bytes) -> None:
    upstream.answer_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + wire)
    async with client_of(upstream) as client:
        for _ in range(2):
            answer = await ask(client)
            assert await read_all(answer) == b"abcde"
            assert [name for name, _ in answer.headers] == [b"transfer-encoding"]
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 OK\r\nx: ",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1;x=",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: ",
    ],
    ids=["reason", "header", "chunk extension", "trailer"],
)
async def test_what_has_no_end_is_not_collected(upstream: UpstreamServer, beginning: bytes) -> None:
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        await connection.send(beginning)
        reading = asyncio.create_task(read_all(await task)) if b"chunked" in beginning else task
        with pytest.raises(ConnectionError):
            for _ in range(100):
                await connection.send(b"x" * MOST_HEAD_BYTES)
        with pytest.raises((UpstreamUnreachable, StreamBroken), match="not valid HTTP"):
            await reading
        assert client.open_connections == 0


async def test_interim_answers_without_end_are_not_waited_through(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                await connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100)
        with pytest.raises(UpstreamUnreachable):
            await task


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\nx: bare line feed\n\nabc",
        b"HTTP/1.1 200 OK\r\nx : space before the colon\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: \x7f\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/3.7 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
    ids=["LF", "space", "CR", "folding", "DEL", "negative", "list", "chunked twice", "version", "TLS alert"],
)
async def test_bytes_that_others_might_read_differently_are_refused(upstream: UpstreamServer, wire: bytes) -> None:
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        await connection.send(wire)
        with pytest.raises(UpstreamUnreachable, match="not valid HTTP"):
            await task
        await connection.wait_closed()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (json_answer(b"whole"), b"whole"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (json_answer(b"whole")[:-1], StreamBroken),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", StreamBroken),
        (b"HTTP/1.1 200 OK\r\nx", UpstreamUnreachable),
        (b"", UpstreamUnreachable),
    ],
    ids=["whole", "until close", "a byte missing", "the last line missing", "head", "nothing"],
)
async def test_an_upstream_that_says_no_more_but_still_listens(
    upstream: UpstreamServer, answer: bytes, outcome: bytes | type[Exception]
) -> None:
    """Half-closed: nothing else will come, and no other request can be answered there."""
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        await connection.send(answer)
        connection.writer.write_eof()
        if isinstance(outcome, bytes):
            assert await read_all(await task) == outcome
        else:
            with pytest.raises(outcome):
                await read_all(await task)
        await connection.wait_closed()
        await until(lambda: client.open_connections == 0, "the connection to be gone")


async def test_a_body_until_the_end_that_is_reset_is_broken(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        answer = await task
        assert await answer.read() == b"half"
        linger = struct.pack("ii", 1, 0)
        connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.abort()
        with pytest.raises(StreamBroken):
            await answer.read()
        answer.release()


async def test_after_head_the_next_answer_on_the_connection_is_read_from_its_beginning(
    upstream: UpstreamServer,
) -> None:
    """The parser still waits for the body that a HEAD does not get."""
    upstream.answer_all(
        lambda request: (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + (b"" if request.line.startswith(b"HEAD") else b"abcde")
        )
    )
    async with client_of(upstream) as client:
        for method, body in [(b"HEAD", b""), (b"GET", b"abcde")] * 3:
            assert await read_all(await ask(client, method)) == body
    assert len(upstream.connections) == 1


async def test_how_requests_took_their_connection_is_counted(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream) as client:
        for _ in range(2):
            await read_all(await ask(client))
        assert client.requests == {"new": 1, "reused": 1, "resent": 0}


@pytest.mark.parametrize(
    ("method", "target", "line"),
    [
        (b"OPTIONS", b"*", b"OPTIONS * HTTP/1.1"),
        (b"OPTIONS", b"/*", b"OPTIONS /base/* HTTP/1.1"),
        (b"GET", b"/a?b", b"GET /base/a?b HTTP/1.1"),
    ],
)
async def test_a_base_path_goes_before_paths_and_not_before_the_whole_server(
    upstream: UpstreamServer, method: bytes, target: bytes, line: bytes
) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream, base_path=b"/base") as client:
        await read_all(await client.send(method, target, [], b""))
    assert upstream.requests[0].line == line
