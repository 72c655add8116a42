"""One account, from what is there to what should be: the steps, in order.

    finalizer -> gather -> import -> log in -> refresh -> access file -> clear cooldown -> index -> status and Events

Every step is safe to run twice, and a crash between any two leaves something that the next run completes: what can be
lost (a refresh token) is on the state volume before anybody hears of it. What goes wrong becomes part of the facts
and ends in a condition; only the API server's failures are raised, and the scheduler calls again.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import httpx2

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account import policies
from oauth_pool_operator.account.facts import NEVER, Facts, Trouble
from oauth_pool_operator.account.login_policy import login_is_due
from oauth_pool_operator.account.spec import FINALIZER, Account
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.config import Profile
from oauth_pool_operator.credentials import Credentials
from oauth_pool_operator.errors import (
    ClusterUnavailable,
    ExchangeRejected,
    GrantRejected,
    ServiceAccountTokenRefused,
    StoreConflict,
    StoreCorrupt,
    StoreFailed,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.exchanges import Exchanges
from oauth_pool_operator.handover.imports import Imports
from oauth_pool_operator.memory import Memory
from oauth_pool_operator.oauth import terms
from oauth_pool_operator.oauth.code_login import CodeLogins
from oauth_pool_operator.oauth.device_login import DeviceLogins
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.publication import Publication
from oauth_pool_operator.removal import Removal
from oauth_pool_operator.storage.documents import Credential, Journal
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Reconciler:
    """Everything that a reconcile needs, and `reconcile` itself."""

    def __init__(
        self,
        *,
        store: Store,
        profiles: Mapping[str, Profile],
        endpoints: Mapping[str, TokenEndpoint],
        index: IndexPublisher,
        cluster: Cluster,
        throttle: Throttle,
        clock: Callable[[], datetime],
        broken_profiles: Mapping[str, str] | None = None,
    ) -> None:
        self.throttle = throttle
        self._store = store
        self._profiles = profiles
        self._broken_profiles = broken_profiles or {}
        self._cluster = cluster
        self._clock = clock
        self._publication = Publication(store=store, endpoints=endpoints, index=index, cluster=cluster)
        self._exchanges = exchanges = Exchanges(throttle=throttle, publication=self._publication, clock=clock)
        self._credentials = credentials = Credentials(
            store=store, profiles=profiles, endpoints=endpoints, cluster=cluster, on_unsaved=exchanges.tell_unsaved
        )
        self._imports = Imports(store=store, credentials=credentials, cluster=cluster)
        self._code_logins = CodeLogins(
            store=store, profiles=profiles, credentials=credentials, exchanges=exchanges, cluster=cluster
        )
        self._device_logins = DeviceLogins(
            store=store, endpoints=endpoints, credentials=credentials, exchanges=exchanges, clock=clock
        )
        self._removal = Removal(
            store=store, endpoints=endpoints, credentials=credentials, index=index, cluster=cluster, clock=clock
        )

    async def reconcile(self, account: Account, memory: Memory) -> tuple[Account, datetime]:
        """Bring one account up to date; returns it as last written, and when to look at it again.

        Raises `ClusterUnavailable` when the tokens are up to date but the cluster does not know yet.
        """
        if account.deleting:
            return account, await self._removal.run(account, memory)
        if memory.generation != account.generation:
            memory.succeeded()  # the spec has changed: what failed before may work now
            memory.generation = account.generation
        account = await self._ensure_finalizer(account)
        facts = await self._gather(account, memory)
        facts = await self._imports.take(facts, memory)
        facts = await self._log_in(facts, memory)
        facts = await self._refresh(facts, memory)
        facts = replace(facts, account=memory.newest(facts.account))
        if facts.account.deleting:
            return facts.account, await self._removal.run(facts.account, memory)
        facts = await self._publication.write_access_file(facts, memory)
        if facts.trouble is None:
            memory.succeeded()
        try:
            facts = await self._clear_cooldown(facts)
            facts = await self._publication.update_index(facts)
            account = await self._publication.report(facts)
            account = await self._prune_reports(replace(facts, account=account))
        except (httpx2.HTTPError, TimeoutError) as error:
            raise ClusterUnavailable(policies.next_check(facts)) from error
        return account, policies.next_check(facts)

    async def _ensure_finalizer(self, account: Account) -> Account:
        """Nothing is stored for an object before Kubernetes has promised to tell us of its deletion."""
        if FINALIZER in account.finalizers:
            return account
        return await self._cluster.patch_metadata(account, {"finalizers": [*account.finalizers, FINALIZER]})

    # --- gather ------------------------------------------------------------------------------------------------------

    async def _gather(self, account: Account, memory: Memory) -> Facts:
        facts = Facts(
            account,
            self._clock(),
            trouble=self._spec_trouble(account),
            last_forced_refresh=memory.last_forced_refresh,
        )
        try:
            credential = await self._read(facts, "credential.json", self._store.credential)
            session = await self._read(facts, "login.json", self._store.session)
            journal = await self._read_journal(facts, credential)
            damaged = None if credential else await in_thread(self._store.damaged_credential, account.uid)
            if damaged is not None:
                credential = policies.salvaged(await in_thread(self._store.access, account.uid), facts)
        except StoreFailed as error:
            trouble = memory.failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
            return replace(facts, trouble=trouble, is_unread=True)
        return replace(facts, credential=credential, journal=journal, session=session, damaged=damaged)

    async def _read(self, facts: Facts, name: str, read: Callable[[str], _T | None]) -> _T | None:
        """A damaged file is set aside and counts as missing: one file costs neither the others nor other accounts."""
        account = facts.account
        try:
            return await in_thread(read, account.uid)
        except StoreCorrupt as error:
            new = await in_thread(self._store.set_aside, account.uid, name, facts.now)
            log.error("%s: %s; set aside as %s", account.name, error, new)
            return None

    async def _read_journal(self, facts: Facts, credential: Credential | None) -> Journal | None:
        """The refresh that was begun and not ended. A damaged journal may have been about the token that is stored."""
        if credential is None or credential.refresh_token is None:
            return None
        try:
            return await in_thread(self._store.journal, facts.account.uid)
        except StoreCorrupt as error:
            log.error("%s: %s; taken for a refresh of unknown outcome", facts.account.name, error)
            return Journal.of(credential, facts.now)

    def _spec_trouble(self, account: Account) -> Trouble | None:
        provider = account.spec.provider
        if (problem := self._broken_profiles.get(provider)) is not None:
            message = f"the operator cannot use its profile of provider {provider!r}: {problem}"
            return Trouble(c.INVALID_PROFILE, message, NEVER, is_stalled=True)
        profile = self._profiles.get(provider)
        if profile is None:
            known = ", ".join(sorted({*self._profiles, *self._broken_profiles})) or "none"
            message = f"the operator's configuration has no provider {provider!r}; it knows {known}"
            return Trouble(c.UNKNOWN_PROVIDER, message, NEVER, is_stalled=True)
        if (problem := terms.why_not(account.spec, profile)) is not None:
            return Trouble(c.INVALID_SPEC, problem, NEVER, is_stalled=True)
        return None

    # --- log in ------------------------------------------------------------------------------------------------------

    async def _log_in(self, facts: Facts, memory: Memory) -> Facts:
        """Take what was pasted off the object, open a login when one is due, and see the one through that is open."""
        account = facts.account
        logins = self._device_logins if account.spec.grant == "DeviceCode" else self._code_logins
        try:
            facts = await self._code_logins.take_pasted_code(facts)
            if not account.has_login or account.spec.suspend or facts.trouble is not None:
                return facts
            if (problem := terms.why_no_login(account.spec, self._profiles[account.spec.provider])) is not None:
                trouble = Trouble(c.INVALID_SPEC, problem, NEVER, is_stalled=True)
                has_nothing = facts.credential is None or facts.credential.dead is not None
                return replace(facts, trouble=trouble) if has_nothing else replace(facts, login_trouble=trouble)
            if login_is_due(facts):
                facts = await logins.open(facts, memory)
            return await logins.carry_on(facts, memory)
        except (StoreFailed, StoreConflict) as error:
            return replace(facts, trouble=memory.failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True))

    # --- refresh -----------------------------------------------------------------------------------------------------

    async def _refresh(self, facts: Facts, memory: Memory) -> Facts:
        """A new access token, when one is due: by the refresh token, or by a ServiceAccount token."""
        if facts.trouble is not None or not policies.refresh_is_due(facts):
            return facts
        if (held := memory.holds_back(facts.now)) is not None:
            return replace(facts, trouble=held)
        facts = await self._announce(facts)
        has_login, latest = facts.account.has_login, policies.last_call(facts)
        obtain = self._credentials.from_refresh_token if has_login else self._credentials.from_service_account
        try:
            refreshed = await self._exchanges.run(facts, memory, obtain)
            if refreshed.credential != facts.credential and policies.forced_refresh(facts) == facts.now:
                memory.last_forced_refresh = facts.now
            return refreshed
        except TokenEndpointUnavailable as error:
            reason = c.REFRESHING if has_login else c.EXCHANGING
            trouble = self._exchanges.put_off(memory, reason, error, facts, latest=latest)
        except (GrantRejected, ExchangeRejected) as error:
            trouble = memory.failed(c.EXCHANGE_REJECTED, error, facts.now, is_stalled=True, latest=latest)
        except ServiceAccountTokenRefused as error:
            refused = c.SERVICE_ACCOUNT_TOKEN_REFUSED
            trouble = memory.failed(refused, error, facts.now, is_stalled=True, latest=latest)
        except (StoreFailed, StoreConflict) as error:
            trouble = memory.failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
        log.warning("%s: no new access token: %s", facts.account.name, trouble.message)
        return replace(facts, trouble=trouble)

    async def _announce(self, facts: Facts) -> Facts:
        """An account that cannot be used meanwhile says what it waits for; one that can says nothing of routine."""
        if policies.readiness(facts).reason == c.REFRESHING:
            with suppress(httpx2.HTTPError):  # the token matters more than the word for it
                return replace(facts, account=await self._publication.report(facts))
        return facts

    # --- what proxies reported ---------------------------------------------------------------------------------------

    async def _clear_cooldown(self, facts: Facts) -> Facts:
        """When a person has asked for it: what proxies have reported until now no longer counts."""
        account, request = facts.account, facts.account.clear_request
        if not request or request == account.status.get("lastHandledClearRequest"):
            return facts
        while benching := [r.reporter for r in account.reports if r.reason in (c.QUOTA_EXHAUSTED, c.RATE_LIMITED)]:
            account = await self._cluster.remove_reports(account, benching)
        log.info("%s: its cooldown is cleared, as asked for", account.name)
        return replace(facts, account=account, cleared=request)

    async def _prune_reports(self, facts: Facts) -> Account:
        """Remove reports that say nothing any more, so that those of replicas which are gone do not pile up."""
        if not (stale := policies.stale_reports(facts)):
            return facts.account
        log.debug("%s: removing old reports of %s", facts.account.name, ", ".join(stale))
        return await self._cluster.remove_reports(facts.account, stale)
