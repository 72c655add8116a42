"""The upstream's answer as its user sees it: the head, and the body as it arrives.

It belongs to one request and dies when it is released. A later read returns nothing, and never another request's bytes.
`exchange.py` turns the bytes on the wire into an answer.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from oauth_pool_proxy.errors import StreamBroken
from oauth_pool_proxy.upstream.headers import Headers

HIGH_WATER = 256 * 1024
"""With this much unread, reading from the upstream stops, so a slow client costs no memory."""


class Write(Protocol):
    """Takes a piece of a body. The last one may be empty. False: no more for now."""

    def __call__(self, data: bytes, is_last: bool, /) -> bool: ...


class Line(Protocol):
    """The connection that an answer arrives on."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...
    def released(self, *, can_be_kept: bool) -> None: ...


class Answer(ABC):
    """The head now, the body as it arrives. Its owner calls `release`. Calling it again does nothing."""

    __slots__ = (
        "_chunks",
        "_clock",
        "_error",
        "_is_complete",
        "_is_paused",
        "_line",
        "_quiet_since",
        "_unread",
        "_waiter",
        "_write",
        "fields",
        "headers",
        "is_event_stream",
        "status",
    )

    def __init__(self, line: Line, clock: Callable[[], float]) -> None:
        self._line: Line | None = line
        self._clock = clock
        self.status = 0
        self.headers: Headers = []
        self.fields: dict[bytes, bytes] = {}
        """The headers by lower-case name. If a name occurs on several lines, the last one counts."""
        self.is_event_stream = False
        self._chunks: list[bytes] = []
        self._unread = 0
        self._is_complete = False
        self._is_paused = False
        self._error: Exception | None = None
        self._write: Write | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._quiet_since = clock()
        """When the upstream last showed a sign of life: it sent or took bytes."""

    def forget_head(self) -> None:
        """Free the head: it is no longer needed."""
        self.headers, self.fields = [], {}

    @property
    def is_at_end(self) -> bool:
        """Whether everything has arrived and been read."""
        return self._is_complete and not self._chunks

    async def read(self) -> bytes:
        """What has arrived since the last read. Waits if that is nothing. Empty at the end; raises `StreamBroken` before it."""
        while not self._chunks:
            if self._is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.read_now()

    def read_now(self) -> bytes:
        """What has arrived since the last read. Does not wait."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._unread = 0
        self.resume()
        return data

    async def pump(self, write: Write) -> None:
        """Pass everything to `write` the moment it arrives, up to the end. Raises `StreamBroken` before it.

        If `write` returns False, reading from the upstream stops until `resume` is called.
        """
        self._write = write
        try:
            self._hand_over()
            while not self._is_complete:
                if self._error is not None:
                    self._hand_over()  # what came before the failure
                    raise self._error
                await self._wait()
        finally:
            self._write = None

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._quiet_since = self._clock()  # the proxy caused the silence
            if self._line:
                self._line.resume_reading()

    def release(self) -> None:
        """Keep the connection if the answer is complete. Abort it if not: there is no telling what would come next."""
        if self._line is None:
            return
        self.resume()
        self._chunks.clear()
        self._write = None
        if not self._is_complete and self._error is None:
            self._error = StreamBroken("The answer was released before its end", error_type="connection")
            self._wake()
        line, self._line = self._line, None
        line.released(can_be_kept=self._can_be_kept())

    @abstractmethod
    def _can_be_kept(self) -> bool:
        """Whether another request may follow on the connection."""

    def _hand_over(self) -> None:
        """Write everything that one read brought, in one piece."""
        chunks, write, is_last = self._chunks, self._write, self._is_complete
        if write is None or not (chunks or is_last):
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._unread = 0
        if is_last:
            self._write = None
        if not write(data, is_last):
            self._pause()

    def _pause(self) -> None:
        if not self._is_paused and self._line:
            self._is_paused = True
            self._line.pause_reading()

    async def _wait(self) -> None:
        """Wait until something happens: the head, bytes, the end, or a failure."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
