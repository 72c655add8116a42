"""One request and its answer on the wire: llhttp's callbacks in, an `Answer` out.

It is created when the request is sent, and dead once its answer is released. It is strict where leniency would let two parties
read the same bytes differently (RFC 9112 6.3, 11.2), and patient where only time is at stake. Silence is judged by the watchdog in
`upstream.py`, which checks all connections once a second.
"""

import ssl
from collections.abc import Callable

import httptools

from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.answer import HIGH_WATER, Answer, Line
from oauth_pool_proxy.upstream.headers import Headers

MOST_HEADERS, MOST_HEAD_BYTES = 128, 64 * 1024
RACE_SECONDS = 1.0
"""An upstream that closes an idle connection may not know of a request on the way. It learns of it within a round trip. If it
closes later, it has the request, and may have acted on it."""

_FORBIDDEN_IN_VALUE = bytes((*range(9), *range(10, 32), 127))


class _NotHttp(Exception):
    """Raised by the parser's callbacks for what llhttp accepts but RFC 9112 does not."""


class NothingCameBack(Exception):
    """The connection ended before the first byte of an answer."""

    def __init__(self, *, is_unseen: bool) -> None:
        super().__init__("nothing came back")
        self.is_unseen = is_unseen
        """Whether the upstream cannot have acted on the request: it was not fully sent, or it crossed the close on the way."""


