"""More than one request on a connection of a client: it stays usable, answers come in order, and none gets into another."""

import asyncio
import socket

import pytest

from oauth_pool_proxy.downstream import kernel
from oauth_pool_proxy.downstream.protocol import MOST_HEAD_BYTES, MOST_PIPELINED
from tests.support.proxy_server import RawClient, until
from tests.support.upstream_server import DEADLINE, SSE_HEAD, RawRequest, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start


def echo(request: RawRequest) -> bytes:
    return json_answer(request.target + b" " + request.body)


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("GET", json_answer(b"abc"), 200),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 200),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nto the end", 200),
        ("GET", b"HTTP/1.1 204 No\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 204 No\r\ncontent-length: 3\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not\r\ncontent-length: 3\r\n\r\n", 304),
        ("GET", json_answer(b"no", 500), 500),
        ("GET", b"garbage\r\n\r\n", 502),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", 200),
        ("HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", 200),
        ("HEAD", b"garbage\r\n\r\n", 502),
        ("POST", json_answer(b"abc", 413), 413),
    ],
    ids=[
        *("length", "empty", "chunked", "empty chunked", "until close", "204", "204 with length", "304", "500"),
        *("our own error", "HEAD length", "HEAD chunked", "HEAD bare", "HEAD and our own error", "413"),
    ],
)
async def test_after_every_kind_of_answer_the_connection_goes_on(
    upstream: UpstreamServer, start: Start, method: str, answer: bytes, status: int
) -> None:
    ends = answer.startswith(b"HTTP/1.0")

    def answers(request: RawRequest) -> bytes:
        if request.target != b"/first":
            return echo(request)
        if ends:
            upstream.connections[-1].writer.write(answer)
            upstream.connections[-1].close()
            return b""
        return answer

    upstream.answer_all(answers)
    async with start().connect() as client:
        for _ in range(2):
            await client.request(method, "/first", "", b"body" if method == "POST" else b"")
            first = await client.answer(is_head=method == "HEAD")
            assert (first.status, first.is_complete, first.values(b"connection")) == (status, True, [])
            await client.request("POST", "/second", "", b"body")
            assert (await client.answer()).body == b"/second body"


@pytest.mark.parametrize("target", ["/health", "/ready", "/metrics"])
async def test_after_an_own_path_the_connection_goes_on(upstream: UpstreamServer, start: Start, target: str) -> None:
    upstream.answer_all(echo)
    async with start().connect() as client:
        for method, body in [("GET", b""), ("HEAD", b""), ("POST", b"x" * 200_000)]:
            await client.request(method, target, "", body)
            assert (await client.answer(is_head=method == "HEAD")).status == (405 if body else 200)
            await client.request("GET", "/next")
            assert (await client.answer()).body == b"/next "


async def test_the_rest_of_a_body_that_was_refused_is_not_taken_for_a_request(
    upstream: UpstreamServer, start: Start
) -> None:
    upstream.answer_all(echo)
    async with start(max_body_bytes=10).connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 60\r\n\r\n")
        assert (await client.answer()).status == 413
        await client.send(b"GET /in-the-body HTTP/1.1\r\nhost: a\r\n\r\n".ljust(60))
        await client.request("GET", "/after")
        assert (await client.answer()).body == b"/after "
    assert [request.target for request in upstream.requests] == [b"/after"]


@pytest.mark.parametrize("how", ["Connection: close", "HTTP/1.0"])
async def test_a_client_that_wants_the_connection_closed_gets_that(
    upstream: UpstreamServer, start: Start, how: str
) -> None:
    upstream.answer_all(json_answer(b"abc"))
    async with start().connect() as client:
        version, line = ("1.1", f"{how}\r\n") if how.startswith("C") else ("1.0", "")
        await client.send(f"GET / HTTP/{version}\r\nhost: a\r\n{line}\r\n".encode())
        answer = await client.answer()
        assert (answer.body, answer.values(b"connection")) == (b"abc", [b"close"])
        assert await client.rest() == b""


CHUNKED = SSE_HEAD + b"3\r\nabc\r\n"


