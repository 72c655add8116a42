"""The text that Prometheus scrapes, rendered in pieces: with a thousand accounts all of it takes a quarter of a second, and
no stream may wait for that long.

Not in a thread of its own: that would take the interpreter from the event loop for five milliseconds at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

REST = 10
"""How many times as long as a rendering took there is none, so that scrapes take a tenth of the time there is at the most."""
MOST_REST_SECONDS = 1.0


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def pieces(collectors: Collector) -> Iterator[bytes]:
    """A piece for each family, and for each part of one that is collected in parts: they come one after the other."""
    last = ""
    for metric in collectors.collect():
        text = generate_latest(_One(metric))
        if metric.name == last:  # HELP and TYPE have been said
            text = text.split(b"\n", 2)[2]
        last = metric.name
        yield text


class Exposition:
    """One rendering at a time, which all who ask meanwhile share; between two pieces everything else has its turn."""

    def __init__(self, render: Callable[[], Iterator[bytes]]) -> None:
        self._render = render
        self._rendering: asyncio.Task[bytes] | None = None
        self._not_before = 0.0

    async def text(self) -> bytes:
        """No older than this call, but for a rendering that was under way."""
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._rendered())
        # Whoever asks may leave: the others want it still.
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
