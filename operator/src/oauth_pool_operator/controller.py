"""The accounts as last observed, and the background tasks for all of them: scheduler, publishers, keeper, upkeep."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx2
import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.backoff import Backoff
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import KIND, Account, parse_account
from oauth_pool_operator.cluster.answers import describe, is_forbidden, is_gone, is_not_served
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.cluster.proxies import PROXY_KIND
from oauth_pool_operator.cluster.sealed_tokens import SealedTokens
from oauth_pool_operator.cluster.watch import SILENT_SECONDS, WatchPulse
from oauth_pool_operator.keeper import Keeper
from oauth_pool_operator.reconcile import Reconciler
from oauth_pool_operator.scheduler import Scheduler
from oauth_pool_operator.storage.store import Store
from oauth_pool_operator.upkeep import Upkeep

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


@dataclass(slots=True)
class _Known:
    account: Account
    memory: Memory = field(default_factory=Memory)
    is_at_work: bool = False
    is_settled: bool = False
    """The last reconcile has done all there was to do for `account`."""


class Controller:
    """Takes events, keeps the newest version of every account, and has them reconciled."""

    def __init__(
        self,
        reconciler: Reconciler,
        *,
        cluster: Cluster,
        index: IndexPublisher,
        tokens: SealedTokens | None = None,
        store: Store,
        leadership: Leadership,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reconciler = reconciler
        self._cluster = cluster
        self._index = index
        self._tokens = tokens
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._elapsed = elapsed
        self.pulse = WatchPulse()
        self._known: dict[str, _Known] = {}
        self._is_served = self._is_leaving = False
        self._why_not_served = "nothing has been listed yet"
        self._last_has_gone = asyncio.Event()
        self.scheduler = Scheduler(
            self._reconcile, clock=clock, elapsed=elapsed, name_of=self._name_of, may_start=lambda: leadership.leads
        )
        leadership.on_look = self.scheduler.look
        # what failed meanwhile is tried again now, and not when its pause of up to a minute is over
        leadership.on_return = self._look_at_all
        reconciler.rotations.on_news = self.scheduler.wake
        self.upkeep = Upkeep(self, cluster=cluster, store=store, leadership=leadership, clock=clock, elapsed=elapsed)
        self._keeper = Keeper(
            cluster=cluster,
            index=index,
            tokens=tokens,
            leadership=leadership,
            upkeep=self.upkeep,
            look_at_all=self._look_at_all,
        )
        if tokens is not None:
            tokens.on_news = self.scheduler.wake

    @property
    def watches_proxies(self) -> bool:
        """Tokens are sealed to them."""
        return self._tokens is not None

    def observe_proxy(self, kind: str | None, body: dict[str, Any]) -> None:
        """An event of the watch of proxies (`kind` is None for what was listed)."""
        if self._tokens is not None:
            self._tokens.proxies.observe(kind, body)

    @property
    def uids(self) -> Collection[str]:
        """Of all accounts."""
        return self._known.keys()

    def known(self, uid: str) -> Account | None:
        """The account as last observed."""
        known = self._known.get(uid)
        return known.account if known is not None else None

    def wake(self, uid: str) -> None:
        """Have the account looked at."""
        self.scheduler.wake(uid)

    def observe_gone(self, uid: str) -> None:
        """The object is gone, whoever removed our finalizer: what we hold for it goes, too."""
        known = self._known[uid]
        self._take(known, msgspec.structs.replace(known.account, deleting=True, finalizers=[]))

    def observe(self, kind: str | None, body: dict[str, Any]) -> None:
        """An event of the watch (`kind` is None for what was listed)."""
        account = parse_account(body)
        if kind == "DELETED" and account.uid not in self._known:
            return  # we let it go ourselves
        if kind == "DELETED":  # gone, whoever removed our finalizer: what we hold of it goes, too
            account = msgspec.structs.replace(account, deleting=True, finalizers=[])
        known = self._known.setdefault(account.uid, _Known(account))
        if account.is_older_than(known.account):
            return  # our own patches are known before their events arrive
        self._take(known, account, is_listed=kind is None)

    def _take(self, known: _Known, account: Account, *, is_listed: bool = False) -> None:
        before, known.account = known.account, account
        if account.deleting and not before.deleting:  # which must not wait for a reconcile that hangs
            self.scheduler.interrupt(account.uid)
            return
        # A reconcile that is at work looks at its end whether this was its own doing.
        needs_no_look = known.is_at_work or (known.is_settled and account.says_the_same_as(before))
        if is_listed or account.deleting or not needs_no_look:
            self.scheduler.wake(account.uid)

    def accounts(self) -> list[Account]:
        """All of them, as last observed; may be called from any thread."""
        return [known.account for known in list(self._known.values())]

    def figures(self) -> list[tuple[str, str]]:
        """What the status page says above the accounts; may be called from any thread."""
        why_not = self.why_not_ready()
        proxies = [("proxies", str(self._tokens.proxies.counts()["served"]))] if self._tokens is not None else []
        return [("at work", f"no: {why_not}" if why_not else "yes"), *proxies]

    def account_conditions(self) -> list[metrics.AccountConditions]:
        """What the objects say of every account; may be called from any thread."""
        return [
            metrics.AccountConditions(
                account.name,
                c.reason_of(account.conditions, c.READY) or "New",
                frozenset(kind for kind in metrics.CONDITIONS if c.is_true(account.conditions, kind)),
            )
            for account in self.accounts()
        ]

    def counts(self) -> metrics.Counts:
        """For the metrics; may be called from any thread."""
        known = list(self._known.values())
        return metrics.Counts(
            accounts=self.account_conditions(),
            logins_open=sum("login" in one.account.status for one in known),
            reconciles_due=self.scheduler.number_due(),
            reconciles_in_flight=self.scheduler.number_running(),
            token_requests_waiting=self._reconciler.throttle.waiting,
            rotations_in_flight=self._reconciler.rotations.number_running(),
            provider_holds=self._reconciler.throttle.holds(),
            index_shards=self._index.shards,
            volumes_unanswered=self._volumes_unanswered(),
            watch_silent=self.pulse.silent_for,
            orphaned_folders=self.upkeep.orphans,
            sealed=metrics.SealedCounts(self._tokens.shards, self._tokens.proxies.counts()) if self._tokens else None,
        )

    def _volumes_unanswered(self) -> dict[str, float]:
        unanswered = {"state": max(self._store.state_volume.unanswered_for, self._leadership.volume.unanswered_for)}
        if self._tokens is None:
            unanswered["access"] = self._store.access_volume.unanswered_for
        return unanswered

    def seconds_since_last_turn(self) -> float:
        return time.monotonic() - self.scheduler.last_turn

    def why_deaf(self) -> str:
        """That the watch is silent although the API server answers, in a few words; may be called from any thread."""
        silent = self.pulse.silent_for
        if silent < SILENT_SECONDS or not self._leadership.is_answered:
            return ""
        return f"the watch of accounts has been silent for {silent:.0f} s, although the API server answers"

    def why_not_ready(self) -> str:
        """Why this operator does not work, in a few words; empty when it does. May be called from any thread."""
        if not self._is_served:
            return self._why_not_served
        if not self._leadership.leads:
            return self._leadership.why_not or "it has not checked the Lease for too long"
        return self._store.state_volume.why_silent or self._store.access_volume.why_silent or self.why_deaf()

    async def wait_until_served(self) -> None:
        """Return once all kinds can be listed. Kopf looks for a kind once, and never serves one that comes later."""
        kinds: dict[str, Callable[[], Awaitable[object]]] = {KIND: self._cluster.account_names}
        if self._tokens is not None:
            kinds[PROXY_KIND] = self._cluster.listed_proxies
        for kind, listed in kinds.items():
            await self._wait_for_kind(kind, listed)
        self._is_served = True

    async def _wait_for_kind(self, kind: str, listed: Callable[[], Awaitable[object]]) -> None:
        backoff = Backoff(first=timedelta(seconds=0.5), longest=timedelta(seconds=5))
        self._why_not_served = f"objects of kind {kind} cannot be listed yet"
        while True:
            self.scheduler.beat()
            try:
                await listed()
                return
            except httpx2.HTTPError as error:
                hint = f"; is the CRD of {kind} installed?" if is_not_served(error) else ""
                log.warning("%s: %s%s", self._why_not_served, describe(error), hint)
            await asyncio.sleep(backoff.pause().total_seconds())

    async def stop(self, grace: float) -> bool:
        """Begin nothing more, and wait for what is in flight; True when all of it has ended in time."""
        self._reconciler.throttle.close()
        end = time.monotonic() + grace
        if self._known and await self._namespace_is_going():
            await self._let_go(grace)
        have_ended, accounts = await self._reconciler.rotations.finish(max(0.0, end - time.monotonic()))
        # what came of them is published, too
        return await self.scheduler.stop(max(0.0, end - time.monotonic()), accounts) and have_ended

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The background tasks, for as long as the context lasts. One that fails ends it: a restart is better than half."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._leadership.run(), name="leadership"),
                group.create_task(self._keeper.run(), name="keeper"),
                group.create_task(self.upkeep.run(), name="upkeep"),
                group.create_task(self._index.run(), name="index publisher"),
                group.create_task(self.scheduler.run(), name="scheduler"),
            ]
            if self._tokens is not None:
                tasks.append(group.create_task(self._tokens.run(), name="sealed tokens"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _namespace_is_going(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return self._leadership.leads and await self._cluster.is_being_deleted()
        except (httpx2.HTTPError, TimeoutError) as error:
            log.debug("it is not known whether the namespace is being deleted: %s", describe(error))
            if is_forbidden(error):
                log.error(
                    "the API server no longer lets this operator do anything: if the namespace is being deleted, the finalizers "
                    "of its %d accounts stay until somebody removes them (oauthaccounts, metadata.finalizers)",
                    len(self._known),
                )
            return False

    async def _let_go(self, grace: float) -> None:
        """Remove all accounts as if they were deleted, which they are about to be: a namespace's pods go first, and nobody
        would be left to remove the finalizers."""
        log.warning("the namespace is being deleted: releasing its %d accounts", len(self._known))
        self._is_leaving = True
        self._last_has_gone.clear()
        self._look_at_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._last_has_gone.wait()
        for known in self._known.values():
            log.error("%s: was not released in time, and its finalizer stays", known.account.name)

    async def _as_if_deleted(self, account: Account) -> Account:
        found = await self._cluster.account(account.name)
        if found is None or found.uid != account.uid:
            return msgspec.structs.replace(account, deleting=True, finalizers=[])
        return msgspec.structs.replace(found, deleting=True)

    def _look_at_all(self) -> None:
        for uid in self._known:
            self.scheduler.wake(uid)

    async def _reconcile(self, uid: str) -> datetime | None:
        known = self._known.get(uid)
        if known is None:
            return None
        before = known.account
        known.is_at_work, known.is_settled = True, False
        with metrics.RECONCILE_SECONDS.time():
            try:
                if self._is_leaving:
                    before = await self._as_if_deleted(before)
                account, due = await self._reconciler.reconcile(before, known.memory)
            except Exception as error:
                metrics.RECONCILES.labels("error").inc()
                if known.account is not before:
                    self.scheduler.wake(uid)
                if is_gone(error.__cause__ or error):  # the event of its deletion is on its way
                    return NEVER
                raise
            finally:
                known.is_at_work = False
        metrics.RECONCILES.labels("success").inc()
        if account.deleting and due == NEVER:
            del self._known[uid]
            if not self._known:
                self._last_has_gone.set()
            return None
        if known.account.is_older_than(account):
            known.account = account
        if not account.deleting:
            known.is_settled = not known.account.has_changed_since(before, but_for=account)
            if not known.is_settled:
                self.scheduler.wake(uid)
        return due

    def _name_of(self, uid: str) -> str:
        known = self._known.get(uid)
        return known.account.name if known is not None else uid
