"""The downstream side of one request: its body, whether the client is still there, and the answer to it.

Answers go through the connection's transport: no task, no queue and no wake-up between two chunks. Reads of the upstream
are framed and written in the callback in which they arrive, one write for each; the request's task sleeps until the end.
A client that does not take them stops the upstream from being read, and no task is involved in that either. What uvicorn
keeps about a response (started, complete, keep-alive, the next pipelined request) is kept true here, in the terms of its
pinned minor version.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from oauth_pool_proxy.downstream import kernel
from oauth_pool_proxy.downstream.admission import READ_AHEAD
from oauth_pool_proxy.errors import ClientGone, ProxyError, RequestTimeout, RequestTooLarge
from oauth_pool_proxy.upstream.upstream import Answer, Headers

POLL_SECONDS = 0.05
"""How often a connection that is not read from is asked whether its client has left."""

Tap = Callable[[bytes], None]
"""Sees each piece of a body before it is sent."""


class Connection(Protocol):
    """What a request's client knows of the connection that it came on."""

    transport: asyncio.Transport
    flow: FlowControl
    socket: socket.socket

    def write(self, data: bytes) -> None: ...
    def close_in_stages(self) -> None: ...


class _Framing(Enum):
    """How the client finds the end of a body (RFC 9112 6.3)."""

    NO_BODY = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


