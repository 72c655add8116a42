"""An upstream that the test plays itself, byte by byte, on a real socket.

    async with upstream_server() as upstream:
        connection = await upstream.accept()
        request = await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")

`upstream.answer_all(...)` is for tests in which the upstream's answers are not the point. Whatever does not come within
`DEADLINE` fails the test.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

DEADLINE = 20.0


@dataclass
class RawRequest:
    """A request as it was on the wire."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    head: bytes = field(repr=False)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]


class UpstreamConnection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> RawRequest:
        """The next request, with its body if it says how long that is."""
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            line, *rest = head[:-4].split(b"\r\n")
            headers = [(name.lower(), value) for name, _, value in (text.partition(b": ") for text in rest)]
            length = int(next((value for name, value in headers if name == b"content-length"), b"0"))
            return RawRequest(line, headers, await self.reader.readexactly(length), head)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE):
            await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def wait_closed(self) -> None:
        """Returns when the other side has closed or reset the connection; what it still sends is thrown away."""
        async with asyncio.timeout(DEADLINE):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


class UpstreamServer:
    def __init__(self) -> None:
        self.port = 0
        self.connections: list[UpstreamConnection] = []
        self.requests: list[RawRequest] = []
        self._arrived: asyncio.Queue[UpstreamConnection] = asyncio.Queue()
        self._answer: Callable[[RawRequest], bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def accept(self) -> UpstreamConnection:
        async with asyncio.timeout(DEADLINE):
            return await self._arrived.get()

    def answer_all(self, answer: Callable[[RawRequest], bytes] | bytes) -> None:
        """From now on answer every request on every new connection, and keep them in `requests`."""
        self._answer = answer if callable(answer) else lambda _: answer

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = UpstreamConnection(reader, writer)
        self.connections.append(connection)
        if self._answer is None:
            self._arrived.put_nowait(connection)
            return
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            while True:
                request = await connection.request()
                self.requests.append(request)
                await connection.send(self._answer(request))


@asynccontextmanager
async def upstream_server(
    tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[UpstreamServer]:
    upstream = UpstreamServer()
    server = await asyncio.start_server(upstream.connected, host, port, ssl=tls, limit=1 << 20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for connection in upstream.connections:
            connection.abort()


def json_answer(body: bytes = b"{}", status: int = 200, *headers: tuple[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
