"""Renders the text that Prometheus scrapes, in pieces: with a thousand accounts the whole takes a quarter of a second, and no
stream may wait that long.

It does not use a thread: that would take the interpreter away from the event loop for five milliseconds at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

REST = 10
"""The pause after a rendering, as a multiple of its duration. So scrapes take at most a tenth of all time."""
MOST_REST_SECONDS = 1.0


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def pieces(collectors: Collector) -> Iterator[bytes]:
    """One piece per family, or per part if a family is collected in parts. Parts of a family are consecutive."""
    last = ""
    for metric in collectors.collect():
        text = generate_latest(_One(metric))
        if metric.name == last:  # HELP and TYPE are already written
            text = text.split(b"\n", 2)[2]
        last = metric.name
        yield text


class Exposition:
    """Renders once at a time, and concurrent scrapes share the result. Other tasks run between two pieces."""

    def __init__(self, render: Callable[[], Iterator[bytes]]) -> None:
        self._render = render
        self._rendering: asyncio.Task[bytes] | None = None
        self._not_before = 0.0

    async def text(self) -> bytes:
        """The text, no older than this call unless a rendering was already under way."""
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._rendered())
        # A scraper may disconnect, but the others still need the result.
        return await asyncio.shield(self._rendering)

    async def _rendered(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._not_before - loop.time())
            began = loop.time()
            parts = []
            for part in self._render():
                parts.append(part)
                await asyncio.sleep(0)
            self._not_before = loop.time() + min(REST * (loop.time() - began), MOST_REST_SECONDS)
            return b"".join(parts)
        finally:
            self._rendering = None
