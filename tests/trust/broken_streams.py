"""Streams that break off at some byte, in every way that there is, and whether anybody could take one for whole."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

import anthropic

from tests.e2e import typescript_sdk
from tests.e2e.gateway import DUMMY_KEY, Mode
from tests.e2e.questions import asking
from tests.support.proxy_server import RawAnswer

from .load import post
from .planned_upstream import WIRE, WITHOUT_STOP, Cut, planned_upstream
from .program import Report, Say
from .proxies import Proxies
from .proxy_process import ProxyProcess

MODES: tuple[Mode, ...] = ("passthrough", "pool")
AT_ONCE = 40
PATIENCE_SECONDS = 1
"""Of the proxies, with an upstream that has fallen silent."""


@dataclass
class Way:
    """To the upstream: how it is spoken to, and in which mode."""

    name: str
    proxy: ProxyProcess
    sdk: anthropic.AsyncAnthropic
    counts: Counter[str] = field(default_factory=Counter)
    key: str = DUMMY_KEY

    @property
    def url(self) -> str:
        return self.proxy.url


async def break_streams(proxies: Proxies, report: Report, count: int, random: Random, say: Say) -> None:
    """So many streams in all, each read by a raw client and by the SDK; one row for each way and kind."""
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(planned_upstream())
        secure = await stack.enter_async_context(planned_upstream(proxies.folder))
        trust = f'upstream_ca_file = "{proxies.folder / "ca.crt"}"'
        ways: list[Way] = []
        for mode, (name, upstream, more) in itertools.product(
            MODES, (("plain", plain, ""), ("TLS", secure, f"\n{trust}"))
        ):
            settings = f"idle_timeout_secs = {PATIENCE_SECONDS}\ntimeout_secs = {PATIENCE_SECONDS}{more}"
            proxy = await asyncio.to_thread(proxies.start, mode, upstream.url, settings)
            sdk = anthropic.AsyncAnthropic(base_url=proxy.url, api_key=DUMMY_KEY, max_retries=0, timeout=30)
            ways.append(Way(f"{mode}, {name}", proxy, await stack.enter_async_context(sdk)))
        await _whole_ones_look_whole(ways, report)
        await _break_all(ways, list(_plans(count, random)), report, say)
        if typescript_sdk.is_there():
            await asyncio.to_thread(_break_for_typescript, ways, list(_plans(count // 8, random)), report)
        for way in ways:
            await asyncio.to_thread(way.proxy.stop)


def _plans(count: int, random: Random) -> Iterator[tuple[Cut, int]]:
    for number in range(count):
        kind = list(Cut)[number % len(Cut)]
        yield kind, WITHOUT_STOP if kind is Cut.NO_STOP else random.randrange(len(WIRE))


async def _whole_ones_look_whole(ways: Sequence[Way], report: Report) -> None:
    """Else nothing that follows would mean anything."""
    for way in ways:
        if not _looks_whole(await post(way.proxy.port, asking("well", stream=True))):
            report.failures.append(f"{way.name}: a whole stream does not look whole to a raw client")
        if (trouble := await _sdk_raises(way, "well")) is None:
            continue
        report.failures.append(f"{way.name}: a whole stream does not look whole to the SDK: {trouble}")


async def _break_all(ways: Sequence[Way], plans: Sequence[tuple[Cut, int]], report: Report, say: Say) -> None:
    gate, done = asyncio.Semaphore(AT_ONCE), 0

    async def one(way: Way, kind: Cut, at: int) -> None:
        nonlocal done
        async with gate:
            plan = f"cut {kind} {at}"
            answer = await post(way.proxy.port, asking(plan, stream=True))
            trouble = await _sdk_raises(way, plan)
        way.counts[kind] += 1
        if _looks_whole(answer):
            report.failures.append(f"{way.name}: {plan} of {len(WIRE)} looks whole to a raw client")
        if trouble is None:
            report.failures.append(f"{way.name}: {plan} of {len(WIRE)} looks whole to the SDK")
        done += 1
        if done % 200 == 0:
            say(f"{done} of {len(plans)} streams broken")

    async with asyncio.TaskGroup() as group:
        for number, (kind, at) in enumerate(plans):
            # each kind by each way
            group.create_task(one(ways[number // len(Cut) % len(ways)], kind, at))
    for way in ways:
        for kind in Cut:
            wrong = sum(failure.startswith(f"{way.name}: cut {kind} ") for failure in report.failures)
            report.rows.append((f"stream {kind}: {way.name}", way.counts[kind], wrong, _words(wrong)))


def _break_for_typescript(ways: Sequence[Way], plans: Sequence[tuple[Cut, int]], report: Report) -> None:
    """One after the other, by the other official SDK."""
    wrong = 0
    with typescript_sdk.running_typescript_sdk(is_quiet=True) as sdk:
        for way in ways:
            if "error" in (played := sdk.play("stream", way, **asking("well"))):
                report.failures.append(
                    f"{way.name}: a whole stream does not look whole to the TypeScript SDK: {played}"
                )
        for number, (kind, at) in enumerate(plans):
            way = ways[number // len(Cut) % len(ways)]
            if "error" not in sdk.play("stream", way, **asking(f"cut {kind} {at}")):
                wrong += 1
                report.failures.append(f"{way.name}: cut {kind} {at} of {len(WIRE)} looks whole to the TypeScript SDK")
    report.rows.append(("streams for the TypeScript SDK", len(plans), wrong, _words(wrong)))


def _words(wrong: int) -> str:
    return "looked whole to somebody" if wrong else "looked whole to nobody"


def _looks_whole(answer: RawAnswer) -> bool:
    """By HTTP: a good status, and the end that the framing asks for."""
    return answer.status == 200 and answer.is_complete


async def _sdk_raises(way: Way, text: str) -> str | None:
    """What the SDK's user gets instead of a message; None for a message."""
    try:
        async with way.sdk.messages.stream(**asking(text)) as stream:
            async for _ in stream:
                pass
            await stream.get_final_message()
    except Exception as error:  # noqa: BLE001 (of the SDK, of its HTTP library, or an assert: no message)
        return type(error).__name__
    return None
