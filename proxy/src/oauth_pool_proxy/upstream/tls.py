"""A connection to the upstream over TLS: the same exchange, its bytes through OpenSSL on their way.

uvloop's own TLS would do, but it keeps a quarter of a megabyte for each connection and tells a connection that was closed
from one that was cut no better than TCP does. With TLS the difference is known (RFC 8446 6.1), and a body that only
ends with the connection (RFC 9112 9.8) is whole only if it was closed.
"""

import asyncio
import ssl
from typing import Protocol, cast

from oauth_pool_proxy.upstream.connection import Connection, Owner

READ_BYTES = 64 * 1024


class _Tls(Protocol):
    """`ssl.SSLObject`, as far as it is needed; typeshed does not know that `read` with a buffer returns a number."""

    def do_handshake(self) -> None: ...
    def pending(self) -> int: ...
    def read(self, size: int, buffer: memoryview, /) -> int: ...
    def write(self, data: bytes, /) -> int: ...


class TlsConnection(Connection):
    """`secured` is awaited before the first exchange."""

    _tls: "_Tls"
    _buffer = memoryview(bytearray(READ_BYTES))
    """What one read brought, decrypted. All connections share it, because nobody keeps it."""

    def __init__(self, owner: Owner, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(owner)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = cast(_Tls, context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name))
        self._is_secured = self._is_closed = False
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def secured(self) -> None:
        """Returns when the handshake is done; `OSError` (`ssl.SSLError` is one) if it cannot be."""
        await self._handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._is_secured:
            self._shake_hands()
        if self._is_secured:
            self._decrypt()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and not self._is_closed:
            error = ConnectionResetError("the connection was cut")
        if not self._handshake.done():
            self._handshake.set_exception(ConnectionResetError("the connection ended in the handshake"))
            self._handshake.exception()  # whoever waited may have left
        super().connection_lost(error)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
            self._is_secured = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._handshake.set_exception(error)
            self._handshake.exception()
        self._flush()  # an alert, too
        if self._is_secured:
            self._handshake.set_result(None)
        elif self._handshake.done():
            self._transport.close()

    def _decrypt(self) -> None:
        """Hand on everything that one read brought, in one piece unless it is longer than the buffer."""
        size = 0
        try:
            # Asking once more than there is an answer for would cost an exception for every read.
            while not self._is_closed and (self._incoming.pending or self._tls.pending()):
                if size == READ_BYTES:
                    self._received(self._buffer)
                    size = 0
                count = self._tls.read(READ_BYTES - size, self._buffer[size:])
                size += count
                self._is_closed = count == 0
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError:
            self._transport.abort()
        if size:
            self._received(self._buffer[:size])
        self._flush()  # the answer to a change of keys
        if self._is_closed:
            self._transport.close()

    def _send(self, parts: list[bytes]) -> None:
        for part in parts:
            self._tls.write(part)
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())
