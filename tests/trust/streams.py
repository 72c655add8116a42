"""Answers that break off, clients that leave, and clients that are slow."""

import asyncio
from random import Random

from .broken_streams import break_streams
from .leaving_clients import let_leave
from .program import Program, Report, Say
from .proxies import running_proxies
from .slow_clients import be_slow

PROMISE = (
    "A stream that breaks off looks whole to nobody; a client that leaves leaves nothing behind; "
    "slow clients cost the others nothing."
)
SEED = 20261128


def run(short: bool, say: Say) -> Report:
    report, random = Report(("what", "tried", "broken", "measured")), Random(SEED)

    async def all_of_it() -> None:
        with running_proxies() as proxies:
            await break_streams(proxies, report, 96 if short else 1000, random, say)
            await let_leave(proxies, report, 300 if short else 10_000, random, say)
            if short:
                await be_slow(proxies, report, idle=200, slow=10, rounds=1, seconds=2, rate=50, say=say)
            else:
                await be_slow(proxies, report, idle=5000, slow=50, rounds=6, seconds=15, rate=100, say=say)

    asyncio.run(all_of_it())
    return report


PROGRAM = Program("streams", PROMISE, run, minutes=15)
