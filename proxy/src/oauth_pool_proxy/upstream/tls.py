"""A connection to the upstream over TLS: the same exchange, with its bytes passed through OpenSSL.

uvloop's own TLS would work, but it keeps a quarter of a megabyte per connection, and cannot tell a closed connection from one
that was cut any better than TCP can. TLS itself makes the difference known (RFC 8446 6.1), and a body that ends only with the
connection (RFC 9112 9.8) is complete only if the connection was closed.

OpenSSL never frees the memory that one of its buffers once used, and connections are kept. So bytes pass through in pieces of a
record's size, in both directions.

A new connection resumes an earlier session (RFC 8446 2.2), which saves both sides half of the handshake's work.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from oauth_pool_proxy.errors import UpstreamUnreachable
from oauth_pool_proxy.upstream.connection import Connection, Owner

READ_BYTES = 64 * 1024
RECORD_BYTES = 16 * 1024
SESSION_SECONDS = 60.0
"""How long a session is resumed before a newer connection's replaces it. Servers keep sessions for minutes at least."""


class _Tls(Protocol):
    """The parts of `ssl.SSLObject` used here. typeshed does not know that `read` with a buffer returns a number."""

    session: ssl.SSLSession | None
    session_reused: bool | None

    def do_handshake(self) -> None: ...
    def pending(self) -> int: ...
    def read(self, size: int, buffer: memoryview, /) -> int: ...
    def write(self, data: bytes | memoryview, /) -> int: ...


class TlsSessions:
    """The latest session with one origin. It is tied to one context: another CA file may not trust the same server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.handshakes = {"full": 0, "resumed": 0}
        """The number of handshakes done, by kind."""
        self._clock = clock
        self._context: ssl.SSLContext | None = None
        self._session: ssl.SSLSession | None = None
        self._taken_at = 0.0

    def of(self, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """The session that may be resumed with this context."""
        return self._session if self._context is context else None

    def offer(self, context: ssl.SSLContext, tls: _Tls) -> None:
        """Take the connection's session, unless the stored one was just resumed: a copy costs half of what it saves."""
        now = self._clock()
        if tls.session_reused and now - self._taken_at < SESSION_SECONDS:
            return
        if session := tls.session:
            self._context, self._session, self._taken_at = context, session, now

    def forget(self) -> None:
        self._context = self._session = None


class TlsConnection(Connection):
    """Await `secure` before the first exchange."""

    __slots__ = (
        "_context",
        "_failure",
        "_handshake",
        "_has_read",
        "_incoming",
        "_is_closed",
        "_is_secured",
        "_outgoing",
        "_sessions",
        "_tls",
    )
    SLICE_BYTES = 64 * 1024
    _buffer = memoryview(bytearray(READ_BYTES))
    """The decrypted bytes of one read. All connections share the buffer, since nothing keeps its contents."""

    def __init__(self, owner: Owner, context: ssl.SSLContext, server_name: str, sessions: TlsSessions) -> None:
        super().__init__(owner)
        self._context, self._sessions = context, sessions
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name, session=sessions.of(context)
        )
        self._tls = cast(_Tls, tls)
        self._has_read = False
        self._is_secured = self._is_closed = False
        self._failure: ssl.SSLError | None = None
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def secure(self) -> None:
        """Return when the handshake is done. Raises `OSError` (`ssl.SSLError` is one) if it fails."""
        if not self._handshake.done():
            self._shake_hands()
        await self._handshake

    def data_received(self, data: bytes | memoryview) -> None:
        if not self._is_secured:
            self._incoming.write(data)
            data = b""
            if not self._handshake.done():
                self._shake_hands()
        if self._is_secured:
            self._decrypt(data)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and not self._is_closed:
            error = self._failure or ConnectionResetError("the connection was cut")
        if not self._handshake.done():
            self._handshake.set_exception(ConnectionResetError("the connection ended in the handshake"))
            self._handshake.exception()  # the waiter may have left
        super().connection_lost(error)

    def _why_unusable(self) -> Exception:
        if self._failure is None:
            return super()._why_unusable()
        return UpstreamUnreachable(f"The upstream ended TLS ({self._failure.reason})", was_sent=False)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
            self._is_secured = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._sessions.forget()  # a server that cannot resume must not refuse the next connection, too
            self._handshake.set_exception(error)
            self._handshake.exception()
        self._flush()  # including an alert
        if self._is_secured:
            self._sessions.handshakes["resumed" if self._tls.session_reused else "full"] += 1
            self._handshake.set_result(None)
        elif self._handshake.done():
            self._transport.close()

    def _decrypt(self, data: bytes | memoryview) -> None:
        """Pass on everything that one read brought, in one piece unless it is longer than the buffer."""
        size = 0
        for piece in _records(data):
            self._incoming.write(piece)
            size = self._read(size)
        if size:
            if not self._has_read:  # the server's tickets come after the handshake and before its first answer
                self._has_read = True
                self._sessions.offer(self._context, self._tls)
            Connection.data_received(self, self._buffer[:size])
        if self._outgoing.pending:
            self._flush()  # the reply to a key update
        if self._is_closed:
            self._transport.close()

    def _read(self, size: int) -> int:
        """Decrypt into the buffer, after its first `size` bytes. Returns how many bytes it then holds."""
        try:
            # One call too many would cost an exception for every read.
            while not self._is_closed and (self._incoming.pending or self._tls.pending()):
                if size == READ_BYTES:
                    Connection.data_received(self, self._buffer)
                    size = 0
                count = self._tls.read(READ_BYTES - size, self._buffer[size:] if size else self._buffer)
                size += count
                self._is_closed = count == 0
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError as error:
            self._failure = error  # such as the alert with which TLS 1.3 refuses a client certificate
            self._transport.abort()
        return size

    def _write(self, parts: list[bytes | memoryview]) -> None:
        encrypted = []
        try:
            for part in parts:
                for piece in _records(part):
                    self._tls.write(piece)
                    encrypted.append(self._outgoing.read())
        except ssl.SSLError:
            self._transport.abort()
        else:
            self._transport.writelines(encrypted)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())


def _records(data: bytes | memoryview) -> Iterable[bytes | memoryview]:
    if len(data) <= RECORD_BYTES:
        return (data,)
    view = memoryview(data)
    return [view[start : start + RECORD_BYTES] for start in range(0, len(view), RECORD_BYTES)]