async def test_a_client_of_http_1_0_gets_no_chunks(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(CHUNKED + b"3\r\ndef\r\n0\r\n\r\n")
    async with start().connect() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        head = await client.head()
        assert b"transfer-encoding" not in head and b"connection: close" in head
        assert await client.reader.read() == b"abcdef"  # and then the end of the connection, which is all that tells


async def test_a_client_of_http_1_0_sees_by_a_reset_that_its_answer_was_cut(
    upstream: UpstreamServer, start: Start
) -> None:
    async with start().connect() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        connection = await upstream.accept()
        await connection.request()
        await connection.send(CHUNKED)
        await client.read_until(b"abc")
        connection.abort()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_requests_sent_at_once_are_answered_in_order_one_after_the_other(
    upstream: UpstreamServer, start: Start
) -> None:
    async with start().connect() as client:
        await client.send(
            b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\n"
            b"POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"
            b"POST /3 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
            b"GET /health HTTP/1.1\r\nhost: a\r\n\r\nHEAD /5 HTTP/1.1\r\nhost: a\r\n\r\nGET /6 HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        connection = await upstream.accept()
        assert (await connection.request()).target == b"/1"
        await connection.send(json_answer(b"one"))
        assert (await client.answer()).body == b"one"
        second = await connection.request()
        assert (second.target, second.body) == (b"/2", b"abc")
        await connection.send(CHUNKED)
        await client.head()
        assert await client.chunk() == b"abc"
        await connection.send(b"0\r\n\r\n" + json_answer(b"not the answer of /3: it has not been asked"))
        assert await client.chunk() == b""
        connection = await upstream.accept()  # the other one said something that nobody had asked for
        third = await connection.request()
        assert (third.target, third.body) == (b"/3", b"def")
        await connection.send(json_answer(b"three"))
        assert (await client.answer()).body == b"three"
        assert b"healthy" in (await client.answer()).body
        assert (await connection.request()).line.startswith(b"HEAD /5")
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
        assert (await client.answer(is_head=True)).values(b"content-length") == [b"3"]
        assert (await connection.request()).target == b"/6"
        await connection.send(json_answer(b"six"))
        assert (await client.answer()).body == b"six"


async def test_a_broken_answer_ends_the_requests_after_it_too(upstream: UpstreamServer, start: Start) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.send(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        connection = await upstream.accept()
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await client.read_until(b"half")
        connection.abort()
        assert await client.rest() == b""
    await until(lambda: proxy.app.service.in_flight == 0, "both to end")
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("garbage", [b"\x00\r\n\r\n", b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n\x00\r\n\r\n"])
async def test_what_is_not_http_is_not_answered_in_the_middle_of_an_answer(
    upstream: UpstreamServer, start: Start, garbage: bytes
) -> None:
    async with start().connect() as client:
        await client.request("GET", "/1")
        connection = await upstream.accept()
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
        await client.read_until(b"half")
        await client.send(garbage)
        assert await client.rest() == b""


async def test_what_is_not_http_is_not_taken_for_the_answer_to_the_request_before(
    upstream: UpstreamServer, start: Start
) -> None:
    async with start().connect() as client:
        await client.request("GET", "/1")
        await (await upstream.accept()).request()
        await client.send(b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n\x00\r\n\r\n")
        assert await client.rest() == b""


async def test_requests_that_wait_for_the_one_before_are_bounded(upstream: UpstreamServer, start: Start) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.request("GET", "/1")
        await (await upstream.accept()).request()
        client.writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * (MOST_PIPELINED + 1))
        assert await client.rest() == b""
    await until(lambda: proxy.app.service.in_flight == 0, "the first one to end")


async def test_trailers_end_here(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(echo)
    async with start().connect() as client:
        for _ in range(2):
            await client.send(
                b"POST / HTTP/1.1\r\nhost: a\r\nx-head: 1\r\ntransfer-encoding: chunked\r\ntrailer: authorization\r\n\r\n"
                b"3\r\nabc\r\n0\r\nauthorization: Bearer trailer\r\nx-after: 1\r\n\r\n"
            )
            assert (await client.answer()).body == b"/ abc"
    for request in upstream.requests:
        assert {name for name, _ in request.headers} == {b"host", b"x-head", b"content-length"}


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x=",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: ",
    ],
    ids=["target", "header", "chunk extension", "trailer"],
)
async def test_what_has_no_end_is_not_collected(upstream: UpstreamServer, start: Start, beginning: bytes) -> None:
    async with start().connect() as client:
        await client.send(beginning)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(DEADLINE):
                while True:
                    await client.send(b"x" * MOST_HEAD_BYTES)
    assert upstream.connections == []


async def test_a_head_that_is_too_long_is_answered_and_a_long_one_is_not_too_long(
    upstream: UpstreamServer, start: Start
) -> None:
    upstream.answer_all(echo)
    proxy = start()
    for size, status in [(MOST_HEAD_BYTES - 1000, 200), (MOST_HEAD_BYTES, 400)]:
        async with proxy.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * size)
            if status == 200:
                await client.send(b"\r\n\r\n")
            answer = await client.answer()
        assert answer.status == status
    assert answer.json()["error"] == {
        "type": "invalid_request",
        "message": f"The head of the request is longer than {MOST_HEAD_BYTES} bytes",
    }


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_arrives_in_pieces_goes_upstream_in_one(
    upstream: UpstreamServer, start: Start, size: int, framing: str
) -> None:
    body = bytes(range(256)) * (1 if size == 1 else 20)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    if framing == "chunked":
        head = b"transfer-encoding: chunked\r\n\r\n"
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    else:
        head = b"content-length: %d\r\n\r\n" % len(body)
    upstream.answer_all(lambda request: json_answer(request.body))
    async with start().connect() as client:
        no_delay(client)
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + head)
        for piece in pieces:
            await client.send(piece)
        assert (await client.answer()).body == body
    assert upstream.requests[0].values(b"content-length") == [b"%d" % len(body)]


async def test_a_request_that_arrives_byte_by_byte_is_one(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(echo)
    async with start().connect() as client:
        no_delay(client)
        for byte in b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nhost: a\r\n\r\n":
            await client.send(bytes([byte]))
        assert (await client.answer()).body == b"/a abc"
        assert (await client.answer()).body == b"/b "


def no_delay(client: RawClient) -> None:
    client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


EXPECT = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"


async def test_a_client_that_asks_is_told_to_go_on(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(echo)
    async with start().connect() as client:
        for _ in range(2):
            await client.send(EXPECT)
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert (await client.answer()).body == b"/ abc"
    assert upstream.requests[0].values(b"expect") == []


async def test_a_client_that_does_not_wait_to_be_told_is_not_told(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(echo)
    async with start().connect() as client:
        for _ in range(2):
            await client.send(EXPECT + b"abc")
            answer = await client.answer()
            assert (answer.status, answer.values(b"connection")) == (200, [])


async def test_a_client_that_was_not_told_may_send_its_body_or_not_so_its_connection_ends(
    upstream: UpstreamServer, start: Start
) -> None:
    async with start(max_body_bytes=2).connect() as client:
        await client.send(EXPECT)
        answer = await client.answer()
        assert (answer.status, answer.values(b"connection")) == (413, [b"close"])
        assert await client.rest() == b""


async def test_a_client_in_line_is_told_to_go_on_when_there_is_room(upstream: UpstreamServer, start: Start) -> None:
    size = 200_000
    proxy = start(max_body_bytes=size, max_buffered_bytes=size)
    async with proxy.connect() as first, proxy.connect() as second:
        await first.request("POST", "/", "", b"x" * size)
        connection = await upstream.accept()
        await connection.request()
        await second.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % size)
        await until(lambda: proxy.waiting == 1, "the second one to wait")
        await connection.send(json_answer(b"first"))
        await first.answer()
        assert (await second.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await second.send(b"x" * size)
        assert len((await connection.request()).body) == size


BODY = b"data: \xc3\xa9\n\n" * 40
FRAMINGS = {
    "length": b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "chunked": b"transfer-encoding: chunked\r\n\r\n%s0\r\n\r\n"
    % b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:100], BODY[100:])),
    "until close": b"\r\n" + BODY,
}


@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_an_answer_arrives_whole_however_it_is_framed_and_cut_into_pieces(
    upstream: UpstreamServer, start: Start, framing: str, size: int, kind: str
) -> None:
    wire = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n".encode() + FRAMINGS[framing]
    async with start().connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        raw = connection.writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(wire), size):
            await connection.send(wire[at : at + size])
            await asyncio.sleep(0)
        if framing == "until close":
            connection.close()
        answer = await client.answer()
        assert (answer.body, answer.is_complete) == (BODY, True)
        is_chunked = framing != "length"
        assert answer.values(b"transfer-encoding") == ([b"chunked"] if is_chunked else [])


async def test_connections_without_a_request_stay_longer_than_clients_keep_them_and_not_for_ever(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start()
    async with proxy.connect() as silent, proxy.connect() as half, proxy.connect() as used, proxy.connect() as busy:
        await busy.request()
        connection = await upstream.accept()
        await connection.request()
        await half.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: ")
        await used.request("GET", "/health")
        assert (await used.answer()).status == 200
        await proxy.look(later=125)
        await half.send(b"y\r\n")
        await used.request("GET", "/health")
        assert (await used.answer()).status == 200
        await proxy.look(later=135)
        for client in (silent, half, used):
            assert await client.rest() == b""
        await connection.send(json_answer(b"not too late"))
        assert (await busy.answer()).body == b"not too late"
        await proxy.look(later=135)
        assert await busy.rest() == b""


async def test_a_connection_on_which_a_request_has_just_arrived_is_not_idle(
    upstream: UpstreamServer, start: Start
) -> None:
    """Its bytes are in the kernel and the loop has not got to them: closing would reset the connection, and lose a POST."""
    upstream.answer_all(json_answer(b"served"))
    proxy = start()
    async with proxy.connect() as client:
        await client.request("GET", "/health")
        await client.answer()
        (connection,) = proxy.connections
        connection.transport.pause_reading()  # as if the loop were busy; from another thread, but nothing else goes on
        await client.request("POST", "/v1/messages", "", b"{}")
        await until(lambda: kernel.unread(connection.socket), "the request to arrive")
        await proxy.look(later=135)
        connection.transport.resume_reading()
        await proxy.look()  # wakes the loop
        assert (await client.answer()).body == b"served"
