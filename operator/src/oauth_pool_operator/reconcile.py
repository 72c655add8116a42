"""Reconciles one account: the steps, in order.

    finalizer -> gather -> settle -> import -> log out -> log in -> begin a rotation -> access token -> clear cooldown
        -> index -> status and Events -> remember

Every step is safe to run twice, and after a crash between any two, the next run completes the work. No step waits for a
provider: a rotation (`rotation`) asks it, beside the reconciles, which begin it and go on. A failure becomes the trouble of its
subject, and ends in a condition. If a step raises something else, the other steps still run, and the scheduler calls again.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

import httpx2
import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account import policies
from oauth_pool_operator.account.cooldowns import begins_cooldown
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.login_policy import login_is_due
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import FINALIZER, Account
from oauth_pool_operator.account.trouble import Subject
from oauth_pool_operator.beginnings import (
    Beginning,
    CodeExchange,
    DeviceOpening,
    Refresh,
    Revocation,
    WorkloadExchange,
)
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.delivery import Delivery
from oauth_pool_operator.errors import ClusterUnavailable, NotInCharge, StoreConflict, StoreFailed
from oauth_pool_operator.gathering import Gathering
from oauth_pool_operator.handover.imports import Imports
from oauth_pool_operator.oauth.code_login import CodeLogins
from oauth_pool_operator.oauth.device_login import DeviceLogins
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.profiles import Profile
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.publication import Publication
from oauth_pool_operator.removal import Removal
from oauth_pool_operator.rotation import Tools
from oauth_pool_operator.rotations import Rotations
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)


class Reconciler:
    """Everything that a reconcile needs, and `reconcile` itself."""

    def __init__(
        self,
        *,
        store: Store,
        profiles: Mapping[str, Profile],
        endpoints: Mapping[str, TokenEndpoint],
        delivery: Delivery,
        index: IndexPublisher,
        cluster: Cluster,
        throttle: Throttle,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float] = time.monotonic,
        broken_profiles: Mapping[str, str] | None = None,
    ) -> None:
        self.throttle = throttle
        self.rotations = Rotations(Tools(store, profiles, endpoints, throttle, clock))
        self._store = store
        self._profiles = profiles
        self._cluster = cluster
        self._known = Gathering(
            store=store,
            profiles=profiles,
            broken_profiles=broken_profiles or {},
            delivery=delivery,
            rotations=self.rotations,
            throttle=throttle,
            clock=clock,
        )
        self._publication = Publication(delivery=delivery, endpoints=endpoints, index=index, cluster=cluster)
        self._imports = Imports(store=store, cluster=cluster)
        self._code_logins = CodeLogins(store=store, profiles=profiles, cluster=cluster)
        self._device_logins = DeviceLogins(store=store)
        self._removal = Removal(
            store=store,
            endpoints=endpoints,
            rotations=self.rotations,
            delivery=delivery,
            index=index,
            cluster=cluster,
            clock=clock,
            elapsed=elapsed,
        )

    async def reconcile(self, account: Account, memory: Memory) -> tuple[Account, datetime]:
        """Bring one account up to date; returns it as last written, and when to look at it again.

        Raises `ClusterUnavailable` when the API server does not know all of it yet, and what else a step has raised.
        """
        if account.deleting:
            return account, await self._removal.run(account, memory)
        account = await self._ensure_finalizer(account)
        facts = await self._known.gather(account, memory)
        failures: list[Exception] = []
        for step in (
            self._settle,
            self._imports.take,
            self._log_out,
            self._log_in,
            self._begin,
            self._publish,
            self._known.remember,
        ):
            try:
                facts = await step(facts, memory)
            except Exception as error:  # noqa: BLE001 (raised when the other steps have had their turn)
                failures.append(error)
        for first in failures:
            if isinstance(first, httpx2.HTTPError | TimeoutError):
                raise ClusterUnavailable(policies.next_check(facts)) from first
            raise first
        return facts.account, policies.next_check(facts)

    async def _ensure_finalizer(self, account: Account) -> Account:
        """Nothing is stored for an object before Kubernetes has promised to tell us of its deletion."""
        if FINALIZER in account.finalizers:
            return account
        return await self._cluster.patch_metadata(account, {"finalizers": [*account.finalizers, FINALIZER]})

    # --- settle ------------------------------------------------------------------------------------------------------

    async def _settle(self, facts: Facts, memory: Memory) -> Facts:
        """What became of the last rotation: of a refresh, the disk and the memory say it; of a login, what the person reads."""
        uid = facts.account.uid
        if facts.refresh_is_wanted and self._has_nothing_to_refresh(facts):
            log.warning("%s: a refresh was requested, but there is nothing to refresh with", facts.account.name)
            memory.handled_refresh = facts.account.refresh_request
            facts = replace(facts, refreshed=memory.handled_refresh)
        if facts.is_rotating or (outcome := self.rotations.outcome(uid)) is None:
            return facts
        beginning, error = outcome.beginning, outcome.error
        if isinstance(error, NotInCharge):
            memory.begin.put_off(facts.now)
        elif beginning.subject is Subject.REFRESH and beginning.facts.refresh_is_wanted:
            memory.handled_refresh = beginning.facts.account.refresh_request
            facts = replace(facts, refreshed=memory.handled_refresh)
        try:
            if isinstance(beginning, CodeExchange) and error is not None:
                facts = await self._refused(facts, memory, beginning, error)
        except StoreFailed as failure:
            return self._storage_failed(facts, memory, failure)
        self.rotations.settle(uid)
        return facts

    async def _refused(self, facts: Facts, memory: Memory, exchange: CodeExchange, error: Exception) -> Facts:
        if exchange.session.device_code:
            return await self._device_logins.refused(facts, memory, exchange.session, error)
        return await self._code_logins.refused(facts, exchange.session, error)

    def _has_nothing_to_refresh(self, facts: Facts) -> bool:
        has_token = facts.credential is not None and facts.credential.refresh_token is not None
        return facts.account.has_login and not has_token and not facts.is_unread and not facts.is_rotating

    # --- log out and in ----------------------------------------------------------------------------------------------

    async def _log_out(self, facts: Facts, memory: Memory) -> Facts:
        """When a person has asked for it: the token is used no more, and the grant is revoked next (`Revocation`)."""
        account, credential = facts.account, facts.credential
        if not account.logout_request or facts.is_rotating or facts.is_unread:
            return facts
        if not account.has_login:
            log.warning("%s: a logout was requested, but its grant stores no login", account.name)
        elif credential is not None and credential.dead != c.LOGGED_OUT:
            lives = credential.dead is None and credential.refresh_token is not None
            left = (*credential.to_revoke, *((credential.refresh_token,) if lives and credential.refresh_token else ()))
            credential = msgspec.structs.replace(
                credential, dead=c.LOGGED_OUT, refresh_token=None, previous_refresh_token=None, to_revoke=left
            )
            try:
                await in_thread(self._store.save_credential, account.uid, credential, replaces=credential.generation)
            except (StoreFailed, StoreConflict) as error:
                return self._storage_failed(facts, memory, error)
            log.warning("%s: logged out, as requested", account.name)
        return replace(facts, credential=credential, logged_out=account.logout_request)

    async def _log_in(self, facts: Facts, memory: Memory) -> Facts:
        """Take what was pasted off the object, open a login when one is due, and see through the one that is open."""
        account = facts.account
        try:
            facts = await self._code_logins.take_pasted_code(facts)
            if not account.has_login or account.spec.suspend or not self._may_log_in(facts):
                return facts
            if account.spec.grant != "DeviceCode" and login_is_due(facts):
                facts = await self._code_logins.open(facts)
            facts = await self._code_logins.carry_on(facts)
            facts = await self._device_logins.carry_on(facts, memory)
        except (StoreFailed, StoreConflict) as error:
            return self._storage_failed(facts, memory, error)
        if not facts.session_is_open and not login_is_due(facts):
            memory[Subject.LOGIN].succeeded()  # there is none that could be in trouble
            facts = facts.with_trouble(Subject.LOGIN, None)
        return facts

    def _may_log_in(self, facts: Facts) -> bool:
        return not (facts.spec_is_wrong or facts.login_is_refused or facts.is_unread)

    def _storage_failed(self, facts: Facts, memory: Memory, error: Exception) -> Facts:
        trouble = memory[Subject.STORAGE].failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
        return facts.with_trouble(Subject.STORAGE, trouble)

    # --- begin -------------------------------------------------------------------------------------------------------

    async def _begin(self, facts: Facts, memory: Memory) -> Facts:
        """The rotation that is due, unless one is under way. What failed last holds back its like, and nothing else."""
        account = facts.account
        rotation = self.rotations.of(account.uid)
        if rotation is not None and account.spec.suspend:
            rotation.withdraw()
        if rotation is not None or facts.is_rotating or self.rotations.outcome(account.uid) is not None:
            return facts
        self._end_holds(facts, memory)
        due = self._due(facts, memory)
        if memory[Subject.STORAGE].is_on(facts.now) or due is None:
            return self._nothing_due(facts, memory)
        if memory.begin.is_on(facts.now):
            return replace(facts, retry_begin=memory.begin.retry_at)
        self.rotations.begin(due, memory)
        return facts

    def _due(self, facts: Facts, memory: Memory) -> Beginning | None:
        account, session = facts.account, facts.session
        profile = self._profiles.get(account.spec.provider)
        if profile is None or facts.spec_is_wrong or facts.is_unread:
            return None
        may_log_in = account.has_login and not account.spec.suspend and self._may_log_in(facts)
        if may_log_in and not memory[Subject.LOGIN].is_on(facts.now):
            has_device_code = session is not None and bool(session.device_code)
            is_time = has_device_code and facts.next_poll is not None and facts.next_poll <= facts.now
            if account.spec.grant == "DeviceCode" and login_is_due(facts):
                return DeviceOpening(facts)
            if facts.session_is_open and session is not None and (session.code is not None or is_time):
                return CodeExchange(facts, session, profile.revoke_replaced_grants)
        is_held = memory[Subject.REFRESH].is_on(facts.now) or memory[Subject.CLUSTER].is_on(facts.now)
        if policies.refresh_is_due(facts) and not is_held:
            if account.has_login:
                return Refresh(facts)
            workload, settings = account.spec.workload_identity, profile.workload_identity
            assert workload is not None and settings is not None  # the CRD's rule, and `_spec_trouble` has looked
            return WorkloadExchange(facts, workload, settings.audience, self._cluster)
        left = facts.credential.to_revoke if facts.credential is not None else ()
        if left and not facts.outcome_is_unknown and not memory[Subject.REVOCATION].is_on(facts.now):
            return Revocation(facts)
        return None

    def _end_holds(self, facts: Facts, memory: Memory) -> None:
        """When a person wants a refresh now, whatever has failed and whatever the provider has asked for."""
        account = facts.account
        if facts.refresh_is_wanted:
            self.throttle.release(account.spec.provider)
            for subject in (Subject.REFRESH, Subject.CLUSTER, Subject.STORAGE):
                memory[subject].reset()

    def _nothing_due(self, facts: Facts, memory: Memory) -> Facts:
        """A failure of something no longer wanted is no trouble; nor is a disk that works again."""
        if facts.is_unread:
            return facts
        over = [] if memory[Subject.STORAGE].is_on(facts.now) else [Subject.STORAGE]
        if not policies.refresh_is_due(facts):
            over += [Subject.REFRESH, Subject.CLUSTER]
        for subject in over:
            memory[subject].succeeded()
            if subject is not Subject.STORAGE or not facts.rescued:
                facts = facts.with_trouble(subject, None)
        return facts

    # --- publish -----------------------------------------------------------------------------------------------------

    async def _publish(self, facts: Facts, memory: Memory) -> Facts:
        """In an order in which nobody is told of a token that is not there yet: access token, index, status."""
        facts = await self._publication.deliver(facts, memory)
        facts = await self._clear_cooldown(facts)
        facts = await self._publication.update_index(facts)
        facts = replace(facts, account=await self._publication.report(facts))
        return replace(facts, account=await self._prune_reports(facts))

    async def _clear_cooldown(self, facts: Facts) -> Facts:
        """When a person has asked for it: what proxies have reported until now no longer counts."""
        account, request = facts.account, facts.account.clear_request
        if not request or request == account.status.get("lastHandledClearRequest"):
            return facts
        while reporters := [report.reporter for report in account.reports if begins_cooldown(report)]:
            account = await self._cluster.remove_reports(account, reporters)
        log.info("%s: cooldown cleared, as requested", account.name)
        return replace(facts, account=account, cleared=request)

    async def _prune_reports(self, facts: Facts) -> Account:
        """Remove stale reports, so that those of replicas that are gone do not pile up."""
        if not (stale := policies.stale_reports(facts)):
            return facts.account
        log.debug("%s: removing old reports of %s", facts.account.name, ", ".join(stale))
        return await self._cluster.remove_reports(facts.account, stale)
