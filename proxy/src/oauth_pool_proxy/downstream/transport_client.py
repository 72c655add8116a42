"""A client of our own server, answered through its transport: no task, no queue and no wake-up between two chunks.

Reads of the upstream are framed and written in the callback in which they arrive, one write for each; the request's task
sleeps until the end. A client that does not take them stops the upstream from being read, and no task is involved in
that either. What uvicorn keeps about a response (started, complete, keep-alive, the next pipelined request) is kept true here,
in the terms of its pinned minor version.
"""

import asyncio
import select
import socket
import struct
from enum import Enum, auto
from types import TracebackType
from typing import Self

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from oauth_pool_proxy.downstream.client import (
    READ_AHEAD,
    Client,
    Tap,
    announced_length,
    body_is_late,
    body_is_too_long,
)
from oauth_pool_proxy.errors import ClientGone, InvalidRequest
from oauth_pool_proxy.upstream.upstream import Answer, Headers

LOOK_SECONDS = 0.05
"""How often a connection that is not read from is asked whether its client has left."""
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Framing(Enum):
    """How the client finds the end of a body (RFC 9112 6.3)."""

    NO_BODY = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


class TransportClient(Client):
    """One request of a connection. `body_received`, `body_complete`, `resume` and `lost` are called by its protocol."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, cycle: RequestResponseCycle) -> None:
        self._transport, self._flow, self._cycle = transport, flow, cycle
        self._parts: list[bytes] = []
        self._size = 0
        self._is_complete = self._is_wanted = self._is_gone = self._is_looking = False
        self._waiter: asyncio.Future[None] | None = None
        self._watched: asyncio.Task[object] | None = None
        self._framing = _Framing.NO_BODY
        self._answer: Answer | None = None
        self._tap: Tap | None = None

    # The request

    async def body(self, most_bytes: int, timeout: float) -> bytes:
        announced = announced_length(dict(self._cycle.scope["headers"]))
        if announced == 0:
            return b""
        if announced is not None and announced > most_bytes:
            raise body_is_too_long(most_bytes)
        self._is_wanted = True
        if not self._is_complete:
            await self._rest_of_body(most_bytes, timeout)
        if self._size > most_bytes:
            self._parts.clear()
            raise body_is_too_long(most_bytes)
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

    async def _rest_of_body(self, most_bytes: int, timeout: float) -> None:
        if self._cycle.waiting_for_100_continue:
            self._cycle.waiting_for_100_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._flow.resume_reading()
        loop = asyncio.get_running_loop()
        while not self._is_complete and self._size <= most_bytes:
            if self._is_gone:
                raise ClientGone
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout, self._fail_body, body_is_late(timeout))
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None

    def _fail_body(self, error: InvalidRequest) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(error)

    def body_received(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > READ_AHEAD and not self._is_wanted:
            self._flow.pause_reading()
            self.look_out()
        self._wake()

    def body_complete(self) -> None:
        self._is_complete = True
        self._wake()

    def watched(self) -> Self:
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
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._is_looking = False
        if self._is_gone or not self._flow.read_paused or self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), _GONE)
        if poll.poll(0):
            self.lost()
            self._transport.abort()
        else:
            self.look_out()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # The answer

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self._is_gone:
            return
        pieces = self._head(status, headers)
        if body:
            self._frame(pieces, body)
        if self._framing is _Framing.CHUNKED:
            pieces.append(b"0\r\n\r\n")
        self._transport.write(b"".join(pieces))
        self._finish()

    async def start(self, status: int, headers: Headers, body: bytes) -> None:
        if self._is_gone:
            return
        pieces = self._head(status, headers)
        if body:
            self._frame(pieces, body)
        self._transport.write(b"".join(pieces))

    async def pump(self, answer: Answer, tap: Tap) -> None:
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
        if not self._is_gone and not self._flow.write_paused:
            pieces: list[bytes] = []
            self._frame(pieces, words)
            self._transport.write(b"".join(pieces))

    def break_off(self) -> None:
        """The end of the connection is the end of such a body, so only a reset says that it is not the whole."""
        if self._framing is _Framing.UNTIL_CLOSE and not self._transport.is_closing():
            connection: socket.socket = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

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
        self._transport.write(b"".join(pieces))
        return not self._flow.write_paused

    def _frame(self, pieces: list[bytes], data: bytes) -> None:
        if self._framing is _Framing.CHUNKED:
            pieces += (b"%x\r\n" % len(data), data, b"\r\n")
        elif self._framing is not _Framing.NO_BODY:  # an error of our own has a text, which a HEAD must not get
            pieces.append(data)

    def _head(self, status: int, headers: Headers) -> list[bytes]:
        cycle = self._cycle
        if cycle.waiting_for_100_continue and not self._is_complete:
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
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()
