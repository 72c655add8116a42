"""How an account's credential comes to be and is replaced, so that at no instant a kill loses a refresh token.

Each way is: room on the disk (and, for a refresh, a journal) first, then the request, then the answer on the disk, and only
then anybody hears of it. Failures are raised as the errors of `errors`; `reconcile` decides what they mean.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import httpx2
import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.policies import next_generation
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.cluster.api import Cluster, describe
from oauth_pool_operator.config import Profile
from oauth_pool_operator.errors import (
    AuthorizationPending,
    ExchangeRejected,
    GrantRejected,
    StoreFailed,
    SubjectMismatch,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import TokenAnswer
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.storage.documents import Credential, Journal, Owner, fingerprint
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

SAVE_RETRY_SECONDS = 1.0


class Credentials:
    """Obtains credentials from token endpoints and keeps them in the store."""

    def __init__(
        self,
        *,
        store: Store,
        profiles: Mapping[str, Profile],
        endpoints: Mapping[str, TokenEndpoint],
        cluster: Cluster,
        on_unsaved: Callable[[Facts, StoreFailed], Awaitable[None]],
    ) -> None:
        self._store = store
        self._profiles = profiles
        self._endpoints = endpoints
        self._cluster = cluster
        self._on_unsaved = on_unsaved  # told once when an answer cannot be stored for now
        self.unsaved: dict[str, Credential] = {}  # by UID: answers that wait for the disk

    async def from_code(self, facts: Facts) -> Facts:
        """Exchange the code of the session, or its device code; afterwards the session is over."""
        account, session = facts.account, facts.session
        assert session is not None
        code, endpoint = session.device_code or session.code, self._endpoint(account)
        assert code
        digest, credential = login.digest(code), facts.credential
        # Stored, but the session could not be ended: a second exchange would make the provider revoke the grant.
        if credential is None or credential.code_digest != digest:
            await in_thread(self._store.begin_exchange, account.uid, None)
            with _counted(account.name):
                if session.device_code:
                    answer = await endpoint.exchange_device_code(code)
                else:
                    answer = await endpoint.exchange_code(code, session)
            await self._demand_subject(account, answer)
            credential = await self._save_answer(facts, answer, code_digest=digest)
            log.info("%s: logged in, token generation %d", account.name, credential.generation)
        session = login.end_session(session)
        await in_thread(self._store.save_session, account.uid, session)
        return replace(facts, credential=credential, session=session, damaged=None)

    async def from_refresh_token(self, facts: Facts) -> Facts:
        """Refresh. A grant that turns out to be dead is not an error here: the credential says so from then on."""
        account, credential = facts.account, facts.credential
        assert credential is not None
        if credential.refresh_token is None:
            return await self._bury(facts, c.GRANT_REVOKED)
        await in_thread(self._store.begin_exchange, account.uid, Journal.of(credential, facts.now))
        try:
            with _counted(account.name):
                answer = await self._endpoint(account).refresh(credential.refresh_token, account.spec.grant)
        except GrantRejected:
            return await self._confirm_death(facts)
        except (TokenEndpointUnavailable, ExchangeRejected) as error:
            may_be_done = isinstance(error, TokenEndpointUnavailable) and error.may_be_done
            if not may_be_done and not facts.outcome_is_unknown:
                await in_thread(self._store.end_journal, account.uid)
            raise
        credential = await self._save_answer(facts, answer)
        log.info("%s: refreshed, token generation %d", account.name, credential.generation)
        return replace(facts, credential=credential)

    async def from_service_account(self, facts: Facts) -> Facts:
        """Exchange a fresh token of the ServiceAccount. Nothing is lost if the answer is: the next exchange gives another."""
        account = facts.account
        workload, profile = account.spec.workload_identity, self._profiles[account.spec.provider].workload_identity
        assert workload is not None and profile is not None  # the CRD's rule, and `reconcile` has looked
        try:
            assertion = await self._cluster.service_account_token(workload.service_account_name, profile.audience)
        except httpx2.HTTPError as error:
            raise TokenEndpointUnavailable(describe(error), may_be_done=False) from None
        await in_thread(self._store.begin_exchange, account.uid, None)
        with _counted(account.name):
            answer = await self._endpoint(account).exchange_assertion(assertion, workload)
        if answer.subject is None:
            answer = replace(answer, subject=workload.service_account_id or workload.service_account_name)
        credential = await self._save_answer(facts, answer, workload=fingerprint(workload.text))
        log.info("%s: exchanged, token generation %d", account.name, credential.generation)
        return replace(facts, credential=credential, damaged=None)

    async def store(self, account: Account, credential: Credential, *, replaces: int) -> None:
        """On the disk, with whose it is."""
        await in_thread(self._store.save_credential, account.uid, credential, replaces=replaces)
        owner = Owner(account.name, account.namespace, account.spec.provider, account.spec.grant)
        with suppress(StoreFailed):  # the credential is what matters; the next one brings another chance
            await in_thread(self._store.save_owner, account.uid, owner)

    def _endpoint(self, account: Account) -> TokenEndpoint:
        return self._endpoints[account.spec.provider]

    async def _demand_subject(self, account: Account, answer: TokenAnswer) -> None:
        """`SubjectMismatch` when the grant is not of whom the account is for; it is then given back, if that is possible."""
        expected, actual = account.spec.expected_subject, answer.subject
        if expected is None or (actual is not None and actual.casefold() == expected.casefold()):
            return
        try:
            await self._endpoint(account).revoke(answer.refresh_token or answer.access_token, account.spec.grant)
        except (TokenEndpointUnavailable, ExchangeRejected) as error:
            log.warning("%s: a refused login was not revoked: %s", account.name, error)
        who = actual or "somebody whom the provider did not name"
        raise SubjectMismatch(f"{who} logged in, but spec.expectedSubject is {expected}; that login was not taken")

    async def _confirm_death(self, facts: Facts) -> Facts:
        """`invalid_grant`: dead only if what was sent is still what is stored."""
        account, credential = facts.account, facts.credential
        assert credential is not None
        stored = await in_thread(self._store.credential, account.uid)
        if stored is not None and stored.refresh_token != credential.refresh_token:
            log.warning("%s: the refresh token was replaced meanwhile; going on with the newer one", account.name)
            await in_thread(self._store.end_journal, account.uid)
            return replace(facts, credential=stored)
        return await self._bury(facts, c.REFRESH_OUTCOME_UNKNOWN if facts.outcome_is_unknown else c.GRANT_REVOKED)

    async def _bury(self, facts: Facts, reason: str) -> Facts:
        account, credential = facts.account, facts.credential
        assert credential is not None
        dead = msgspec.structs.replace(credential, dead=reason)
        await self._save(facts, dead, replaces=credential.generation)
        log.error("%s: the grant is dead (%s); somebody has to log in again", account.name, reason)
        return replace(facts, credential=dead)

    async def _save_answer(
        self, facts: Facts, answer: TokenAnswer, *, code_digest: str | None = None, workload: str | None = None
    ) -> Credential:
        """The new credential, on the disk. Its life is counted from before the request, so that it never seems longer."""
        before = facts.credential
        kept = before if code_digest is None else None  # a new grant has nothing of the one before
        credential = Credential(
            generation=next_generation(facts),
            access_token=answer.access_token,
            expires=facts.now + answer.lifetime,
            obtained=facts.now,
            refresh_token=answer.refresh_token,
            previous_refresh_token=kept.refresh_token if kept else None,
            subject=answer.subject or (kept.subject if kept else None),
            code_digest=code_digest or (kept.code_digest if kept else None),
            workload=workload,
        )
        await self._save(facts, credential, replaces=before.generation if before else 0)
        return credential

    async def _save(self, facts: Facts, credential: Credential, *, replaces: int) -> None:
        """Does not give up: what is to be saved may exist nowhere else. Only a newer credential on the disk ends it."""
        account, is_told = facts.account, False
        while True:
            try:
                await self.store(account, credential, replaces=replaces)
                self.unsaved.pop(account.uid, None)
                return
            except StoreFailed as error:
                self.unsaved[account.uid] = credential
                log.error("%s: the new credential is not on the disk yet: %s", account.name, error)
                if not is_told:
                    is_told = True
                    await self._on_unsaved(facts, error)
                await asyncio.sleep(SAVE_RETRY_SECONDS)


class _counted:
    """Counts and times one request to the token endpoint, unless it was only a question whether somebody has decided."""

    def __init__(self, account_id: str) -> None:
        self._account_id = account_id

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is AuthorizationPending:
            return
        metrics.REFRESH_SECONDS.observe(time.monotonic() - self._start)
        metrics.TOKEN_REFRESHES.labels(self._account_id, "failure" if kind else "success").inc()
