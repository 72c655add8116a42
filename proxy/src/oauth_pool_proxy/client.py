"""The downstream side of one request: its body, and whether it is still there."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive

from oauth_pool_proxy.errors import ClientGone, InvalidRequest

READ_AHEAD = 64 * 1024
"""How much of a body is read for a request that still waits for its slot: what the server has buffered anyway."""


class Client:
    """`most_bytes` is the limit for the body, whether the client announces its length or not."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive, self._most_bytes = receive, most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._is_complete = False
        self._is_gone = False

    async def body(self) -> bytes:
        """The whole body, or `InvalidRequest` as soon as it is too long, or `ClientGone`."""
        while not self._is_complete and self._size <= self._most_bytes:
            await self._take()
            if self._is_gone:
                raise ClientGone
        if self._size > self._most_bytes:
            raise InvalidRequest(f"The request body is longer than {self._most_bytes} bytes")
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

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
            if not self._is_complete and self._size > min(READ_AHEAD, self._most_bytes):
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
