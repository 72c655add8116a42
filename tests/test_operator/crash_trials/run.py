"""Several rigs at once, each struck again and again, until there were trials enough or something was wrong."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from random import Random

from tests.support.control_plane import ControlPlane

from .faults import VARIANTS, Variant
from .report import Outcome
from .rig import Rig
from .strike import Striker


async def run(
    plane: ControlPlane,
    *,
    trials: int,
    seed: int,
    rigs: int = 3,
    accounts: int = 24,
    variants: tuple[Variant, ...] = VARIANTS,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """So many trials or more, of every variant. Ends early when an account fails: others may suffer from the same."""
    outcome, random, began = Outcome(seed), Random(seed), time.monotonic()
    deck = _deck(variants, Random(random.random()))

    async def strike_one(number: int, own: Random) -> None:
        rig = Rig(plane, accounts, own)
        async with rig.running():
            striker = Striker(rig)
            say(f"rig {number}: {accounts} accounts are logged in after {time.monotonic() - began:.0f} s")
            while not outcome.failures and (len(outcome.trials) < trials or outcome.strikes < len(variants)):
                outcome.strikes += 1
                outcome.trials += await striker.strike(next(deck))
                outcome.failures += _failures(rig)
                say(f"rig {number}: {len(outcome.trials)} of {trials} trials, {time.monotonic() - began:.0f} s")
            outcome.kills += rig.kills

    async with asyncio.TaskGroup() as group:
        for number in range(rigs):
            group.create_task(strike_one(number, Random(random.random())))
    outcome.seconds = time.monotonic() - began
    return outcome


def _deck(variants: tuple[Variant, ...], random: Random) -> Iterator[Variant]:
    """All variants in some order, then all in another."""
    for _ in itertools.count():
        yield from random.sample(variants, len(variants))


def _failures(rig: Rig) -> list[str]:
    """Each account with which something is wrong, with its history and what its operator said of it."""
    texts = []
    for account in dict.fromkeys(account for account, _ in rig.complaints):
        wrong = "\n".join(f"  {text}" for found, text in rig.complaints if found is account)
        history = "\n".join(f"  {line}" for line in account.history)
        lines = "\n".join(f"  {line}" for line in rig.lines if f'"{account.name}: ' in line)
        texts.append(f"{account.name}:\n{wrong}\nits history:\n{history}\nits operator's lines:\n{lines}")
    return texts
