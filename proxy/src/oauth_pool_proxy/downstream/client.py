"""The downstream side of one request: its body, whether the client is still there, and the answer to it.

`Client` is what `forward.py` and `relay.py` know of it. `AsgiClient` speaks plain ASGI, which works behind every server;
behind our own (`http_protocol.py`), `TransportClient` does the same without the detours.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress

from starlette.types import Receive, Scope, Send

from oauth_pool_proxy.errors import ClientGone, InvalidRequest
from oauth_pool_proxy.upstream.upstream import Answer, Headers

READ_AHEAD = 64 * 1024
"""How much of a body is read for a request that still waits for its slot."""
FAREWELL_SECONDS = 0.2
"""How long a client may take for the error event. One that does not read gets none."""

Tap = Callable[[bytes], None]
"""Sees each piece of a body before it is sent."""


class Client(ABC):
    @abstractmethod
    async def body(self, most_bytes: int, timeout: float) -> bytes:
        """The whole body. `InvalidRequest` as soon as it is longer than that, or nothing of it came for `timeout` seconds;
        `ClientGone` if the client leaves."""

    @abstractmethod
    def watched(self) -> AbstractContextManager[None]:
        """Run the block only as long as the client is there: `ClientGone` is raised in it the moment it leaves."""

    @abstractmethod
    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""

    @abstractmethod
    async def start(self, status: int, headers: Headers, body: bytes) -> None:
        """The head of an answer, and what there is of its body."""

    @abstractmethod
    async def pump(self, answer: Answer, tap: Tap) -> None:
        """The rest of a started answer as it arrives, and its end. `StreamBroken` when the upstream does not get there."""

    @abstractmethod
    async def last_words(self, words: bytes) -> None:
        """Bytes at the end of an answer that will not be completed, if the client takes them at once."""

    def break_off(self) -> None:  # noqa: B027  # not every client needs more than what the server does
        """Called before the connection is closed in mid-answer."""


class AsgiClient(Client):
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._announced = announced_length(dict(scope["headers"]))
        self._parts: list[bytes] = []
        self._size = 0
        self._is_complete = False
        self._is_gone = False

    async def body(self, most_bytes: int, timeout: float) -> bytes:
        if self._announced == 0:
            return b""
        if not self._is_complete and not self._is_longer_than(most_bytes):
            try:
                await self._rest_of_body(most_bytes, timeout)
            except TimeoutError:
                raise body_is_late(timeout) from None
        if self._is_longer_than(most_bytes):
            raise body_is_too_long(most_bytes)
        return b"".join(self._parts)

    async def _rest_of_body(self, most_bytes: int, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout) as limit:
            while not self._is_complete and not self._is_longer_than(most_bytes):
                await self._take()
                if self._is_gone:
                    raise ClientGone
                limit.reschedule(loop.time() + timeout)

    def _is_longer_than(self, most_bytes: int) -> bool:
        return max(self._size, self._announced or 0) > most_bytes

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The server tells of a client that leaves through `receive` alone, so somebody has to wait there. Body bytes that
        come meanwhile are kept, up to `READ_AHEAD`; with more than that unread, a client that leaves is noticed later.
        """
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._watch(task))
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_gone:
                raise
            task.uncancel()
            raise ClientGone from None
        finally:
            watcher.cancel()

    async def _watch(self, task: asyncio.Task[object]) -> None:
        while not self._is_gone:
            if not self._is_complete and self._size > READ_AHEAD:
                return
            await self._take()
        task.cancel()

    async def _take(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_gone = True
        elif not self._is_complete:
            if part := message.get("body", b""):
                self._parts.append(part)
                self._size += len(part)
            self._is_complete = not message.get("more_body", False)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers, body: bytes) -> None:
        self._parts.clear()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def pump(self, answer: Answer, tap: Tap) -> None:
        is_at_end = False
        while not is_at_end:
            chunk = await answer.read()
            is_at_end = answer.is_at_end
            tap(chunk)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": not is_at_end})

    async def last_words(self, words: bytes) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._send({"type": "http.response.body", "body": words, "more_body": True})


def announced_length(fields: Mapping[bytes, bytes]) -> int | None:
    """The length of the body as its head announces it; none for a body that comes in chunks."""
    if b"transfer-encoding" in fields:
        return None
    return int(fields.get(b"content-length", 0))  # the parser has let nothing but digits through


def body_is_too_long(most_bytes: int) -> InvalidRequest:
    return InvalidRequest(f"The request body is longer than {most_bytes} bytes")


def body_is_late(timeout: float) -> InvalidRequest:
    return InvalidRequest(f"The request body did not arrive: nothing came for {timeout:g} s")
