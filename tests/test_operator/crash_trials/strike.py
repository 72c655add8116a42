"""One strike: rotations of many accounts are set off, something goes wrong, the operator is killed, and comes back."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .evidence import Phase, Seen, phase_of
from .faults import Fault, Variant
from .provider import GRACE_SECONDS
from .rig import Rig
from .verdict import Account, at_the_end, requests_in_order

# What a kill aims at; None is any instant. Some are over in a millisecond and would be hit too seldom by chance.
AIMS = (None, None, Phase.RESERVED, Phase.ASKED, Phase.ANSWERED, Phase.STORED, Phase.ACCESS, Phase.INDEX)
# The first of so many accounts that gets there decides: with all of them, the others would hardly have begun.
MARKS = 4
# A phase that does not come, because of the fault, is waited for no longer than this.
AIM_SECONDS = 1.5
# How long a second kill waits for the operator to be at work again.
START_SECONDS = 10.0
# Reports that are made at the same time: more, and all rotations would go in step.
REPORTS_AT_ONCE = 4


@dataclass(eq=False)
class Trial:
    """One account whose rotation was under way or due when a kill fell."""

    variant: str
    has_grace: bool
    phase: Phase
    account: Account
    seconds: float  # from the first report (or the restart before a second kill) to the kill
    needs_login: bool = False


class Striker:
    """Strikes one rig, again and again."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._random = rig.random
        self._before: dict[Account, Seen] = {}

    async def strike(self, variant: Variant) -> list[Trial]:
        """Returns when every account has been judged; complaints are the rig's."""
        rig, began = self._rig, time.time()
        rig.provider.forget_requests()
        if not (chosen := await self._choose()):
            return []
        for account in chosen:
            self._prepare(account, variant)
        fault = variant.fault(rig)
        trials = await self._set_off_and_kill(chosen, fault, variant)
        if self._random.random() < 0.4 and self._is_work_left(chosen):
            await self._aim(chosen, rig.life_began, START_SECONDS)
            trials += await self._kill(chosen, variant, rig.life_began)
            rig.start()
        for account in chosen:
            rig.provider.behave(account.subject, rotation_grace=GRACE_SECONDS * account.has_grace, **_harsh(account))
        await self._judge(chosen, trials, began)
        return trials

    async def _choose(self) -> list[Account]:
        """All accounts, in some order, once they have come to rest."""
        rig = self._rig
        return self._random.sample(rig.accounts, len(rig.accounts)) if await rig.settle() else []

    def _prepare(self, account: Account, variant: Variant) -> None:
        account.has_grace = self._random.random() < 0.5
        account.unsaved.clear()
        state = self._rig.look(account).state
        assert state is not None
        account.presented_at_least = state.number
        account.note(f"{variant.name}, {'with' if account.has_grace else 'without'} grace, from {state}")
        # some tokens are as good as expired when they come: the next life has to refresh them at once
        switches = {"expires_in": 2} if self._random.random() < 0.3 else {}
        self._rig.provider.behave(
            account.subject,
            rotation_grace=GRACE_SECONDS * account.has_grace,
            access_token_dies_after=3600,
            **_harsh(account),
            **switches,
            **variant.switches(self._random),
        )

    # --- the kill ----------------------------------------------------------------------------------------------------

    async def _set_off_and_kill(self, chosen: Sequence[Account], fault: Fault, variant: Variant) -> list[Trial]:
        """The fault begins before the reports or amid the rotations, and ends before the kill, before or after the restart."""
        rig, random, began = self._rig, self._random, time.time()
        begins_first, ends = random.random() < 0.3, random.choice(("before the kill", "before the start", "later"))
        if begins_first:
            fault.begin()
        reporting = asyncio.create_task(self._report(chosen))
        await self._aim(chosen, began, AIM_SECONDS)
        if not begins_first:
            fault.begin()
        if fault.has_effect:
            await asyncio.sleep(random.uniform(0, 1.2))
        if begins_first and fault.forbids_spending:
            self._demand_nothing_spent(chosen, began)
        if ends == "before the kill":
            fault.end()
            await asyncio.sleep(random.uniform(0, 0.5) * fault.has_effect)
        trials = await self._kill(chosen, variant, began)
        await reporting
        await self._withdraw(chosen)
        if ends == "before the start":
            fault.end()
        rig.start()
        if ends == "later":
            fault.on_start()
            await asyncio.sleep(random.uniform(0.2, 2) * fault.has_effect)
            fault.end()
        return trials

    def _demand_nothing_spent(self, chosen: Sequence[Account], since: float) -> None:
        for account in chosen:
            if self._rig.provider.refreshes(account.subject, since):
                self._rig.complain(account, "its refresh token was sent although there was no room for the answer")

    def _is_work_left(self, chosen: Sequence[Account]) -> bool:
        return any(self._phase(account, self._rig.life_began) is not Phase.IDLE for account in chosen)

    async def _report(self, chosen: Sequence[Account]) -> None:
        """Proxies say that the tokens were refused: each is to be refreshed at once."""
        gate = asyncio.Semaphore(REPORTS_AT_ONCE)

        async def report(account: Account) -> None:
            state = self._rig.look(account).state
            assert state is not None
            async with gate:
                await self._rig.view.report_unauthorized(account.name, state.generation)
            account.reported, account.reported_at = state.generation, time.time()

        await asyncio.gather(*(report(account) for account in chosen))

    async def _withdraw(self, chosen: Sequence[Account]) -> None:
        """Of some accounts nobody says any more that they need a refresh: one that was begun is to be ended all the same."""
        for account in chosen:
            if self._random.random() < 0.3:
                await self._rig.view.report_well(account.name)
                account.reported = 0
                account.note("its report is withdrawn")

    async def _aim(self, chosen: Sequence[Account], since: float, patience: float) -> None:
        """Once rotations have begun: wait for some account to be where the kill should find it, or for some time."""
        self._before = {account: self._rig.look(account) for account in chosen}
        due = [account for account in chosen if self._phase(account, since) is not Phase.IDLE]
        aim, marks = self._random.choice(AIMS), self._random.sample(due or chosen, min(MARKS, len(due or chosen)))
        await self._wait(lambda: self._is_at_work(since), patience, every=0.01)
        if aim is None:
            await asyncio.sleep(self._random.uniform(0, 0.3))
        else:
            reached = lambda: any(self._phase(mark, since) >= aim for mark in marks)
            await self._wait(reached, AIM_SECONDS, every=0.001)
        await asyncio.sleep(self._random.uniform(0, 0.004))

    def _is_at_work(self, since: float) -> bool:
        """Something has changed since the aim was taken, or the provider was asked for something."""
        rig = self._rig
        return any(
            rig.look(account) != seen or rig.provider.refreshes(account.subject, since)
            for account, seen in self._before.items()
        )

    async def _wait(self, condition: Callable[[], bool], seconds: float, every: float) -> None:
        """Until it is so, or long enough: with a fault, it may never be."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            await asyncio.sleep(every)

    async def _kill(self, chosen: Sequence[Account], variant: Variant, since: float) -> list[Trial]:
        seconds, instant = time.time() - since, time.time()
        if not await self._rig.kill():
            return []
        is_at_work, trials = self._is_at_work(since), []
        for account in chosen:
            phase = self._phase(account, since, instant)
            self._remember(account, phase)
            if phase is not Phase.IDLE:
                trials.append(Trial(variant.name, account.has_grace, phase, account, seconds))
        return trials if is_at_work else []  # killed before it did anything: no rotation was imminent

    def _remember(self, account: Account, phase: Phase) -> None:
        rig = self._rig
        seen, latest = rig.look(account), rig.provider.latest(account.subject)
        asked = rig.provider.refreshes(account.subject)
        requests = [str(refresh) for refresh in asked]
        account.note(f"killed (life {rig.lives}) in {phase.name}: {seen}; issued #{latest}; requests {requests}")
        # redeemed already, or about to be: a server with the answer in its hands does not always notice who has gone
        number = seen.state.number if seen.state is not None else latest
        if number < latest or any(refresh.sent == number for refresh in asked):
            account.unsaved.add(number)

    def _phase(self, account: Account, since: float, instant: float = float("inf")) -> Phase:
        rig = self._rig
        seen = rig.look(account)
        is_due = account.asks_for_refresh(seen) and account.reported_at <= instant
        refreshes = rig.provider.refreshes(account.subject, since)
        return phase_of(seen, refreshes, lambda: rig.provider.latest(account.subject), since=since, is_due=is_due)

    # --- the judgement -----------------------------------------------------------------------------------------------

    async def _judge(self, chosen: Sequence[Account], trials: Sequence[Trial], began: float) -> None:
        rig = self._rig
        if not await rig.settle():
            return
        for account in chosen:
            seen = rig.look(account)
            account.note(f"in the end {seen}")
            for wrong in requests_in_order(account, rig.provider, began):
                rig.complain(account, wrong)
            for wrong in await at_the_end(account, seen, rig.provider, began, rig.http):
                rig.complain(account, wrong)
        dead = [account for account in chosen if rig.look(account).login_required]
        _blame(dead, trials)
        if not rig.complaints:
            await asyncio.gather(*(rig.log_in(account) for account in dead))


def _harsh(account: Account) -> dict[str, bool]:
    """A server without a grace window kills the whole family when a token comes twice."""
    return {"replay_revokes_family": not account.has_grace}


def _blame(dead: Sequence[Account], trials: Sequence[Trial]) -> None:
    """The trial that cost the login: the last one that fell between the redeeming and the disk, or the last at all."""
    for account in dead:
        own = [trial for trial in trials if trial.account is account]
        between = [trial for trial in own if trial.phase in (Phase.REDEEMED, Phase.ANSWERED)]
        for trial in (between or own)[-1:]:
            trial.needs_login = True
