"""The downstream side of one request: `Upload` handles what comes from the client, this module what goes to it.

Answers go straight to the connection's transport: no task, no queue and no wake-up between two chunks. Each read from the
upstream is framed and written in the callback that delivers it, as one write; the request's task sleeps until the end. A client
that stops reading pauses the reads from the upstream, again without a task.
"""

from collections.abc import Callable
from enum import Enum, auto

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from oauth_pool_proxy.downstream import kernel
from oauth_pool_proxy.downstream.upload import Upload
from oauth_pool_proxy.upstream.upstream import Answer, Headers

Tap = Callable[[bytes], None]
"""Sees each piece of a body before it is sent."""


class _Framing(Enum):
    """How the client finds the end of a body (RFC 9112 6.3)."""

    NO_BODY = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


class Client(Upload):
    """One request on a connection, and the answer to it."""

    is_http_1_1 = True
    """False: HTTP/1.0."""
    _framing = _Framing.NO_BODY
    _answer: Answer | None = None
    _tap: Tap | None = None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete answer."""
        if self._is_gone:
            return
        pieces = self._head(status, headers)
        if body:
            self._frame(pieces, body)
        if self._framing is _Framing.CHUNKED:
            pieces.append(b"0\r\n\r\n")
        self._connection.write(b"".join(pieces))
        self._finish()

    def start(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the head of an answer, and as much of its body as there is."""
        if self._is_gone:
            return
        pieces = self._head(status, headers)
        if body:
            self._frame(pieces, body)
        self._connection.write(b"".join(pieces))

    async def pump(self, answer: Answer, tap: Tap) -> None:
        """Send the rest of a started answer as it arrives. Raises `StreamBroken` if the upstream stops before the end."""
        self._answer, self._tap = answer, tap
        try:
            await answer.pump(self._pass_on)
        finally:
            self._answer = self._tap = None
        self._finish()

    def resume(self) -> None:
        """The client can take more."""
        if self._answer:
            self._answer.resume()

    def last_words(self, words: bytes) -> None:
        """End an answer that will not be completed with these bytes, if the client takes them at once."""
        if not self._is_gone and not self._connection.flow.write_paused:
            pieces: list[bytes] = []
            self._frame(pieces, words)
            self._connection.write(b"".join(pieces))

    def break_off(self) -> None:
        """End the connection mid-answer, so the answer does not look complete.

        A body with neither length nor chunks ends where the connection does. There, only a reset shows that it is incomplete.
        """
        transport = self._connection.transport
        if self._framing is _Framing.UNTIL_CLOSE and not transport.is_closing():
            kernel.reset_on_close(self._connection.socket)
            transport.abort()
        transport.close()

    def _pass_on(self, data: bytes, is_last: bool) -> bool:
        """Turn one read from the upstream into one write. False: no more for now."""
        if self._is_gone:
            return True  # the request's task has been cancelled
        connection, is_chunked = self._connection, self._framing is _Framing.CHUNKED
        if data:
            if self._tap:
                self._tap(data)
            if is_chunked:  # one formatting step, as this runs for every event of every stream
                data = b"%x\r\n%b\r\n" % (len(data), data)
            elif self._framing is _Framing.NO_BODY:
                data = b""
        connection.write(data + b"0\r\n\r\n" if is_last and is_chunked else data)
        return not connection.flow.write_paused

    def _frame(self, pieces: list[bytes], data: bytes) -> None:
        if self._framing is _Framing.CHUNKED:
            pieces += (b"%x\r\n" % len(data), data, b"\r\n")
        elif self._framing is not _Framing.NO_BODY:  # the proxy's errors have a body, which must not answer a HEAD
            pieces.append(data)

    def _head(self, status: int, headers: Headers) -> list[bytes]:
        if self.waits_for_100 and not self.is_complete:
            # The client may now send its body or not. What the next bytes are cannot be known.
            self.keep_alive = False
        self.is_answered, self.waits_for_100 = True, False
        self._framing = self._framing_of(status, headers)
        pieces = [STATUS_LINE[status]]
        if headers:
            pieces += (b"\r\n".join([b": ".join(header) for header in headers]), b"\r\n")
        if self._framing is _Framing.CHUNKED:
            pieces.append(b"transfer-encoding: chunked\r\n")
        elif self._framing is _Framing.UNTIL_CLOSE:
            self.keep_alive = False
        pieces.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return pieces

    def _framing_of(self, status: int, headers: Headers) -> _Framing:
        if self.method == "HEAD" or status in (204, 304):
            return _Framing.NO_BODY
        if b"content-length" in dict(headers):
            return _Framing.LENGTH
        return _Framing.CHUNKED if self.is_http_1_1 else _Framing.UNTIL_CLOSE

    def _finish(self) -> None:
        self._is_over = True
        self.forget()
        if self.keep_alive:
            pass
        elif self.is_complete and not self.refusal:
            self._connection.transport.close()
        else:
            self._connection.close_in_stages()  # more may be on the way
        self._connection.on_response_complete()
