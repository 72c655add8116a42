"""Logging in with an authorization code (RFC 6749 4.1): a person opens a page and hands over what it shows.

The code comes as an annotation. It moves to the state volume, from there to the token endpoint (by a rotation), and is not
kept. It is tried again and again while its session lasts, and not beyond that.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.login_policy import HOW_TO_ASK_AGAIN
from oauth_pool_operator.account.spec import CODE_ANNOTATION, rfc3339
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.errors import ExchangeRejected, GrantRejected, StoreFailed, SubjectMismatch
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.profiles import Profile
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)


class CodeLogins:
    """Opens such sessions, and says what becomes of them."""

    def __init__(self, *, store: Store, profiles: Mapping[str, Profile], cluster: Cluster) -> None:
        self._store = store
        self._profiles = profiles
        self._cluster = cluster

    async def take_pasted_code(self, facts: Facts) -> Facts:
        """The code moves to the state volume first, then leaves the object: public for no longer than that takes.

        It leaves the object, too, when it cannot be kept, or is of no use: the person may give it again.
        """
        account = facts.account
        if account.pasted_code is None:
            return facts
        try:
            session = await self._keep(facts, account.pasted_code)
        except StoreFailed:
            log.warning("%s: the code could not be stored on the state volume: hand it over again later", account.name)
            raise
        finally:
            account = await self._cluster.remove_annotation(account, CODE_ANNOTATION)
        return replace(facts, account=account, session=session)

    async def open(self, facts: Facts) -> Facts:
        """A new session in place of the one before."""
        account = facts.account
        session = login.open_session(facts.now, account.login_request)
        await in_thread(self._store.save_session, account.uid, session)
        log.info("%s: login %s is open until %s", account.name, session.session_id, rfc3339(session.expires))
        return replace(facts, session=session)

    async def carry_on(self, facts: Facts) -> Facts:
        """End the session whose code is a credential by now, or whose time is over with its code not exchanged."""
        session, credential = facts.session, facts.credential
        if session is None or session.is_over or session.code is None:
            return facts
        if credential is not None and credential.code_digest == login.digest(session.code):
            ended = login.end_session(session)
        elif session.expires <= facts.now:
            ask_again = HOW_TO_ASK_AGAIN.format(name=facts.account.name)
            what = f"the provider did not accept the code before the login expired; ask for a new one: {ask_again}"
            ended = msgspec.structs.replace(login.end_session(session), problem=c.LOGIN_EXPIRED, problem_message=what)
            log.warning("%s: %s", facts.account.name, what)
        else:
            return facts
        await in_thread(self._store.save_session, facts.account.uid, ended)
        return replace(facts, session=ended)

    async def refused(self, facts: Facts, exchanged: LoginSession, error: Exception) -> Facts:
        """A code is good for one exchange; after a refusal there is a new session, so that the person has a fresh URL."""
        session, is_final = facts.session, isinstance(error, GrantRejected | ExchangeRejected | SubjectMismatch)
        if session is None or (session.session_id, session.code) != (exchanged.session_id, exchanged.code):
            return facts  # the person has gone on already
        if not is_final:
            return facts
        log.warning("%s: the login was refused: %s", facts.account.name, error)
        fresh = msgspec.structs.replace(
            login.open_session(facts.now, session.request),
            handled_code=session.handled_code,
            problem=c.SUBJECT_MISMATCH if isinstance(error, SubjectMismatch) else c.CODE_REJECTED,
            problem_message=f"{error}; log in again with the new status.login.authorizationURL",
        )
        await in_thread(self._store.save_session, facts.account.uid, fresh)
        return replace(facts, session=fresh)

    async def _keep(self, facts: Facts, pasted: str) -> LoginSession | None:
        account, session = facts.account, facts.session
        if account.spec.grant != "AuthorizationCode":
            log.warning("%s: a code was handed over, but grant %s needs none", account.name, account.spec.grant)
            return session
        if facts.is_unread:
            log.warning(
                "%s: a code was handed over, but the state volume cannot be read: hand it over again later",
                account.name,
            )
            return session
        if session is not None and session.handled_code == login.digest(pasted):
            return session
        profile = self._profiles.get(account.spec.provider)
        settings = profile.authorization_code if profile is not None else None
        may_be_bare = settings is not None and settings.allow_code_without_state
        issuer = settings.issuer if settings is not None else None
        session = login.judge(session, pasted, facts.now, account.name, allow_without_state=may_be_bare, issuer=issuer)
        await in_thread(self._store.save_session, account.uid, session)
        if session.problem is not None:
            log.warning("%s: %s", account.name, session.problem_message)
        return session
