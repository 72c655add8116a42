"""The downstream side of one request: its body, and whether it is still there."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive

from oauth_pool_proxy.errors import ClientGone, InvalidRequest

READ_AHEAD = 64 * 1024
"""How much of a body is read for a request that still waits for its slot: what the server has buffered anyway."""


def announced_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """The length of the body as its head announces it; none for a body that comes in chunks."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value)  # the parser has let nothing but digits through
    return length


class Client:
    """`most_bytes` is the limit for the body, whether it is announced or not; `timeout` is for each piece of it."""

    def __init__(self, receive: Receive, announced: int | None, most_bytes: int, timeout: float) -> None:
        self._receive, self._announced, self._most_bytes, self._timeout = receive, announced, most_bytes, timeout
        self._parts: list[bytes] = []
        self._size = 0
        self._is_complete = False
        self._is_gone = False

    async def body(self) -> bytes:
        """The whole body, or `InvalidRequest` as soon as it is too long or too slow, or `ClientGone`."""
        if self._announced == 0:
            return b""
        if not self._is_complete and not self._is_too_long:
            try:
                await self._rest_of_body()
            except TimeoutError:
                message = f"The request body did not arrive: nothing came for {self._timeout:g} s"
                raise InvalidRequest(message) from None
        if self._is_too_long:
            raise InvalidRequest(f"The request body is longer than {self._most_bytes} bytes")
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

    async def _rest_of_body(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeout) as limit:
            while not self._is_complete and not self._is_too_long:
                await self._take()
                if self._is_gone:
                    raise ClientGone
                limit.reschedule(loop.time() + self._timeout)

    @property
    def _is_too_long(self) -> bool:
        return max(self._size, self._announced or 0) > self._most_bytes

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Run the block only as long as the client is there: `ClientGone` is raised in it the moment it leaves.

        The server tells of it through `receive` alone, so somebody has to wait there. Body bytes that come meanwhile are
        kept, up to `READ_AHEAD`; with more than that unread, a client that leaves is noticed only later.
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
            if not self._is_complete and (self._size > READ_AHEAD or self._is_too_long):
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
