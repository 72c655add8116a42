"""One HTTP/1.1 connection to the upstream: bytes in and out, and its current exchange, if any.

A body is sent in slices, each once the previous one is on its way. So the event loop gets its turn in between, an upstream that
reads slowly costs no memory, and the moment the last byte left is known.
"""

import asyncio
from typing import Protocol, cast

from oauth_pool_proxy.upstream.answer import Answer
from oauth_pool_proxy.upstream.exchange import Exchange, NothingCameBack

IDLE_SECONDS = 90.0
SMALL_BODY_BYTES = 16 * 1024
"""A body up to this size is sent in one piece with its head. (The maximum length of a TLS record.)"""


_NOTHING = memoryview(b"")


class Owner(Protocol):
    """The owner of the connections."""

    def clock(self) -> float: ...
    def opened(self, connection: "Connection") -> None: ...
    def closed(self, connection: "Connection") -> None: ...
    def keep(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """A plain TCP connection. `TlsConnection` differs in how it handles bytes."""

    __slots__ = (
        "_exchange",
        "_idle_since",
        "_is_full",
        "_is_open",
        "_is_unwanted",
        "_owner",
        "_transport",
        "_unsent",
        "_waiting_bytes",
    )
    SLICE_BYTES = 1024 * 1024
    _transport: asyncio.Transport

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._is_open = False
        self._is_unwanted = False
        self._is_full = False
        """Whether the operating system accepts no more for now."""
        self._exchange: Exchange | None = None
        self._unsent = _NOTHING
        self._waiting_bytes = 0
        """How many bytes of the request were still unsent at the watchdog's last check."""
        self._idle_since = owner.clock()

    async def exchange(self, head: bytes, body: bytes, *, is_head: bool) -> Answer:
        """Send the request and wait for the answer's head. Raises `NothingCameBack`, `UpstreamTimeout`, `UpstreamUnreachable`."""
        if not self.is_usable:
            raise self._why_unusable()
        exchange = self._exchange = Exchange(self, self._owner.clock, is_head=is_head)
        try:
            self._send(head, body)
            return await exchange.head()
        except BaseException:
            exchange.release()
            raise

    @property
    def is_usable(self) -> bool:
        return self._is_open and not self._transport.is_closing()

    def _why_unusable(self) -> Exception:
        return NothingCameBack(is_unseen=True)

    def pause_reading(self) -> None:
        if self.is_usable:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.is_usable:
            self._transport.resume_reading()

    def released(self, *, can_be_kept: bool) -> None:
        """The exchange is over."""
        if not can_be_kept or not self.is_usable:
            self.abort()
            return
        self._exchange = None
        self._idle_since = self._owner.clock()
        self._owner.keep(self)

    def abort(self) -> None:
        self._exchange = None
        self._is_unwanted = True  # even if it is still being opened
        if self._is_open:
            self._transport.abort()

    def check(self, now: float, timeout: float, idle_timeout: float) -> None:
        """Called by the watchdog."""
        exchange = self._exchange
        if exchange is None:
            if now - self._idle_since > IDLE_SECONDS:
                self.abort()
            return
        if not exchange.is_sent:
            waiting = len(self._unsent) + self._transport.get_write_buffer_size()
            if waiting != self._waiting_bytes:
                self._waiting_bytes = waiting
                exchange.moved()
        exchange.check(now, timeout, idle_timeout)

    # Sending the request

    def _send(self, head: bytes, body: bytes) -> None:
        if len(body) <= SMALL_BODY_BYTES:
            self._write([head + body])
        else:
            view = memoryview(body)
            self._unsent = view[self.SLICE_BYTES :]
            self._waiting_bytes = len(body)
            self._write([head, view[: self.SLICE_BYTES]])
        self._written()

    def _send_on(self) -> None:
        """Send the next slice."""
        if not self.is_usable:
            return
        if self._unsent:
            piece, self._unsent = self._unsent[: self.SLICE_BYTES], self._unsent[self.SLICE_BYTES :]
            self._write([piece])
        self._written()

    def _written(self) -> None:
        exchange = self._exchange
        if self._is_full or exchange is None or exchange.is_sent:
            return  # if it is full, `resume_writing` will be called
        if self._unsent:
            asyncio.get_running_loop().call_soon(self._send_on)
        else:
            self._unsent = _NOTHING  # even an empty view keeps the body alive
            exchange.sent()

    def _write(self, parts: list[bytes | memoryview]) -> None:
        self._transport.writelines(parts)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class
        self._transport.set_write_buffer_limits(high=0)  # full as soon as the operating system has not taken everything
        self._is_open = True
        self._owner.opened(self)
        if self._is_unwanted:
            self._transport.abort()

    def data_received(self, data: bytes | memoryview) -> None:
        """Bytes of HTTP."""
        if self._exchange is None:
            self.abort()  # there was no request
        else:
            self._exchange.received(data)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._send_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_open = False
        self._unsent = _NOTHING
        self._owner.closed(self)
        if self._exchange is not None:
            self._exchange.ended(error)
