"""One account, from what is there to what should be: the steps, in order.

    finalizer -> gather -> import -> log in -> refresh -> access file -> clear cooldown -> index -> status and Events

Every step is safe to run twice, and a crash between any two leaves something that the next run completes: what can be
lost (a refresh token) is on the state volume before anybody hears of it. What goes wrong becomes part of the facts
and ends in a condition; only the API server's failures are raised, and the scheduler calls again.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import httpx2
import msgspec

from . import conditions as c
from . import login, metrics, policies
from .accounts import CODE_ANNOTATION, FINALIZER, IMPORT_ANNOTATION, Account, rfc3339
from .cluster import Cluster, describe, is_gone
from .config import Profile
from .credentials import Credentials, in_thread
from .device_login import Asking, DeviceLogins
from .documents import AccessFile, Import, LoginSession, Retained
from .errors import (
    ClusterUnavailable,
    ExchangeRejected,
    GrantRejected,
    NotInCharge,
    ServiceAccountTokenRefused,
    StoreConflict,
    StoreCorrupt,
    StoreFailed,
    SubjectMismatch,
    TokenEndpointUnavailable,
)
from .grants import TokenEndpoint
from .policies import NEVER, Facts, Trouble
from .pool_index import IndexPublisher, render_entry
from .status import OWNED, happenings, merge_patch, render_status
from .store import Store
from .throttle import Throttle

log = logging.getLogger(__name__)

_T = TypeVar("_T")
Obtain = Callable[[Facts], Coroutine[Any, Any, Facts]]

FIRST_RETRY = timedelta(seconds=1)
LAST_RETRY = timedelta(minutes=5)
# A deleted object goes after this time at the latest, whatever could not be done.
REMOVAL = timedelta(seconds=25)
REMOVAL_RETRY = timedelta(seconds=2)
REVOCATION_SECONDS = 8.0
# How long a request in flight may keep an account that was deleted meanwhile.
LAST_REQUEST_SECONDS = 10.0


@dataclass
class Memory:
    """What the operator remembers of an account between reconciles; all of it may be lost."""

    failures: int = 0
    trouble: Trouble | None = None
    generation: int = 0
    last_forced_refresh: datetime | None = None
    removal_began: datetime | None = None
    # the object as last observed, and that it has been observed: for whoever waits for a token endpoint meanwhile
    latest: Account | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def observe(self, account: Account) -> None:
        self.latest = account
        self.news.set()

    def newest(self, account: Account) -> Account:
        """The account as it is now, if that is later than `account`."""
        return self.latest if self.latest is not None and account.is_older_than(self.latest) else account

    asking: Asking = field(default_factory=Asking)

    def holds_back(self, now: datetime) -> Trouble | None:
        """The last failure, for as long as its time to try again has not come."""
        return self.trouble if self.trouble is not None and now < self.trouble.retry_at else None

    def failed(
        self, reason: str, error: Exception, now: datetime, *, is_stalled: bool, latest: datetime | None = None
    ) -> Trouble:
        """Remember a failure; the next try comes later each time (1 s to 5 min, `latest` at the latest), or when the
        server said.
        """
        if (held := self.holds_back(now)) is not None and held.reason == reason:
            return held  # looked at early, because something else happened: not another try
        delay = min(FIRST_RETRY * 2**self.failures, LAST_RETRY, latest - now if latest is not None else LAST_RETRY)
        if isinstance(error, TokenEndpointUnavailable) and error.retry_after is not None:
            delay = max(delay, error.retry_after)
        self.failures = min(self.failures + 1, 16)
        retry_at = now + delay
        self.trouble = Trouble(reason, f"{error}; next try at {rfc3339(retry_at)}", retry_at, is_stalled)
        return self.trouble

    def succeeded(self) -> None:
        self.failures, self.trouble = 0, None


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
        self._endpoints = endpoints
        self._credentials = Credentials(
            store=store, profiles=profiles, endpoints=endpoints, cluster=cluster, on_unsaved=self._report_unsaved
        )
        self._device_logins = DeviceLogins(store=store, endpoints=endpoints, credentials=self._credentials, clock=clock)
        self._index = index
        self._cluster = cluster
        self._clock = clock
        self._unsaved: dict[str, Trouble] = {}  # by UID: why the answer of a token endpoint is not on the disk

    async def reconcile(self, account: Account, memory: Memory) -> tuple[Account, datetime]:
        """Bring one account up to date; returns it as last written, and when to look at it again.

        Raises `ClusterUnavailable` when the tokens are up to date but the cluster does not know yet.
        """
        if account.deleting:
            return account, await self._remove(account, memory)
        if memory.generation != account.generation:
            memory.succeeded()  # the spec has changed: what failed before may work now
            memory.generation = account.generation
        account = await self._ensure_finalizer(account)
        facts = await self._gather(account, memory)
        facts = await self._import(facts, memory)
        facts = await self._log_in(facts, memory)
        facts = await self._refresh(facts, memory)
        facts = replace(facts, account=memory.newest(facts.account))
        if facts.account.deleting:
            return facts.account, await self._remove(facts.account, memory)
        facts = await self._write_access_file(facts, memory)
        try:
            facts = await self._clear_cooldown(facts)
            await self._publish(facts)
            account = await self._report(facts)
            account = await self._prune(replace(facts, account=account))
        except (httpx2.HTTPError, TimeoutError) as error:
            raise ClusterUnavailable(policies.next_check(facts)) from error
        if facts.trouble is None:
            memory.succeeded()
        return account, policies.next_check(facts)

    # --- finalizer and removal ---------------------------------------------------------------------------------------

    async def _ensure_finalizer(self, account: Account) -> Account:
        """Nothing is stored for an object before Kubernetes has promised to tell us of its deletion."""
        if FINALIZER in account.finalizers:
            return account
        return await self._cluster.patch_metadata(account, {"finalizers": [*account.finalizers, FINALIZER]})

    async def _remove(self, account: Account, memory: Memory) -> datetime:
        """Let the object go; returns NEVER when that is done, else when to try again. It does not take longer than `REMOVAL`."""
        memory.removal_began = memory.removal_began or self._clock()
        try:
            await self._clean_up(account)
        except (httpx2.HTTPError, TokenEndpointUnavailable, StoreFailed, TimeoutError) as error:
            why = describe(error) if isinstance(error, httpx2.HTTPError) else str(error) or "no answer in time"
            if self._clock() < memory.removal_began + REMOVAL:
                log.warning("%s: its removal is not complete: %s", account.name, why)
                return self._clock() + REMOVAL_RETRY
            log.error("%s: let go although its removal is not complete: %s", account.name, why)
        self._credentials.unsaved.pop(account.uid, None)
        metrics.forget(account.name)
        if FINALIZER in account.finalizers:
            rest = [finalizer for finalizer in account.finalizers if finalizer != FINALIZER]
            try:
                await self._cluster.patch_metadata(account, {"finalizers": rest or None})
            except httpx2.HTTPError as error:
                if not is_gone(error):
                    raise
        log.info("%s: removed", account.name)
        return NEVER

    async def _clean_up(self, account: Account) -> None:
        """Index first, so that no proxy picks it; then the access file, the grant, and the state."""
        await self._index.withdraw(account)
        await in_thread(self._store.remove_access, account.uid)
        if account.spec.deletion_policy == "Revoke":
            await self._revoke(account)
            await in_thread(self._store.remove_state, account.uid)
        else:
            spec = account.spec
            retained = Retained(account.name, account.namespace, spec.provider, spec.grant, self._clock())
            await in_thread(self._store.retain, account.uid, retained)

    async def _revoke(self, account: Account) -> None:
        """Raises what is worth another try; a refusal is not, nor is a grant that cannot be read or is dead."""
        endpoint = self._endpoints.get(account.spec.provider)
        try:
            credential = self._credentials.unsaved.get(account.uid)
            credential = credential or await in_thread(self._store.credential, account.uid)
            if endpoint is None or credential is None or credential.refresh_token is None or credential.dead:
                return
            async with asyncio.timeout(REVOCATION_SECONDS):
                await endpoint.revoke(credential.refresh_token, account.spec.grant)
        except (ExchangeRejected, StoreFailed) as error:
            log.warning("%s: its grant was not revoked at the provider: %s", account.name, error)

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
            damaged = None if credential else await in_thread(self._store.damaged_credential, account.uid)
        except StoreFailed as error:
            trouble = memory.failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
            return replace(facts, trouble=trouble)
        return replace(facts, credential=credential, session=session, damaged=damaged)

    async def _read(self, facts: Facts, name: str, read: Callable[[str], _T | None]) -> _T | None:
        """A damaged file is set aside and counts as missing: one file costs neither the others nor other accounts."""
        account = facts.account
        try:
            return await in_thread(read, account.uid)
        except StoreCorrupt as error:
            new = await in_thread(self._store.set_aside, account.uid, name, facts.now)
            log.error("%s: %s; set aside as %s", account.name, error, new)
            return None

    def _spec_trouble(self, account: Account) -> Trouble | None:
        provider, grant = account.spec.provider, account.spec.grant
        profile = self._profiles.get(provider)
        if (problem := self._broken_profiles.get(provider)) is not None:
            message = f"the operator cannot use its profile of provider {provider!r}: {problem}"
            return Trouble(c.INVALID_PROFILE, message, NEVER, is_stalled=True)
        if profile is None:
            known = ", ".join(sorted({*self._profiles, *self._broken_profiles}))
            message = f"the operator's configuration has no provider {provider!r}; it knows {known}"
            return Trouble(c.UNKNOWN_PROVIDER, message, NEVER, is_stalled=True)
        if grant not in profile.grants:
            offered = ", ".join(sorted(profile.grants))
            message = f"provider {provider!r} is not configured for grant {grant}; it is for {offered}"
            return Trouble(c.INVALID_SPEC, message, NEVER, is_stalled=True)
        return None

    # --- import ------------------------------------------------------------------------------------------------------

    async def _import(self, facts: Facts, memory: Memory) -> Facts:
        """Take what `oauth-pool-operator import` or `adopt` left on the state volume; whoever waits for it sees the
        annotation go."""
        account = facts.account
        if facts.storage_is_unavailable:
            return facts
        try:
            given = await self._handed_over(account)
            if given is not None:
                if account.has_login:
                    facts = await self._credentials.from_import(facts, given)
                    memory.succeeded()  # what failed with the old credential may work with this one
                else:
                    log.warning("%s: a credential was handed over, but its grant needs none", account.name)
                await in_thread(self._store.end_import, account.uid, given)
        except (StoreFailed, StoreConflict) as error:
            return replace(facts, trouble=memory.failed(c.STORAGE_WRITE_FAILED, error, facts.now, is_stalled=True))
        if IMPORT_ANNOTATION in account.annotations:
            facts = replace(facts, account=await self._cluster.remove_annotation(account, IMPORT_ANNOTATION))
        return facts

    async def _handed_over(self, account: Account) -> Import | None:
        try:
            return await in_thread(self._store.imported, account.uid)
        except StoreCorrupt as error:
            log.warning("%s: %s; it has to be handed over again", account.name, error)
            await in_thread(self._store.end_import, account.uid, None)
            return None

    # --- log in ------------------------------------------------------------------------------------------------------

    async def _log_in(self, facts: Facts, memory: Memory) -> Facts:
        """Open a login session when one is due, take what was pasted off the object, and exchange a good code."""
        account = facts.account
        try:
            facts = await self._take_pasted_code(facts)
            if account.has_login and facts.trouble is None and not account.spec.suspend:
                facts = await self._open_session(facts, memory)
                facts = await self._exchange_code(facts, memory)
                facts = await self._device_logins.ask(facts, memory.asking)
        except (StoreFailed, StoreConflict) as error:
            return replace(facts, trouble=memory.failed(c.STORAGE_WRITE_FAILED, error, facts.now, is_stalled=True))
        return facts

    async def _take_pasted_code(self, facts: Facts) -> Facts:
        """The code moves to the state volume first, then leaves the object: public for no longer than that takes.

        It leaves the object, too, when it cannot be kept, or is of no use: the person may give it again.
        """
        account = facts.account
        if account.pasted_code is None:
            return facts
        try:
            session = await self._keep_pasted_code(facts, account.pasted_code)
        except StoreFailed:
            log.warning("%s: the code could not be kept on the state volume: give it again later", account.name)
            raise
        finally:
            account = await self._cluster.remove_annotation(account, CODE_ANNOTATION)
        return replace(facts, account=account, session=session)

    async def _keep_pasted_code(self, facts: Facts, pasted: str) -> LoginSession | None:
        account, session = facts.account, facts.session
        if account.spec.grant != "AuthorizationCode":
            log.warning("%s: a code was given, but grant %s needs none", account.name, account.spec.grant)
            return session
        if facts.storage_is_unavailable:
            log.warning("%s: a code was given, but the state volume cannot be read: give it again later", account.name)
            return session
        if session is not None and session.handled_code == login.digest(pasted):
            return session
        profile = self._profiles.get(account.spec.provider)
        settings = profile.authorization_code if profile is not None else None
        may_be_bare = settings is not None and settings.allow_code_without_state
        session = login.judge(session, pasted, facts.now, account.name, allow_without_state=may_be_bare)
        await in_thread(self._store.save_session, account.uid, session)
        if session.problem is not None:
            log.warning("%s: %s", account.name, session.problem_message)
        return session

    async def _open_session(self, facts: Facts, memory: Memory) -> Facts:
        if not policies.login_is_due(facts):
            return facts
        account, request = facts.account, facts.account.login_request or ""
        if account.spec.grant == "DeviceCode":
            return await self._device_logins.open(facts, request, memory.asking)
        session = login.open_session(facts.now, request)
        await in_thread(self._store.save_session, account.uid, session)
        log.info("%s: login %s is open until %s", account.name, session.session_id, rfc3339(session.expires))
        return replace(facts, session=session)

    async def _exchange_code(self, facts: Facts, memory: Memory) -> Facts:
        if facts.session is None or facts.session.code is None:
            return facts
        if (held := memory.holds_back(facts.now)) is not None:
            return replace(facts, trouble=held)
        try:
            return await self._while_waiting(facts, memory, self._credentials.from_code)
        except NotInCharge:
            return facts
        except TokenEndpointUnavailable as error:
            return replace(facts, trouble=self._put_off(c.EXCHANGING, error, facts, memory))
        except (GrantRejected, ExchangeRejected, SubjectMismatch) as error:
            return await self._start_over(facts, error)

    async def _start_over(self, facts: Facts, error: Exception) -> Facts:
        """A code is good for one exchange; after a refusal there is a new session, so that the person has a fresh URL."""
        account, session = facts.account, facts.session
        assert session is not None
        log.warning("%s: the login was refused: %s", account.name, error)
        fresh = msgspec.structs.replace(
            login.open_session(facts.now, session.request),
            handled_code=session.handled_code,
            problem=c.SUBJECT_MISMATCH if isinstance(error, SubjectMismatch) else c.CODE_REJECTED,
            problem_message=f"{error}; log in again with the new status.login.authorizationURL",
        )
        await in_thread(self._store.save_session, account.uid, fresh)
        return replace(facts, session=fresh)

    # --- refresh -----------------------------------------------------------------------------------------------------

    async def _refresh(self, facts: Facts, memory: Memory) -> Facts:
        """A new access token, when one is due: by the refresh token, or by a ServiceAccount token."""
        if facts.trouble is not None or not policies.refresh_is_due(facts):
            return facts
        if (held := memory.holds_back(facts.now)) is not None:
            return replace(facts, trouble=held)
        facts = await self._announce(facts)
        is_refresh = facts.account.has_login
        obtain = self._credentials.from_refresh_token if is_refresh else self._credentials.from_service_account
        latest = policies.last_call(facts)
        try:
            refreshed = await self._while_waiting(facts, memory, obtain)
            if policies.forced_refresh(facts) == facts.now:
                memory.last_forced_refresh = facts.now
            return refreshed
        except NotInCharge:
            return facts
        except TokenEndpointUnavailable as error:
            reason = c.REFRESHING if is_refresh else c.EXCHANGING
            trouble = self._put_off(reason, error, facts, memory, latest=latest)
        except (GrantRejected, ExchangeRejected) as error:
            trouble = memory.failed(c.EXCHANGE_REJECTED, error, facts.now, is_stalled=True, latest=latest)
        except ServiceAccountTokenRefused as error:
            refused = c.SERVICE_ACCOUNT_TOKEN_REFUSED
            trouble = memory.failed(refused, error, facts.now, is_stalled=True, latest=latest)
        except (StoreFailed, StoreConflict) as error:
            trouble = memory.failed(c.STORAGE_WRITE_FAILED, error, facts.now, is_stalled=True)
        log.warning("%s: no new access token: %s", facts.account.name, trouble.message)
        return replace(facts, trouble=trouble)

    def _put_off(
        self,
        reason: str,
        error: TokenEndpointUnavailable,
        facts: Facts,
        memory: Memory,
        latest: datetime | None = None,
    ) -> Trouble:
        """Later, and if the provider has had enough of us, then all its accounts."""
        trouble = memory.failed(reason, error, facts.now, is_stalled=False, latest=latest)
        if error.is_throttled:
            self.throttle.hold(facts.account.spec.provider, trouble.retry_at)
        return trouble

    async def _in_turn(self, facts: Facts, memory: Memory, obtain: Obtain) -> Facts:
        """Obtain when it is this account's turn, unless nobody wants that any more."""
        async with self.throttle.turn(facts.account.spec.provider, facts.account.uid):
            account = memory.newest(facts.account)
            if account.spec.suspend or account.deleting:
                return facts
            return await obtain(replace(facts, now=self._clock()))

    async def _while_waiting(self, facts: Facts, memory: Memory, obtain: Obtain) -> Facts:
        """What is obtained. Meanwhile the account is not deaf: a suspension, a cooldown or a deletion does not wait
        for a slow token endpoint, nor for a full disk."""
        request = asyncio.create_task(self._in_turn(facts, memory, obtain))
        memory.news.clear()
        try:
            while not await _comes_first(memory.news.wait(), request):
                memory.news.clear()
                facts = replace(facts, account=memory.newest(facts.account), now=self._clock())
                facts = replace(facts, trouble=self._unsaved.get(facts.account.uid))
                if facts.account.deleting:
                    memory.removal_began = memory.removal_began or self._clock()
                    await asyncio.wait({request}, timeout=LAST_REQUEST_SECONDS)
                    break
                with suppress(httpx2.HTTPError, TimeoutError):
                    await self._publish(facts)
                    memory.latest = memory.newest(await self._report(facts))
            return await request if request.done() else facts
        finally:
            request.cancel()
            self._unsaved.pop(facts.account.uid, None)

    async def _announce(self, facts: Facts) -> Facts:
        """An account that cannot be used meanwhile says what it waits for; one that can says nothing of routine."""
        if policies.readiness(facts).reason == c.REFRESHING:
            with suppress(httpx2.HTTPError):  # the token matters more than the word for it
                return replace(facts, account=await self._report(facts))
        return facts

    async def _report_unsaved(self, facts: Facts, error: StoreFailed) -> None:
        """An answer of the token endpoint waits in memory for the disk: a person should know."""
        trouble = Trouble(c.STORAGE_WRITE_FAILED, f"{error}; tried again every second", NEVER, is_stalled=True)
        self._unsaved[facts.account.uid] = trouble
        with suppress(httpx2.HTTPError):
            await self._report(replace(facts, trouble=trouble))

    # --- publish and report ------------------------------------------------------------------------------------------

    async def _write_access_file(self, facts: Facts, memory: Memory) -> Facts:
        """The access token for the proxies, and none of an account that has none that works."""
        account, credential = facts.account, facts.credential
        if facts.storage_is_unavailable:
            return facts
        try:
            if credential is None or credential.dead is not None:
                await in_thread(self._store.remove_access, account.uid)
                return facts
            wanted = AccessFile(credential.generation, credential.access_token, rfc3339(credential.expires))
            if await in_thread(self._store.access, account.uid) != wanted:
                await in_thread(self._store.save_access, account.uid, wanted)
            metrics.TOKEN_EXPIRES.labels(account.name).set(credential.expires.timestamp())
            return facts
        except StoreFailed as error:
            trouble = memory.failed(c.STORAGE_WRITE_FAILED, error, facts.now, is_stalled=True)
            log.error("%s: %s", account.name, trouble.message)
            return replace(facts, trouble=trouble)

    async def _clear_cooldown(self, facts: Facts) -> Facts:
        """When a person has asked for it: what proxies have reported until now no longer counts."""
        account, request = facts.account, facts.account.clear_request
        if not request or request == account.status.get("lastHandledClearRequest"):
            return facts
        while benching := [r.reporter for r in account.reports if r.reason in (c.QUOTA_EXHAUSTED, c.RATE_LIMITED)]:
            account = await self._cluster.remove_reports(account, benching)
        log.info("%s: its cooldown is cleared, as asked for", account.name)
        return replace(facts, account=account, cleared=request)

    async def _publish(self, facts: Facts) -> None:
        """The index sends proxies to the access file, so a new token is named only when that could be written."""
        entry = render_entry(facts)
        if facts.storage_fails:
            listed = self._index.listed(entry.name)
            if listed is None or listed.uid != entry.uid:
                return
            entry = msgspec.structs.replace(
                entry, generation=listed.generation, fingerprint=listed.fingerprint, expires=listed.expires
            )
        await self._index.publish(entry)

    async def _prune(self, facts: Facts) -> Account:
        """Remove reports that say nothing any more, so that those of replicas which are gone do not pile up."""
        if not (stale := policies.stale_reports(facts)):
            return facts.account
        log.debug("%s: removing old reports of %s", facts.account.name, ", ".join(stale))
        return await self._cluster.remove_reports(facts.account, stale)

    async def _report(self, facts: Facts) -> Account:
        """Status, once, and only what differs; Events for what a person would want to know of it."""
        account, session = facts.account, facts.session
        url = None
        if session is not None and facts.session_is_open and session.state and account.spec.provider in self._endpoints:
            url = self._endpoints[account.spec.provider].authorization_url(session)
        desired = render_status(facts, url)
        current = {name: value for name, value in account.status.items() if name in OWNED}
        patch = merge_patch(current, desired)
        if not patch:
            return account
        written = await self._cluster.patch_status(account, patch)
        for happening in happenings(account.conditions, desired["conditions"]):
            log.info("%s: %s: %s", account.name, happening.reason, happening.message)
            try:
                await self._cluster.post_event(account, happening.kind, happening.reason, happening.message, facts.now)
            except httpx2.HTTPError as error:
                log.warning("%s: Event %s was not posted: %s", account.name, happening.reason, type(error).__name__)
        return written


async def _comes_first(news: Coroutine[Any, Any, object], request: asyncio.Task[Facts]) -> bool:
    """Wait for either; True when it was the request."""
    waiting = asyncio.create_task(news)
    try:
        await asyncio.wait({request, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return request.done()
