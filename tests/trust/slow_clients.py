"""Thousands of connections on which nothing or little happens, and what the other clients notice of them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.e2e.questions import asking

from .load import Load, p99
from .planned_upstream import planned_upstream
from .program import Report, Say
from .proxies import Proxies
from .proxy_process import ProxyProcess, descriptors

MOST_SLOWER = 1.1
TELLING_SECONDS = 0.001
"""A difference of less is that of the machine's own moods."""
CONNECT_AT_ONCE = 200
HEAD = "POST /v1/messages HTTP/1.1\r\nhost: proxy\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


async def be_slow(
    proxies: Proxies, report: Report, *, idle: int, slow: int, rounds: int, seconds: float, rate: float, say: Say
) -> None:
    """`idle` connections, a quarter of which have sent half a head, and `slow` each that read and that write slowly.

    Rounds with and without them take turns. No round at all judges times when there is only one.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    failed = 0
    async with planned_upstream() as upstream:
        proxy = await asyncio.to_thread(proxies.start, "pool", upstream.url)
        for number in range(rounds):
            for with_slow in (False, True):
                async with AsyncExitStack() as stack:
                    if with_slow:
                        await stack.enter_async_context(_slow_ones(proxy, idle=idle, slow=slow))
                    load = Load(lambda: [proxy.port], rate=rate)
                    async with load.running() as seen:
                        await asyncio.sleep(seconds)
                times[with_slow] += [took for _, took in seen.seconds]
                failed += seen.failed
                report.failures += seen.failures
            say(
                f"round {number + 1} of {rounds}: p99 {_ms(times[False])} without, {_ms(times[True])} with slow clients"
            )
        await asyncio.to_thread(proxy.stop)
    without, with_them = p99(times[False]), p99(times[True])
    is_slower = with_them > max(without * MOST_SLOWER, without + TELLING_SECONDS)
    if rounds > 1 and is_slower:
        report.failures.append(f"beside slow clients p99 is {with_them * 1000:.1f} ms, without {without * 1000:.1f} ms")
    name = f"others beside {idle} idle, {2 * slow} slow clients"
    measured = f"p99 {_ms(times[False])} without, {_ms(times[True])} with"
    report.rows.append((name, len(times[True]), failed, measured))


def _ms(seconds: list[float]) -> str:
    return f"{p99(seconds) * 1000:.1f} ms"


@asynccontextmanager
async def _slow_ones(proxy: ProxyProcess, *, idle: int, slow: int) -> AsyncIterator[None]:
    """All of them are there when the block begins, and gone when it has ended."""
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[None]] = []
    gate = asyncio.Semaphore(CONNECT_AT_ONCE)

    async def connect(number: int) -> None:
        async with gate:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=4096)
            writers.append(writer)
            if number % 4 == 0:
                writer.write(HEAD.format(100).encode()[: 20 + number % 40])

    try:
        await asyncio.gather(*(connect(number) for number in range(idle)))
        tasks += [asyncio.create_task(_read_slowly(proxy)) for _ in range(slow)]
        tasks += [asyncio.create_task(_write_slowly(proxy)) for _ in range(slow)]
        await asyncio.sleep(1)
        assert descriptors(proxy.process.pid) >= idle + 2 * slow, "the proxy has closed connections: nothing is shown"
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()


async def _read_slowly(proxy: ProxyProcess) -> None:
    """A large answer, a little of it at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=4096)
    with contextlib.closing(writer):
        body = json.dumps(asking("big")).encode()
        writer.write(HEAD.format(len(body)).encode() + body)
        while await reader.read(1024):  # noqa: ASYNC110 (not waiting for anything, but slow)
            await asyncio.sleep(0.2)


async def _write_slowly(proxy: ProxyProcess) -> None:
    """A byte of the body at a time."""
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with contextlib.closing(writer):
        writer.write(HEAD.format(10_000).encode())
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.2)
