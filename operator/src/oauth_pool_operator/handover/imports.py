"""Takes credentials that a person handed over with `oauth-pool-operator import` or `adopt`.

They wait in a separate file on the state volume until the operator takes them. Nothing is lost on the way: the file is removed
last, and every step is safe to repeat.
"""

import logging
from contextlib import suppress
from dataclasses import replace

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Credential, Import
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.policies import next_generation
from oauth_pool_operator.account.spec import IMPORT_ANNOTATION, Account
from oauth_pool_operator.account.trouble import Subject
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.errors import StoreConflict, StoreCorrupt, StoreFailed
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.lifetime import DEFAULT_LIFETIME, LONGEST_LIFETIME
from oauth_pool_operator.rotation import put
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)


class Imports:
    """Takes what was handed over."""

    def __init__(self, *, store: Store, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster

    async def take(self, facts: Facts, memory: Memory) -> Facts:
        """What was handed over for the account, if anything was; whoever waits for it sees the annotation go."""
        if facts.is_unread or facts.is_rotating:
            return facts
        try:
            facts = await self._take(facts, memory)
        except (StoreFailed, StoreConflict) as error:
            trouble = memory[Subject.STORAGE].failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
            return facts.with_trouble(Subject.STORAGE, trouble)
        if IMPORT_ANNOTATION in facts.account.annotations:
            facts = replace(facts, account=await self._cluster.remove_annotation(facts.account, IMPORT_ANNOTATION))
        return facts

    async def _take(self, facts: Facts, memory: Memory) -> Facts:
        account = facts.account
        given = await self._handed_over(account)
        if given is None:
            return facts
        if account.has_login:
            facts = await self._store_in_place(facts, given)
            memory.try_anew()  # what failed with the old credential may work with this one
            kept = replace(facts, troubles={}, refusals=0, is_doubted=False)
            facts = kept.with_trouble(Subject.SPEC, facts.troubles.get(Subject.SPEC))
        else:
            log.warning("%s: a credential was handed over, but its grant needs none", account.name)
        await in_thread(self._store.end_import, account.uid, given)
        return facts

    async def _handed_over(self, account: Account) -> Import | None:
        try:
            return await in_thread(self._store.imported, account.uid)
        except StoreCorrupt as error:
            log.warning("%s: %s; it has to be handed over again", account.name, error)
            await in_thread(self._store.end_import, account.uid, None)
            return None

    async def _store_in_place(self, facts: Facts, given: Import) -> Facts:
        """In place of the credential that is there; a login that is open is no longer needed."""
        account, credential, session = facts.account, facts.credential, facts.session
        if credential is None or credential.code_digest != login.digest(given.request):
            before, credential = credential, _as_credential(given, facts)
            await put(self._store, account, credential, replaces=before)
            log.info("%s: imported, token generation %d", account.name, credential.generation)
        if session is not None and not session.is_over:
            session = login.end_session(session)
            await in_thread(self._store.save_session, account.uid, session)
        if given.retained_uid is not None:
            await self._remove_source(given, given.retained_uid)
        return replace(facts, credential=credential, session=session, damaged=None)

    async def _remove_source(self, given: Import, uid: str) -> None:
        """The folder that it is from, if that holds it still: two accounts cannot share a refresh token."""
        with suppress(StoreCorrupt):
            source = await in_thread(self._store.credential, uid)
            if source is not None and source.refresh_token == given.refresh_token:
                await in_thread(self._store.remove_state, uid)


def _as_credential(given: Import, facts: Facts) -> Credential:
    expires = max(facts.now, min(given.expires, facts.now + LONGEST_LIFETIME))
    return Credential(
        generation=next_generation(facts),
        access_token=given.access_token,
        expires=expires,
        # nobody knows when; as if it had lived an hour at least, so that one about to expire is refreshed at once
        obtained=min(facts.now, expires - DEFAULT_LIFETIME),
        refresh_token=given.refresh_token,
        subject=given.subject,
        code_digest=login.digest(given.request),
    )