class Client:
    """One request of a connection. `body_received` to `check` are called by its protocol.

    `refusal` is why the request is not served, if it is not; `target` its target in origin form.
    """

    def __init__(
        self, connection: Connection, cycle: RequestResponseCycle, target: bytes, refusal: ProxyError | None
    ) -> None:
        self._connection, self._cycle = connection, cycle
        self.target, self.refusal = target, refusal
        self._parts: list[bytes] = []
        self._announced: int | None = 0
        self._size = self._most_bytes = 0
        self.is_complete = False
        """Whether the whole request is there."""
        self._is_wanted = self._is_gone = self._is_looking = False
        self._limit = self._seconds_left = self._deadline = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._watched: asyncio.Task[object] | None = None
        self._framing = _Framing.NO_BODY
        self._answer: Answer | None = None
        self._tap: Tap | None = None

    # The request

    async def body_size(self, most_bytes: int, seconds: float) -> int:
        """How long the body is at the most. Known when it is there or more than `READ_AHEAD` of it has come, so that
        whoever only announces one needs no room for it.

        Of here and in `body`: `RequestTooLarge` as soon as it is longer than `most_bytes`, `RequestTimeout` when it takes longer
        than `seconds`, `ClientGone` if the client leaves.
        """
        self._announced = announced = announced_length(dict(self._cycle.scope["headers"]))
        if announced == 0:
            return 0
        self._most_bytes = most_bytes
        self._limit = self._seconds_left = seconds
        if announced is not None and announced > most_bytes:
            raise self._too_large()
        if not self._cycle.waiting_for_100_continue:
            await self._until(READ_AHEAD)
        if self._size > most_bytes:
            raise self._too_large()
        return self._size if self.is_complete else announced or most_bytes

    async def body(self) -> bytes:
        """All of it, once there is room."""
        if self._announced != 0 and not self.is_complete:
            self._is_wanted = True
            if self._cycle.waiting_for_100_continue:
                self._cycle.waiting_for_100_continue = False
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._connection.flow.resume_reading()
            await self._until(self._most_bytes)
        if self._size > self._most_bytes:
            raise self._too_large()
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

    def _too_large(self) -> RequestTooLarge:
        self._parts.clear()
        return RequestTooLarge(f"The request body is longer than {self._most_bytes} bytes")

    async def _until(self, size: int) -> None:
        """Until the request is complete, or more than `size` of its body is there. The time in between is its client's."""
        if self.is_complete or self._size > size:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._deadline = began + self._seconds_left
        while not self.is_complete and self._size <= size:
            if self._is_gone:
                raise ClientGone
            if self.refusal:
                raise self.refusal
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._seconds_left -= loop.time() - began

    def body_received(self, part: bytes) -> None:
        if self._cycle.response_complete:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > READ_AHEAD and not self._is_wanted:
            self._connection.flow.pause_reading()
            self.look_out()
        self._wake()

    def body_complete(self) -> None:
        self.is_complete = True
        self._wake()

    def refuse(self, error: ProxyError) -> None:
        """The rest of the request will not come, or cannot be read. Answered with this, and then the connection ends."""
        self.refusal, self._cycle.keep_alive = error, False
        self._wake()

    def check(self, now: float) -> None:
        """Called at times."""
        if self._waiter and now >= self._deadline:
            self.refuse(RequestTimeout(f"The request body did not arrive within {self._limit:g} s"))

    def watched(self) -> Self:
        """Run the block only as long as the client is there: `ClientGone` is raised in it the moment it leaves."""
        return self

    def __enter__(self) -> None:
        if self._is_gone:
            raise ClientGone
        self._watched = asyncio.current_task()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._watched = self._watched, None
        if self._is_gone and task and isinstance(error, asyncio.CancelledError):
            task.uncancel()
            raise ClientGone from None

    def lost(self) -> None:
        """The connection is gone."""
        self._is_gone = self._cycle.disconnected = True
        self._wake()
        if self._watched:
            self._watched.cancel()

    def look_out(self) -> None:
        """A connection that is not read from does not say that the client has left: ask the kernel, as long as it lasts."""
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._look)

    def _look(self) -> None:
        self._is_looking = False
        transport = self._connection.transport
        if self._is_gone or not self._connection.flow.read_paused or transport.is_closing():
            return
        if kernel.has_left(self._connection.socket):
            self.lost()
            transport.abort()
        else:
            self.look_out()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # The answer

    @property
    def is_answered(self) -> bool:
        """Whether the answer has begun."""
        return self._cycle.response_started

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        if self._is_gone:
            return
        pieces = self._head(status, headers)
        if body:
            self._frame(pieces, body)
        if self._framing is _Framing.CHUNKED:
            pieces.append(b"0\r\n\r\n")
        self._connection.write(b"".join(pieces))
        self._finish()

    async def start(self, status: int, headers: Headers, body: bytes) -> None:
        """The head of an answer, and what there is of its body."""
        if self._is_gone:
            return
        pieces = self._head(status, headers)
        if body:
            self._frame(pieces, body)
        self._connection.write(b"".join(pieces))

    async def pump(self, answer: Answer, tap: Tap) -> None:
        """The rest of a started answer as it arrives, and its end. `StreamBroken` when the upstream does not get there."""
        self._answer, self._tap = answer, tap
        try:
            await answer.pump(self._pass_on)
        finally:
            self._answer = self._tap = None
        self._finish()

    def resume(self) -> None:
        """The client takes more."""
        if self._answer:
            self._answer.resume()

    async def last_words(self, words: bytes) -> None:
        """Bytes at the end of an answer that will not be completed, if the client takes them at once."""
        if not self._is_gone and not self._connection.flow.write_paused:
            pieces: list[bytes] = []
            self._frame(pieces, words)
            self._connection.write(b"".join(pieces))

    def break_off(self) -> None:
        """Called before the connection is closed in mid-answer.

        The end of the connection is the end of a body without length or chunks, so only a reset says that it is not the whole.
        """
        if self._framing is _Framing.UNTIL_CLOSE and not self._connection.transport.is_closing():
            kernel.reset_on_close(self._connection.socket)
            self._connection.transport.abort()

    def _pass_on(self, data: bytes, *, is_last: bool) -> bool:
        """One read of the upstream becomes one write. False: no more for now."""
        if self._is_gone:
            return True  # the request's task has been cancelled
        assert self._tap
        pieces: list[bytes] = []
        if data:
            self._tap(data)
            self._frame(pieces, data)
        if is_last and self._framing is _Framing.CHUNKED:
            pieces.append(b"0\r\n\r\n")
        self._connection.write(b"".join(pieces))
        return not self._connection.flow.write_paused

    def _frame(self, pieces: list[bytes], data: bytes) -> None:
        if self._framing is _Framing.CHUNKED:
            pieces += (b"%x\r\n" % len(data), data, b"\r\n")
        elif self._framing is not _Framing.NO_BODY:  # an error of our own has a text, which a HEAD must not get
            pieces.append(data)

    def _head(self, status: int, headers: Headers) -> list[bytes]:
        cycle = self._cycle
        if cycle.waiting_for_100_continue and not self.is_complete:
            # Told not to send its body, or to send it after all, the client decides: what comes next cannot be known.
            cycle.keep_alive = False
        cycle.response_started, cycle.waiting_for_100_continue = True, False
        self._framing = self._framing_of(status, headers)
        pieces = [STATUS_LINE[status]]
        pieces += [b"%s: %s\r\n" % header for header in headers]
        if self._framing is _Framing.CHUNKED:
            pieces.append(b"transfer-encoding: chunked\r\n")
        elif self._framing is _Framing.UNTIL_CLOSE:
            cycle.keep_alive = False
        pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        return pieces

    def _framing_of(self, status: int, headers: Headers) -> _Framing:
        scope = self._cycle.scope
        if scope["method"] == "HEAD" or status in (204, 304):
            return _Framing.NO_BODY
        if b"content-length" in dict(headers):
            return _Framing.LENGTH
        return _Framing.CHUNKED if scope["http_version"] == "1.1" else _Framing.UNTIL_CLOSE

    def _finish(self) -> None:
        """What uvicorn does at the end of a response."""
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        self._parts.clear()
        if cycle.keep_alive:
            pass
        elif self.is_complete and not self.refusal:
            self._connection.transport.close()
        else:
            self._connection.close_in_stages()  # more may be on its way
        cycle.on_response()


def announced_length(fields: Mapping[bytes, bytes]) -> int | None:
    """The length of the body as its head announces it; none for a body that comes in chunks."""
    if b"transfer-encoding" in fields:
        return None
    return int(fields.get(b"content-length", 0))  # the parser has let nothing but digits through
