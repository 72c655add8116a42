"""What is read as HTTP: clients' requests by the protocol of the server, and the upstream's answers."""

import asyncio
import logging
import re
import socket
from dataclasses import dataclass
from typing import Any, cast

from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.downstream.protocol import HttpProtocol
from oauth_pool_proxy.downstream.server import _settings
from oauth_pool_proxy.downstream.state import State
from oauth_pool_proxy.errors import ClientGone, ProxyError, StreamBroken, UpstreamUnreachable
from oauth_pool_proxy.upstream.exchange import Exchange, NothingCameBack

from .targets import Target, must, splits

_STATUS_LINE = re.compile(rb"HTTP/1\.1 [1-5][0-9]{2} [ -~]+\r\n")


@dataclass(frozen=True)
class _Request:
    """As the application gets it."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class _Wire(asyncio.Transport):
    """The connection's other end: it takes everything, and remembers it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written, self.is_closed = b"", False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


class _Recorder:
    """An application that keeps what it is asked, and answers."""

    def __init__(self) -> None:
        self.requests: list[_Request] = []
        self.failure: Exception | None = None

    async def serve(self, client: Client) -> None:
        status, headers = 200, tuple(client.headers)
        try:
            if client.refusal:
                raise client.refusal
            await client.body_size(1 << 20, 60)
            body = await client.body()
            self.requests.append(_Request(client.method, client.target, headers, body))
        except ClientGone:
            return
        except ProxyError as error:
            status = error.status
        except Exception as error:
            self.failure = error
            raise
        client.respond(status, [(b"content-length", b"0")], b"")

    serve_tailnet = serve_monitoring = serve

    def refused(self, request_id: str, error: ProxyError) -> None: ...


def _served(pieces: list[bytes]) -> tuple[list[_Request], bytes]:
    """What an application was asked, and what the client got, of bytes that arrive in these pieces."""

    async def serve() -> tuple[list[_Request], bytes]:
        application, (ours, theirs) = _Recorder(), socket.socketpair()
        with ours, theirs:
            protocol = HttpProtocol(_configured(application), State(10, 60, application), {})
            wire = _Wire(ours)
            protocol.connection_made(wire)
            for piece in pieces:
                if wire.is_closed:
                    break
                protocol.data_received(piece)
                await _turns()
            await _turns()
            protocol.connection_lost(None)
            await _turns()
        if application.failure:
            raise application.failure
        return application.requests, wire.written

    return _loop().run_until_complete(serve())


async def _turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """One for all examples: a new one costs more than an example does."""
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


def _configured(application: _Recorder) -> Any:
    config = _settings(cast(Any, application))
    config.loaded_app = application
    config.encoded_headers = []
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return config


def requests(data: bytes) -> None:
    """However the bytes are split, the same requests are read, and what is read can be read in one way only."""
    seen = []
    for pieces in splits(data[:4000]):
        asked, answered = _served(pieces)
        seen.append(asked)
        must(not answered or _STATUS_LINE.match(answered) is not None, f"an answer that is no HTTP: {answered[:60]!r}")
        for request in asked:
            _is_clear(request)
    for one in seen:
        # More may be served of what comes bit by bit: answers are out before the end of the connection.
        length = min(len(one), len(seen[0]))
        must(one[:length] == seen[0][:length], f"read differently: {one} and {seen[0]}")


def _is_clear(request: _Request) -> None:
    names = [name for name, _ in request.headers]
    must(names.count(b"host") <= 1, "two hosts")
    must(not (b"transfer-encoding" in names and b"content-length" in names), "two ways to find the end of the body")
    must(
        names.count(b"content-length") <= 1 or len({v for n, v in request.headers if n == b"content-length"}) == 1,
        "two lengths",
    )
    must(request.method not in ("TRACE", "CONNECT"), f"{request.method} is served")
    must(request.target.startswith((b"/", b"*")), f"a target that is no path: {request.target!r}")
    lengths = [int(value) for name, value in request.headers if name == b"content-length"]
    must(not lengths or lengths[0] == len(request.body), "a body that is not as long as it says")


class _Line:
    """The connection that an answer comes on."""

    def __init__(self) -> None:
        self.is_kept: bool | None = None
        self.is_aborted = False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None:
        self.is_aborted = True

    def released(self, *, can_be_kept: bool) -> None:
        self.is_kept = can_be_kept


def _answered(pieces: list[bytes], *, is_head: bool) -> tuple[object, ...]:
    async def answer() -> tuple[object, ...]:
        line = _Line()
        exchange = Exchange(line, lambda: 0.0, is_head=is_head)
        exchange.sent()
        for piece in pieces:
            if not line.is_aborted:
                exchange.received(piece)
        if not line.is_aborted:
            exchange.ended(None)
        body, end = b"", "whole"
        try:
            await exchange.head()
            while part := await exchange.read():
                body += part
        except (StreamBroken, UpstreamUnreachable, NothingCameBack) as error:
            end = type(error).__name__
        status, headers = exchange.status, tuple(exchange.headers)
        exchange.release()
        return status, headers, body, end, line.is_kept

    return _loop().run_until_complete(answer())


def answers(data: bytes) -> None:
    """However an answer is split, it is the same answer; a broken one never looks whole."""
    for is_head in (False, True):
        seen = [_answered(pieces, is_head=is_head) for pieces in splits(data)]
        for one in seen:
            must(one[:4] == seen[0][:4], f"read differently: {one} and {seen[0]}")
        status, headers, body, end, _ = seen[0]
        assert isinstance(headers, tuple) and isinstance(body, bytes)
        must(status == 0 or 200 <= int(str(status)) <= 599, f"status {status}")
        lengths = [int(value) for name, value in headers if name == b"content-length" and value.isdigit()]
        has_body = not is_head and status not in (204, 304)
        must(end != "whole" or not has_body or not lengths or lengths[0] == len(body), "a cut answer looks whole")


POST = b"POST /v1/messages HTTP/1.1\r\nhost: a\r\n"
HTTP_TARGETS = (
    Target(
        "requests",
        "a request is read in one way only, however it arrives",
        requests,
        (
            POST + b"content-length: 5\r\n\r\nhello",
            POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
            POST
            + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET http://a/x HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n",
        ),
    ),
    Target(
        "upstream answers",
        "an answer is the same however it arrives, and a cut one never looks whole",
        answers,
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        ),
    ),
)
