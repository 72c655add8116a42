"""One HTTP/1.1 connection to the upstream and the exchange that it is in: llhttp's callbacks in, an `Answer` out.

Strict where leniency would let two parties read the same bytes differently (RFC 9112 6.3, 11.2), patient where only
time is at stake: silence is judged by the watchdog of `upstream.py`, which looks at all connections once a second.
"""

import asyncio
import re
from typing import Protocol, cast

import httptools

from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable

Headers = list[tuple[bytes, bytes]]

HIGH_WATER = 256 * 1024
"""With this much unread the upstream is not read from, so that a slow client costs no memory."""
MOST_HEADERS, MOST_HEAD_BYTES = 128, 64 * 1024
IDLE_SECONDS = 90.0

_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class _NotHttp(Exception):
    """Raised by the parser's callbacks for what llhttp lets through and RFC 9112 does not."""


class NothingCameBack(Exception):
    """The connection ended before the first byte of an answer."""


class Write(Protocol):
    """Takes a piece of a body, which may be empty if it is the last. False: no more for now."""

    def __call__(self, data: bytes, *, is_last: bool) -> bool: ...


class Owner(Protocol):
    """Whoever keeps the connections."""

    def clock(self) -> float: ...
    def opened(self, connection: "Connection") -> None: ...
    def closed(self, connection: "Connection") -> None: ...
    def keep(self, connection: "Connection") -> None: ...


class Answer:
    """The upstream's answer: head now, body as it arrives. Whoever has it calls `release`; again does nothing."""

    __slots__ = ("_connection", "_is_released", "fields", "headers", "is_event_stream", "status")

    def __init__(self, connection: "Connection", status: int, headers: Headers) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers
        self.fields = fields = dict(headers)
        """The headers by their lower-case names; of several lines of one name the last."""
        self.is_event_stream = fields.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        self._is_released = False

    def forget_head(self) -> None:
        """Nobody asks for it any more."""
        self.headers, self.fields = [], {}

    @property
    def is_at_end(self) -> bool:
        """Whether everything has arrived and been read."""
        return self._connection.is_complete and not self._connection.has_unread

    async def read(self) -> bytes:
        """What has arrived since the last time, or else waits for more. Empty at the end; `StreamBroken` before it."""
        return await self._connection.read()

    def read_now(self) -> bytes:
        """What has arrived since the last time."""
        return self._connection.read_now()

    async def pump(self, write: "Write") -> None:
        """Hand all that arrives to `write` in the moment in which it arrives, to the end; `StreamBroken` before it.

        When `write` returns false the upstream is not read from until `resume` is called.
        """
        await self._connection.pump(write)

    def resume(self) -> None:
        self._connection.resume()

    def release(self) -> None:
        """Keep the connection if the answer is complete, and abort it if not: nobody can tell what would come next."""
        if not self._is_released:  # the connection may be in another exchange by now
            self._is_released = True
            self._connection.release()


