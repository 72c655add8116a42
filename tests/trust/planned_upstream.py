"""An upstream that does what the question in each request tells it to: answers well, breaks off at some byte, or waits.

A question is the last message's text, and a plan if it begins with one of the words below:

    cut KIND AT     a stream, of whose bytes no more than AT come; KIND is one of `Cut`
    wait            no answer, ever
    drip            a stream that goes on for ever, an event each tenth of a second
    big             2 MiB of JSON
"""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.e2e.gateway import MODEL
from tests.simulator.stream import encode, message_events
from tests.support.control_plane.certificates import write_certificates
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, json_answer

TEXT = "Ten words, some of them longer: ¿Qué tal? 你好 🙂 end."
BIG_BYTES = 2 << 20


class Cut(StrEnum):
    """How a stream ends before its time."""

    CLOSED = "closed"
    RESET = "reset"
    STALLED = "stalled"
    """Not at all: the connection stays, and nothing comes."""
    NO_STOP = "no-stop"
    """After a whole event but the last, with the connection closed."""


MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 9,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 10,
        "service_tier": "standard",
    },
}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


EVENTS = [encode(event) for event in message_events(MESSAGE)]
WIRE = SSE_HEAD + b"".join(map(_chunk, EVENTS)) + b"0\r\n\r\n"
"""The whole stream."""
WITHOUT_STOP = len(SSE_HEAD + b"".join(map(_chunk, EVENTS[:-1])))
_WHOLE = json_answer(json.dumps(MESSAGE).encode())
_BIG = json_answer(json.dumps({**MESSAGE, "content": [{"type": "text", "text": "x" * BIG_BYTES}]}).encode())
_DRIP = _chunk(EVENTS[3])


class PlannedUpstream:
    def __init__(self) -> None:
        self.open = 0
        """Connections."""
        self._port = 0
        self._scheme = "http"
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        connection = UpstreamConnection(reader, writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError, asyncio.CancelledError):
                while await self._answer(connection, json.loads((await connection.request()).body)):
                    pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            connection.abort()

    async def _answer(self, connection: UpstreamConnection, document: dict[str, Any]) -> bool:
        """False when the connection has ended."""
        word, *rest = str(document["messages"][-1]["content"]).split()
        if word == "cut":
            await self._cut(connection, Cut(rest[0]), int(rest[1]))
            return False
        if word == "wait":
            await _leaves(connection)
            return False
        if word == "drip":
            await self._drip(connection)
            return False
        is_streamed = document.get("stream", False)
        await connection.send(_BIG if word == "big" else WIRE if is_streamed else _WHOLE)
        return True

    async def _cut(self, connection: UpstreamConnection, kind: Cut, at: int) -> None:
        await connection.send(WIRE[:at])
        if kind is Cut.STALLED:
            await _leaves(connection)
        elif kind is Cut.RESET:
            found: socket.socket = connection.writer.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.abort()
        else:
            connection.close()
            with suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await connection.writer.wait_closed()

    async def _drip(self, connection: UpstreamConnection) -> None:
        await connection.send(SSE_HEAD + b"".join(map(_chunk, EVENTS[:3])))
        leaving = asyncio.create_task(_leaves(connection))
        try:
            while not leaving.done():
                await connection.send(_DRIP)
                await asyncio.wait([leaving], timeout=0.1)
        finally:
            leaving.cancel()


async def _leaves(connection: UpstreamConnection) -> None:
    """Returns when the proxy has ended the connection."""
    with suppress(ConnectionError):
        while await connection.reader.read(65536):
            pass


@asynccontextmanager
async def planned_upstream(tls_folder: Path | None = None) -> AsyncIterator[PlannedUpstream]:
    """With a folder, it speaks TLS, and what to trust is written there as `ca.crt`."""
    upstream, tls = PlannedUpstream(), None
    if tls_folder is not None:
        write_certificates(tls_folder)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(tls_folder / "server.crt", tls_folder / "server.key")
        upstream._scheme = "https"
    server = await asyncio.start_server(upstream._connected, "127.0.0.1", 0, ssl=tls, limit=1 << 20, backlog=1000)
    upstream._port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(upstream._tasks):
            task.cancel()
        await asyncio.gather(*upstream._tasks, return_exceptions=True)
