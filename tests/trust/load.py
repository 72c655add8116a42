"""Clients that ask all the time, at a pace, and notice every answer that is not whole."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.e2e.questions import asking
from tests.support.proxy_server import RawAnswer, RawClient

MOST_TOLD = 5
MOST_SECONDS_BEHIND = 2.0


@dataclass
class Seen:
    """`failures` has a text for the first few of `failed`."""

    requests: int = 0
    streams: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=200_000))
    """When a request was sent (monotonic), and how long its answer took."""

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.failures) < MOST_TOLD:
            self.failures.append(what)


class Load:
    """`rate` requests a second, short streams if `is_streamed`, and beside them `streams` long ones at any time.

    They go in turn to each of the ports that `ports` names at that moment.
    """

    def __init__(
        self,
        ports: Callable[[], Sequence[int]],
        *,
        rate: float,
        is_streamed: bool = False,
        streams: int = 0,
        words: int = 12,
    ) -> None:
        self.seen = Seen()
        self._is_streamed = is_streamed
        self._ports, self._rate, self._streams, self._words = ports, rate, streams, words
        self._number = 0
        self._may_end = False
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Seen]:
        """For as long as the block lasts; what is under way then is waited for, and is still counted."""
        began = time.monotonic()
        tasks = [asyncio.create_task(self._pace(began))] if self._rate else []
        tasks += [asyncio.create_task(self._stream_on(index)) for index in range(self._streams)]
        try:
            yield self.seen
        finally:
            self._may_end = True
            await asyncio.gather(*tasks)
            await asyncio.gather(*self._ending)

    async def _pace(self, began: float) -> None:
        sent = 0
        while not self._may_end:
            # On a machine that is too slow for the rate, requests must not heap up until all of them are late.
            while len(self._ending) > MOST_SECONDS_BEHIND * self._rate:
                await asyncio.sleep(0.05)
                began, sent = time.monotonic(), 0
            task = asyncio.create_task(self._request())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            sent += 1
            await asyncio.sleep(began + sent / self._rate - time.monotonic())

    async def _request(self) -> None:
        began = time.monotonic()
        if await self._ask(is_streamed=self._is_streamed, words=3):
            self.seen.requests += 1
            self.seen.seconds.append((began, time.monotonic() - began))

    async def _stream_on(self, index: int) -> None:
        """One stream after the other; they begin apart."""
        await asyncio.sleep(index * 0.02)
        while not self._may_end:
            if await self._ask(is_streamed=True, words=self._words):
                self.seen.streams += 1
            else:
                await asyncio.sleep(0.1)

    async def _ask(self, *, is_streamed: bool, words: int) -> bool:
        self._number += 1
        ports = self._ports()
        port, number = ports[self._number % len(ports)], self._number
        text = " ".join([f"q{number}", *["word"] * words])
        try:
            answer = await post(port, asking(text, stream=is_streamed))
        except (OSError, EOFError, TimeoutError) as error:
            self.seen.fail(f"request {number} to port {port}: {type(error).__name__} {error}")
            return False
        if not is_whole(answer, is_streamed=is_streamed):
            self.seen.fail(f"request {number} to port {port}: {answer.status} {answer.body[-300:]!r}")
            return False
        return True


async def post(port: int, document: object, headers: str = "") -> RawAnswer:
    """One request on a connection of its own, and whatever of its answer comes."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))
    try:
        headers += "content-type: application/json\r\nconnection: close\r\n"
        await client.request("POST", "/v1/messages", headers, json.dumps(document).encode())
        return await client.answer()
    finally:
        client.abort()


def is_whole(answer: RawAnswer, *, is_streamed: bool) -> bool:
    """A good answer to its very end, by HTTP and by the API's own marks."""
    if not answer.is_complete or answer.status != 200:
        return False
    if is_streamed:
        return b"event: message_stop\n" in answer.body and b"event: error\n" not in answer.body
    return answer.body.endswith(b"}")


def p99(seconds: Sequence[float]) -> float:
    """0 for none."""
    ordered = sorted(seconds)
    return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0