class Connection(asyncio.Protocol):
    """One connection and the exchange that it is in, if any."""

    _is_paused = False

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport
        self._is_open = False
        self._is_unwanted = False
        self._is_in_use = False
        self._idle_since = owner.clock()
        self._write: Write | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._can_parse_on = False
        """Whether the parser stands where the next answer begins. After HEAD it waits for a body that does not come."""

    # The exchange, from the side of whoever asked.

    async def exchange(self, request: list[bytes], *, is_head: bool) -> Answer:
        if not self.is_usable:
            raise NothingCameBack
        self._begin(is_head=is_head)
        self._send(request)
        try:
            while not self._status and self._error is None:
                await self._wait()
        except BaseException:
            self.abort()
            raise
        if not self._status and self._error is not None:
            self.abort()
            raise self._error
        assert self._head
        return self._head

    async def read(self) -> bytes:
        while not self._chunks:
            if self.is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.read_now()

    def read_now(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._unread = 0
        self.resume()
        return data

    async def pump(self, write: Write) -> None:
        self._write = write
        try:
            self._hand_over()
            while not self.is_complete:
                if self._error is not None:
                    self._hand_over()  # what came before the failure
                    raise self._error
                await self._wait()
        finally:
            self._write = None

    def _hand_over(self) -> None:
        """Everything that one read brought, in one piece."""
        if self._write and (self._chunks or self.is_complete):
            write, is_last = self._write, self.is_complete
            if is_last:
                self._write = None
            if not write(self.read_now(), is_last=is_last):
                self._pause()

    def release(self) -> None:
        if not self._is_in_use:
            return
        self._is_in_use = False
        self._chunks.clear()
        is_clean = self.is_complete and self._can_be_kept and self.is_usable
        # An answer that came before the whole request was sent leaves the rest of it on the way.
        if not is_clean or self._transport.get_write_buffer_size():
            self.abort()
            return
        self.resume()
        self._idle_since = self._owner.clock()
        self._owner.keep(self)

    def abort(self) -> None:
        self._is_in_use = False
        self._is_unwanted = True  # also if it is only just being opened
        if self._is_open:
            self._transport.abort()

    @property
    def is_usable(self) -> bool:
        return self._is_open and not self._transport.is_closing()

    @property
    def has_unread(self) -> bool:
        return bool(self._chunks)

    def check(self, now: float, timeout: float) -> None:
        """Called by the watchdog. Only silence counts that somebody waits through."""
        if not self._is_in_use:
            if now - self._idle_since > IDLE_SECONDS:
                self.abort()
        elif self._waiter is None or self._is_paused:
            pass
        elif not self._status:
            if now - self._began > timeout:
                self._fail(UpstreamTimeout(f"The upstream sent no answer within {timeout:g} s"))
        elif now - self._last_byte > timeout:
            self._fail(StreamBroken(f"The upstream was silent for {timeout:g} s", error_type="timeout"))

    def _send(self, parts: list[bytes]) -> None:
        self._transport.writelines(parts)

    def _begin(self, *, is_head: bool) -> None:
        self._is_in_use = True
        self._is_head = is_head
        if self._parser is None or not self._can_parse_on:
            self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: Headers = []
        self._head: Answer | None = None
        self._bytes_beside_body = 0
        self._head_is_complete = False
        self._has_answered = False
        self._ends_at_close = False
        self._can_be_kept = True
        self.is_complete = False
        self._chunks: list[bytes] = []
        self._unread = 0
        self._is_paused = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._began = self._last_byte = self._owner.clock()

    async def _wait(self) -> None:
        """Until something happens: the head, bytes, the end, or a failure."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _pause(self) -> None:
        if not self._is_paused and self.is_usable:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._last_byte = self._owner.clock()  # the silence was ours
            if self.is_usable:
                self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        """The exchange has failed. Bytes that came before are read first."""
        if not self.is_complete and self._error is None:
            self._error = error
            self._wake()
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class
        self._is_open = True
        self._owner.opened(self)
        if self._is_unwanted:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def _received(self, data: bytes | memoryview) -> None:
        """Bytes of HTTP."""
        if not self._is_in_use:
            self.abort()  # nobody asked
            return
        self._last_byte = self._owner.clock()
        self._has_answered = True
        self._bytes_beside_body += len(data)
        try:
            self._parser.feed_data(data)  # type: ignore[union-attr]  # there is one since `_begin`
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._is_not_http(error)
            return
        self._hand_over()
        if self._head_is_complete:
            self._headers.clear()
        if self._bytes_beside_body > MOST_HEAD_BYTES:
            self._is_not_http(_NotHttp("its head, or what follows its body, is too long"))

    def connection_lost(self, error: Exception | None) -> None:
        self._is_open = False
        self._owner.closed(self)
        if not self._is_in_use or self.is_complete:
            return
        if not self._has_answered:
            self._fail(NothingCameBack())
        elif not self._status:
            self._fail(UpstreamUnreachable("The upstream closed the connection before its answer was complete"))
        elif self._ends_at_close and error is None:
            self._complete()
            self._hand_over()
        else:
            self._fail(StreamBroken("The upstream closed the connection in mid-answer", error_type="connection"))

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self.is_complete:
            self._can_be_kept = False  # more than one answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return
        status = self._parser.get_status_code()  # type: ignore[union-attr]
        if 100 <= status < 200 and status != 101:
            self._headers = []  # interim (RFC 9110 15.2): the final answer follows
            return
        if not 200 <= status <= 599:
            raise _NotHttp(f"its status is {status}")  # 101 too: no upgrade was offered
        self._check_head()
        head = Answer(self, status, self._headers)
        self._headers = []  # trailers go there: they end at this hop
        is_chunked, has_length = self._framing(head)
        has_no_body = self._is_head or status in (204, 304)
        self._ends_at_close = not (has_no_body or is_chunked or has_length)
        self._can_be_kept = not self._ends_at_close and self._keeps_alive(head)
        self._can_parse_on = not self._is_head
        self._head_is_complete = True
        self._head = head
        self._status = status
        if self._is_head:
            self._complete()
        self._wake()

    def _check_head(self) -> None:
        # A tab is allowed in a value, so it can stand between them.
        text = b"\t".join([part for header in self._headers for part in header])
        if len(text) > MOST_HEAD_BYTES or len(self._headers) > MOST_HEADERS:
            raise _NotHttp("its head is too long")
        if _FORBIDDEN_IN_VALUE.search(text):
            raise _NotHttp("a header value has a control character")

    def _framing(self, head: Answer) -> tuple[bool, bool]:
        """Whether the body comes in chunks, and whether it has a length."""
        has_length = b"content-length" in head.fields
        if b"transfer-encoding" not in head.fields:
            return False, has_length
        codings = [value.strip().lower() for name, value in head.headers if name == b"transfer-encoding"]
        if has_length or codings != [b"chunked"]:
            raise _NotHttp("its framing is ambiguous")  # RFC 9112 6.3
        return True, False

    def on_body(self, body: bytes) -> None:
        self._bytes_beside_body = 0
        if self.is_complete:
            self._can_be_kept = False  # a body where none may be
            return
        self._chunks.append(body)
        self._unread += len(body)
        if self._write is None:
            if self._unread > HIGH_WATER:
                self._pause()
            self._wake()

    def on_message_complete(self) -> None:
        if self._status:
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        self._wake()

    def _keeps_alive(self, head: Answer) -> bool:
        """RFC 9112 9.3. Not llhttp's answer, which takes a HEAD without length for a body until the end."""
        if self._parser.get_http_version() != "1.1":  # type: ignore[union-attr]
            return False
        if b"connection" not in head.fields:
            return True
        options = b",".join(value.lower() for name, value in head.headers if name == b"connection").split(b",")
        return b"close" not in [option.strip() for option in options]

    def _is_not_http(self, error: Exception) -> None:
        if self.is_complete:
            self._can_be_kept = False  # the answer is whole; what follows it is not ours
        elif not self._status:
            failure = UpstreamUnreachable("The upstream's answer is not valid HTTP")
            failure.__cause__ = error.__context__ or error
            self._fail(failure)
        else:
            self._fail(StreamBroken("The upstream's answer is not valid HTTP", error_type="connection"))
