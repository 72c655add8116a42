"""Clients that leave at random instants, and what is left of them in the proxy: nothing."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from random import Random

from tests.e2e.questions import asking

from .planned_upstream import PlannedUpstream, planned_upstream
from .program import Report, Say
from .proxies import Proxies
from .proxy_process import ProxyProcess, descriptors, rss_mib

PHASES = ("before", "head", "body", "waiting", "streaming")
AT_ONCE = 200
PLACES = 40
"""At the proxy; the others wait in line."""
SETTLE_SECONDS = 30.0
MOST_GROWTH_MIB = 5.0
GAUGES = ("proxy_requests_in_flight", "proxy_requests_queued", "pool_account_in_flight")


@dataclass
class Left:
    """What a proxy holds when nobody asks it anything."""

    gauges: dict[str, float]
    descriptors: int
    """Without those of connections to the upstream."""
    rss: float
    noticed: dict[str, int]
    """Clients that left, by the phase in which the proxy saw it."""


async def let_leave(proxies: Proxies, report: Report, count: int, random: Random, say: Say) -> None:
    """So many clients, after half as many to warm up; a row, and one for each phase."""
    async with planned_upstream() as upstream:
        proxy = await asyncio.to_thread(proxies.start, "pool", upstream.url, f"max_connections = {PLACES}")
        await _leave(proxy, count // 2, random)
        looks = [await _settled(proxy, upstream)]
        for half in (1, 2):
            await _leave(proxy, count // 2, random)
            looks.append(await _settled(proxy, upstream, most=looks[0].descriptors))
            say(f"{half * count // 2} of {count} clients have left")
        _judge(looks, report, count)
        await asyncio.to_thread(proxy.stop)


def _judge(looks: list[Left], report: Report, count: int) -> None:
    warm, middle, end = looks
    failures = [f"after clients left: {name} is {value:g}" for name, value in end.gauges.items() if value]
    if end.descriptors > warm.descriptors:
        failures.append(f"after clients left: {end.descriptors} open descriptors, {warm.descriptors} before")
    if missing := {"queued", "body", "waiting", "answering"} - {phase for phase, times in end.noticed.items() if times}:
        failures.append(f"no client was seen to leave while {', '.join(sorted(missing))}: the trial shows nothing")
    growth = end.rss - middle.rss
    if growth > MOST_GROWTH_MIB:
        failures.append(f"after clients left: RSS grew by {growth:.1f} MiB in the second half")
    report.failures += failures
    measured = f"descriptors {warm.descriptors} -> {end.descriptors}, RSS {growth:+.1f} MiB in the second half"
    report.rows.append(("clients that left", count, len(failures), measured))
    report.rows += [(f"... of them, {phase}", times, "", "") for phase, times in sorted(end.noticed.items())]


async def _settled(proxy: ProxyProcess, upstream: PlannedUpstream, most: int | None = None) -> Left:
    """As soon as nothing is under way and no more than `most` descriptors are open, or when there was time enough for that."""
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while True:
        samples = await asyncio.to_thread(proxy.metrics)
        gauges = {name: value for name, value in samples.items() if name.partition("{")[0] in GAUGES}
        to_upstream = samples["proxy_upstream_connections_open"]
        gauges["connections that wait upstream"] = to_upstream - samples["proxy_upstream_connections_idle"]
        gauges["connections that the upstream has more than the proxy"] = upstream.open - to_upstream
        counter, pid = "proxy_client_disconnects_total", proxy.process.pid
        noticed = {name.split('"')[1]: int(value) for name, value in samples.items() if name.startswith(counter)}
        left = Left(gauges, descriptors(pid) - int(to_upstream), rss_mib(pid), noticed)
        is_settled = not any(gauges.values()) and (most is None or left.descriptors <= most)
        if is_settled or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(0.2)


async def _leave(proxy: ProxyProcess, count: int, random: Random) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, own: Random) -> None:
        async with gate:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await _come_and_leave(proxy, PHASES[number % len(PHASES)], own)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number, Random(random.random())))


async def _come_and_leave(proxy: ProxyProcess, phase: str, random: Random) -> None:
    """In the middle of that phase; half of them close, half reset the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        body = json.dumps(asking("drip" if phase == "streaming" else "wait", stream=True)).encode()
        length = f"content-length: {len(body)}\r\n"
        head = f"POST /v1/messages HTTP/1.1\r\nhost: proxy\r\ncontent-type: application/json\r\n{length}\r\n".encode()
        if phase == "before":
            return
        if phase == "head":
            writer.write(head[: random.randrange(1, len(head))])
        elif phase == "body":
            writer.write(head + body[: random.randrange(len(body))])
        else:
            writer.write(head + body)
        if phase == "streaming":
            async with asyncio.timeout(2):  # in line behind others that stream it may not come to its turn
                await reader.readuntil(b"content_block_delta")
        await asyncio.sleep(random.uniform(0, 0.05))
    finally:
        if random.random() < 0.5:
            writer.transport.abort()
        writer.close()