class Exchange(Answer):
    """`head` returns it as an `Answer`. The connection and the parser call the other methods."""

    __slots__ = (
        "_bytes_beside_body",
        "_ends_at_close",
        "_has_answered",
        "_is_head",
        "_is_reusable",
        "_lines",
        "_parser",
        "_sent_at",
    )

    def __init__(self, line: Line, clock: Callable[[], float], *, is_head: bool) -> None:
        super().__init__(line, clock)
        self._is_head = is_head
        self._parser = httptools.HttpResponseParser(self)
        self._lines: Headers = []
        """The lines of a head, or of trailers."""
        self._bytes_beside_body = 0
        self._has_answered = False
        self._ends_at_close = False
        self._is_reusable = True
        self._sent_at: float | None = None

    async def head(self) -> Answer:
        """The answer, once its head has arrived. Raises `UpstreamUnreachable`, `UpstreamTimeout` or `NothingCameBack`."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self

    def release(self) -> None:
        super().release()
        if hasattr(self, "_parser"):
            del self._parser  # it refers back to the exchange, and the cycle would wait for the garbage collector

    # Sending the request

    @property
    def is_sent(self) -> bool:
        """Whether the operating system has taken the whole request."""
        return self._sent_at is not None

    def sent(self) -> None:
        self._sent_at = self._quiet_since = self._clock()

    def moved(self) -> None:
        """The upstream has taken a part of the request."""
        self._quiet_since = self._clock()

    def check(self, now: float, timeout: float, idle_timeout: float) -> None:
        """Called by the watchdog. Silence counts only while a task waits for the upstream."""
        if self._waiter is None or self._is_paused:
            return
        silent = now - self._quiet_since
        if self.status:
            if silent > idle_timeout:
                self._fail(StreamBroken(f"The upstream was silent for {idle_timeout:g} s", error_type="timeout"))
        elif silent > timeout:
            what = "sent no answer within" if self.is_sent else "took no byte of the request for"
            self._fail(UpstreamTimeout(f"The upstream {what} {timeout:g} s"))

    # The answer

    def received(self, data: bytes | memoryview) -> None:
        """Bytes of HTTP."""
        self._has_answered = True
        self._bytes_beside_body += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._is_not_http(error)
            return
        if self.status:
            self._quiet_since = self._clock()
            if self._lines:
                self._lines.clear()  # trailers end at this hop
            self._hand_over()
        if self._bytes_beside_body > MOST_HEAD_BYTES:
            self._is_not_http(_NotHttp("its head, or what follows its body, is too long"))

    def ended(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._is_complete:
            return
        if isinstance(error, ssl.SSLError) and not self.status:
            self._fail(UpstreamUnreachable(f"The upstream ended TLS ({error.reason})"))
        elif not self._has_answered:
            is_unseen = self._sent_at is None or self._clock() - self._sent_at <= RACE_SECONDS
            self._fail(NothingCameBack(is_unseen=is_unseen))
        elif not self.status:
            self._fail(UpstreamUnreachable("The upstream closed the connection before its answer was complete"))
        elif self._ends_at_close and error is None:
            self._complete()
            self._hand_over()
        else:
            self._fail(StreamBroken("The upstream closed the connection in mid-answer", error_type="connection"))

    def _fail(self, error: Exception) -> None:
        """End with this error. Bytes that arrived before it are still read first."""
        if not self._is_complete and self._error is None:
            self._error = error
            self._wake()
        if self._line:
            self._line.abort()

    def _complete(self) -> None:
        self._is_complete = True
        self._wake()

    def _can_be_kept(self) -> bool:
        # If the answer came before the whole request was sent, the rest of the request is still on the way.
        return self._is_complete and self._is_reusable and self.is_sent

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._is_reusable = False  # more than one answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._lines = []  # interim (RFC 9110 15.2): the final answer follows
            return
        if not 200 <= status <= 599:
            raise _NotHttp(f"its status is {status}")  # including 101: no upgrade was offered
        self._check_head()
        headers, self._lines = self._lines, []
        fields = dict(headers)
        is_chunked, has_length = _framing(headers, fields)
        has_no_body = self._is_head or status in (204, 304)
        self._ends_at_close = not (has_no_body or is_chunked or has_length)
        self._is_reusable = not self._ends_at_close and self._keeps_alive(headers, fields)
        self.status, self.headers, self.fields = status, headers, fields
        self.is_event_stream = fields.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        if self._is_head:
            self._complete()
        self._wake()

    def _check_head(self) -> None:
        # A tab is allowed in a value, so it can separate them.
        text = b"\t".join([b"\t".join(header) for header in self._lines])
        if len(text) > MOST_HEAD_BYTES or len(self._lines) > MOST_HEADERS:
            raise _NotHttp("its head is too long")
        if len(text.translate(None, _FORBIDDEN_IN_VALUE)) < len(text):
            raise _NotHttp("a header value has a control character")

    def _keeps_alive(self, headers: Headers, fields: dict[bytes, bytes]) -> bool:
        """As in RFC 9112 9.3. llhttp gets it wrong: it takes a HEAD answer without length for a body that ends at the close."""
        if self._parser.get_http_version() != "1.1":
            return False
        if b"connection" not in fields:
            return True
        options = b",".join(value.lower() for name, value in headers if name == b"connection").split(b",")
        return b"close" not in [option.strip() for option in options]

    def on_body(self, body: bytes) -> None:
        self._bytes_beside_body = 0
        if self._is_complete:
            self._is_reusable = False  # a body where none is allowed
            return
        self._chunks.append(body)
        self._unread += len(body)
        if self._write is None:
            if self._unread > HIGH_WATER:
                self._pause()
            self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self._complete()

    def _is_not_http(self, error: Exception) -> None:
        if self._is_complete:
            self._is_reusable = False  # the answer is complete; the bytes after it belong to no request
        elif not self.status:
            failure = UpstreamUnreachable("The upstream's answer is not valid HTTP")
            failure.__cause__ = error.__context__ or error
            self._fail(failure)
        else:
            self._fail(StreamBroken("The upstream's answer is not valid HTTP", error_type="connection"))


def _framing(headers: Headers, fields: dict[bytes, bytes]) -> tuple[bool, bool]:
    """Whether the body is chunked, and whether it has a length."""
    has_length = b"content-length" in fields
    if b"transfer-encoding" not in fields:
        return False, has_length
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if has_length or codings != [b"chunked"]:
        raise _NotHttp("its framing is ambiguous")  # RFC 9112 6.3
    return True, False
