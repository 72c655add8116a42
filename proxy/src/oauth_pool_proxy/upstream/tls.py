"""A connection to the upstream over TLS: the same exchange, its bytes through OpenSSL on their way.

uvloop's own TLS would do, but it keeps a quarter of a megabyte for each connection and tells a connection that was closed
from one that was cut no better than TCP does. With TLS the difference is known (RFC 8446 6.1), and a body that only
ends with the connection (RFC 9112 9.8) is whole only if it was closed.

OpenSSL never gives back what one of its buffers once held, and connections are kept. So bytes go through in pieces of a
record's size, in both directions.

A new connection resumes the session of one before it (RFC 8446 2.2), which spares both sides half of the handshake's work.
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
"""How long a session is resumed before that of a newer connection takes its place. Servers keep theirs for minutes at least."""


class _Tls(Protocol):
    """`ssl.SSLObject`, as far as it is needed; typeshed does not know that `read` with a buffer returns a number."""

    session: ssl.SSLSession | None
    session_reused: bool | None

    def do_handshake(self) -> None: ...
    def pending(self) -> int: ...
    def read(self, size: int, buffer: memoryview, /) -> int: ...
    def write(self, data: bytes | memoryview, /) -> int: ...


class TlsSessions:
    """The latest session with one origin. It is of one context: another certificate authority does not trust what the last did."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.handshakes = {"full": 0, "resumed": 0}
        """How many were done."""
        self._clock = clock
        self._context: ssl.SSLContext | None = None
        self._session: ssl.SSLSession | None = None
        self._taken_at = 0.0

    def of(self, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """What may be resumed with this context."""
        return self._session if self._context is context else None

    def offer(self, context: ssl.SSLContext, tls: _Tls) -> None:
        """Take the connection's session, unless the one at hand was just resumed: to copy it costs half of what it saves."""
        now = self._clock()
        if tls.session_reused and now - self._taken_at < SESSION_SECONDS:
            return
        if session := tls.session:
            self._context, self._session, self._taken_at = context, session, now

    def forget(self) -> None:
        self._context = self._session = None


class TlsConnection(Connection):
    """`secure` is awaited before the first exchange."""

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
    """What one read brought, decrypted. All connections share it, because nobody keeps it."""

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
        """Returns when the handshake is done; `OSError` (`ssl.SSLError` is one) if it cannot be."""
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
            self._handshake.exception()  # whoever waited may have left
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
            self._sessions.forget()  # a server that cannot resume shall not refuse the next one, too
            self._handshake.set_exception(error)
            self._handshake.exception()
        self._flush()  # an alert, too
        if self._is_secured:
            self._sessions.handshakes["resumed" if self._tls.session_reused else "full"] += 1
            self._handshake.set_result(None)
        elif self._handshake.done():
            self._transport.close()

    def _decrypt(self, data: bytes | memoryview) -> None:
        """Hand on everything that one read brought, in one piece unless it is longer than the buffer."""
        size = 0
        for piece in _records(data):
            self._incoming.write(piece)
            size = self._read(size)
        if size:
            if not self._has_read:  # the server's tickets come behind the handshake, and before its first answer
                self._has_read = True
                self._sessions.offer(self._context, self._tls)
            Connection.data_received(self, self._buffer[:size])
        if self._outgoing.pending:
            self._flush()  # the answer to a change of keys
        if self._is_closed:
            self._transport.close()

    def _read(self, size: int) -> int:
        """Decrypt what there is behind the first `size` bytes of the buffer. How many are in it afterwards."""
        try:
            # Asking once more than there is an answer for would cost an exception for every read.
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
            self._failure = error  # such as an alert, by which TLS 1.3 refuses a client certificate
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
