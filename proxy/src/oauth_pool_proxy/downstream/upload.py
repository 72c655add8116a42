"""What one request's client sends: its body, and the news that the client has left."""

import asyncio
import socket
from io import BytesIO
from types import TracebackType
from typing import Protocol, Self

from uvicorn.protocols.http.flow_control import FlowControl

from oauth_pool_proxy.downstream import kernel
from oauth_pool_proxy.downstream.admission import READ_AHEAD
from oauth_pool_proxy.errors import ClientGone, ProxyError, RequestTimeout, RequestTooLarge
from oauth_pool_proxy.upstream.headers import Headers

STALLED_SECONDS = 30.0
"""How long a body that holds room may bring no bytes, or lag behind the pace at which it would arrive in time."""
POLL_SECONDS = 0.05
"""How often to check whether the client has left, on a connection that is not being read."""


class Connection(Protocol):
    """The parts of its connection that a request uses."""

    transport: asyncio.Transport
    flow: FlowControl
    socket: socket.socket
    client: tuple[str, int] | None

    def write(self, data: bytes) -> None: ...
    def close_in_stages(self) -> None: ...
    def on_response_complete(self) -> None: ...


class Upload:
    """One request on a connection. The protocol calls `body_received` to `check`.

    `target` is in origin form. `fields` are the headers by lower-case name.
    """

    announced: int | None = 0
    """The length of the body. None for a chunked body."""
    refusal: ProxyError | None = None
    """Why the request is refused. None: it is not."""
    keep_alive = True
    """Whether another request may follow on the connection."""
    waits_for_100 = False
    """Whether the client waits for `100 Continue` before it sends its body (RFC 9110 10.1.1)."""
    is_answered = False
    """Whether the answer has begun."""
    is_complete = False
    """Whether the whole request has arrived."""
    is_from_tailnet = False
    """Whether it came in on the listener that only the Tailscale proxy can reach."""
    _is_over = False
    """Whether the whole answer has been sent."""
    _size = _most_bytes = 0
    _buffer: BytesIO | None = None
    """The body, once there is room for it."""
    _is_gone = _is_looking = False
    _limit = _seconds_left = _deadline = 0.0
    _has_room_since: float | None = None
    _size_at_check, _grew_at = 0, 0.0
    _waiter: asyncio.Future[None] | None = None
    _watched: asyncio.Task[object] | None = None

    def __init__(
        self, connection: Connection, method: bytes, target: bytes, headers: Headers, fields: dict[bytes, bytes]
    ) -> None:
        self._connection = connection
        self.method, self.target = method.decode("ascii"), target
        self.headers, self.fields = headers, fields
        self._parts: list[bytes] = []

    @property
    def peer(self) -> str:
        """The peer's address."""
        address = self._connection.client
        return address[0] if address else ""

    async def body_size(self, most_bytes: int, seconds: float) -> int:
        """The most bytes that the body can have. Returns once the body or more than `READ_AHEAD` of it has arrived, so a client
        that only announces a body takes no room.

        This and `body` raise `RequestTooLarge` as soon as the body exceeds `most_bytes`, `RequestTimeout` if it takes longer than
        `seconds`, and `ClientGone` if the client leaves.
        """
        if self.announced == 0:
            return 0
        self._most_bytes = most_bytes
        self._limit = self._seconds_left = seconds
        if (self.announced or 0) > most_bytes:
            raise self._too_large()
        if not self.waits_for_100:
            await self._until(READ_AHEAD)
        if self._size > most_bytes:
            raise self._too_large()
        return self._size if self.is_complete else self.announced or most_bytes

    def short_body(self, most_bytes: int) -> bytes | None:
        """The body, if it has arrived and is no longer than `READ_AHEAD`. Nearly all are."""
        if not self.is_complete or self._size > min(READ_AHEAD, most_bytes):
            return None
        return self._joined()

    def _joined(self) -> bytes:
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def body(self) -> bytes:
        """Read all of it, once there is room."""
        if self.announced != 0 and not self.is_complete:
            self._buffer = self._new_buffer()
            if self.waits_for_100:
                self.waits_for_100 = False
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._connection.flow.resume_reading()
            self._has_room_since = self._grew_at = asyncio.get_running_loop().time()
            await self._until(self._most_bytes)
        if self._size > self._most_bytes:
            raise self._too_large()
        if self._buffer is None:
            return self._joined()
        body, self._buffer = self._buffer.getvalue(), None
        return body

    def _new_buffer(self) -> BytesIO:
        """Holds what has arrived and takes the rest. Joining separate parts at the end would need twice the memory."""
        buffer = BytesIO()
        if self.announced:  # at full size from the start, the buffer is never moved
            buffer.seek(self.announced - 1)
            buffer.write(b"\0")
            buffer.seek(0)
        buffer.writelines(self._parts)
        self._parts.clear()
        return buffer

    def _too_large(self) -> RequestTooLarge:
        self.forget()
        return RequestTooLarge(f"The request body is longer than {self._most_bytes} bytes")

    async def _until(self, size: int) -> None:
        """Wait until the request is complete or more than `size` of its body has arrived. The wait counts against the client."""
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
        if self._is_over:
            return
        self._size += len(part)
        if self._buffer:
            self._buffer.write(part)
        else:
            self._parts.append(part)
            if self._size > READ_AHEAD:
                self._connection.flow.pause_reading()
                self.look_out()
        self._wake()

    def body_complete(self) -> None:
        self.is_complete = True
        self._wake()

    def forget(self) -> None:
        """Drop the body: it is no longer needed."""
        self._parts.clear()
        self._buffer = None

    def refuse(self, error: ProxyError) -> None:
        """The rest of the request will not come, or cannot be read. Answer with this error, then end the connection."""
        self.refusal, self.keep_alive = error, False
        self._wake()

    def check(self, now: float) -> None:
        """Called about once a second."""
        if self._waiter and now >= self._deadline:
            self.refuse(RequestTimeout(f"The request body did not arrive within {self._limit:g} s"))
        elif self._waiter and self._has_room_since is not None and self._is_stalled(now, self._has_room_since):
            self.refuse(RequestTimeout(f"The request body arrives too slowly to be there within {self._limit:g} s"))

    def _is_stalled(self, now: float, since: float) -> bool:
        """Whether the body arrives too slowly: others wait for the room that it holds."""
        if self._size > self._size_at_check:
            self._size_at_check, self._grew_at = self._size, now
        due = (self.announced or 0) * (now - since - STALLED_SECONDS) / self._limit
        return now - self._grew_at > STALLED_SECONDS or self._size < due

    def watched(self) -> Self:
        """Run the block only as long as the client stays. `ClientGone` is raised in it the moment the client leaves."""
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
        self._is_gone = True
        self._wake()
        if self._watched:
            self._watched.cancel()

    def look_out(self) -> None:
        """A connection that is not being read does not report that the client left. Poll the kernel until reading resumes."""
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
