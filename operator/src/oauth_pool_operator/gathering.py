"""Gathers what is known about an account: the state volume, the rotation in progress, and past failures."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account import policies
from oauth_pool_operator.account.documents import Credential, Journal, Waits, fingerprint
from oauth_pool_operator.account.facts import NEVER, Facts
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.account.trouble import Subject, Trouble
from oauth_pool_operator.delivery import Delivery
from oauth_pool_operator.errors import StoreCorrupt, StoreFailed
from oauth_pool_operator.oauth import terms
from oauth_pool_operator.oauth.profiles import Profile
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.rotation import put
from oauth_pool_operator.rotations import Rotations
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Gathering:
    """Gathers it, for any account, and keeps what has to be known again after a restart."""

    def __init__(
        self,
        *,
        store: Store,
        profiles: Mapping[str, Profile],
        broken_profiles: Mapping[str, str],
        delivery: Delivery,
        rotations: Rotations,
        throttle: Throttle,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._profiles = profiles
        self._broken_profiles = broken_profiles
        self._delivery = delivery
        self._rotations = rotations
        self._throttle = throttle
        self._clock = clock

    async def gather(self, account: Account, memory: Memory) -> Facts:
        """What is known. Checks for a rotation in progress first: it may overtake what is read afterwards."""
        is_rotating = self._rotations.of(account.uid) is not None
        facts = Facts(account, self._clock(), is_rotating=is_rotating)
        try:
            await self._recall(facts, memory)
            facts = await self._read_all(facts, memory)
        except StoreFailed as error:
            memory[Subject.STORAGE].failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
            facts = replace(facts, is_unread=True)
        return self._with_memory(facts, memory)

    async def remember(self, facts: Facts, memory: Memory) -> Facts:
        """Store it: a crash loop must not ask a provider that asked us to wait. Best effort."""
        if facts.is_unread or (waits := memory.waits()) == memory.saved:
            return facts
        if waits.says_something or (memory.saved is not None and memory.saved.says_something):
            try:
                await in_thread(self._store.save_waits, facts.account.uid, waits)
            except StoreFailed as error:
                log.debug("%s: what it waits for is not on disk: %s", facts.account.name, error)
                return facts
        memory.saved = waits
        return facts

    async def _recall(self, facts: Facts, memory: Memory) -> None:
        """At the first look: what must not be forgotten by a restart. At each: a changed spec may work where the old did not."""
        account = facts.account
        if memory.saved is None:
            try:
                waits = await in_thread(self._store.waits, account.uid)
                memory.restore(waits if waits is not None else Waits())
            except StoreCorrupt as error:
                log.warning("%s: %s; what it says about waiting is forgotten", account.name, error)
                memory.saved = Waits()
            for trouble in memory.troubles().values():
                if trouble.is_held:
                    self._throttle.hold(account.spec.provider, trouble.retry_at)
        if memory.generation != account.generation:
            memory.try_anew()
            memory.generation = account.generation

    async def _read_all(self, facts: Facts, memory: Memory) -> Facts:
        store, account = self._store, facts.account
        credential = await self._read(facts, "credential.json", store.credential)
        session = await self._read(facts, "login.json", store.session)
        rescued = await in_thread(store.rescued, account.uid) if memory.may_have_rescued else {}
        if not facts.is_rotating:
            credential, rescued = await self._take_rescued(facts, credential, rescued)
            memory.may_have_rescued = bool(rescued)
        journal = await self._read_journal(facts, credential)
        damaged = None if credential else await in_thread(store.damaged_credential, account.uid)
        if damaged is not None:
            credential = policies.salvaged(await self._delivery.held(account.uid), facts)
        return replace(
            facts,
            credential=credential,
            journal=journal,
            session=session,
            damaged=damaged,
            rescued=tuple(rescued),
        )

    def _with_memory(self, facts: Facts, memory: Memory) -> Facts:
        """What is remembered of troubles, and what is wrong with the spec."""
        token = facts.credential.refresh_token if facts.credential is not None else None
        facts = replace(
            facts,
            troubles=memory.troubles(),
            last_forced_refresh=memory.last_forced_refresh,
            is_doubted=token is not None and memory.doubted == fingerprint(token),
            refusals=memory.refusals,
            refused_since=memory.refused_since,
            refreshed=memory.handled_refresh,
        )
        facts = self._with_login_terms(facts.with_trouble(Subject.SPEC, self._spec_trouble(facts.account)))
        if (unsaved := self._rotations.trouble(facts.account.uid)) is not None:
            facts = facts.with_trouble(Subject.STORAGE, unsaved)
        elif facts.rescued and Subject.STORAGE not in facts.troubles:
            facts = facts.with_trouble(Subject.STORAGE, _about_rescued(facts.rescued))
        return facts

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
            log.error("%s: %s; treated as a refresh of unknown outcome", facts.account.name, error)
            return Journal.of(credential, facts.now)

    async def _take_rescued(
        self, facts: Facts, credential: Credential | None, rescued: dict[str, Credential]
    ) -> tuple[Credential | None, dict[str, Credential]]:
        """A token that was kept beside takes its place, if it follows from the one that is there."""
        account, rest = facts.account, dict(rescued)
        for name, kept in rescued.items():
            if kept != credential and not _follows(kept, credential):
                continue
            if kept != credential:
                await put(self._store, account, kept, replaces=credential)
                log.warning("%s: %s has taken its place", account.name, name)
                credential = kept
            await in_thread(self._store.end_rescue, account.uid, name)
            del rest[name]
        return credential, rest

    def _spec_trouble(self, account: Account) -> Trouble | None:
        provider = account.spec.provider
        if account.spec_problem:
            what = f"this operator cannot read its spec: {account.spec_problem}"
            message = f"{what}; correct it, or run the version of the operator that matches the cluster's CRD"
            return Trouble(c.INVALID_SPEC, message, NEVER, is_stalled=True)
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

    def _with_login_terms(self, facts: Facts) -> Facts:
        """Whether anybody can log in at all, which is the trouble of a login, or of an account that has nothing but that."""
        spec = facts.account.spec
        if facts.spec_is_wrong or facts.is_unread:
            return facts
        if (problem := terms.why_no_login(spec, self._profiles[spec.provider])) is None:
            return facts
        subject = Subject.LOGIN if policies.is_used(facts.credential, facts) else Subject.SPEC
        return facts.with_trouble(subject, Trouble(c.INVALID_SPEC, problem, NEVER, is_stalled=True))


def _follows(kept: Credential, stored: Credential | None) -> bool:
    """`kept` was granted for the very token that is stored, or there is none: it is the newer one, and the other is spent."""
    if stored is None:
        return True
    return kept.generation >= stored.generation and kept.previous_refresh_token == stored.refresh_token is not None


def _about_rescued(names: tuple[str, ...]) -> Trouble:
    message = (
        f"a granted token could not be stored in its place, because a newer credential was there; it is kept as "
        f"{', '.join(names)}: remove that file when the account works"
    )
    return Trouble(c.TOKEN_RESCUED, message, NEVER, is_stalled=True)
