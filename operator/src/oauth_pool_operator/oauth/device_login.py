"""Logging in with a device code (RFC 8628): asking the provider for a login, and then whether the person has decided.

Nothing is handed over: the person enters the user code on the provider's page, and the operator asks (each time by a rotation)
until it has an answer. What survives a restart is on the state volume; when to ask next is only remembered.
"""

import logging
import secrets
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.login_policy import HOW_TO_ASK_AGAIN
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    GrantRejected,
    SubjectMismatch,
)
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import DeviceAuthorization
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

SLOW_DOWN_SECONDS = 5  # RFC 8628 3.5


class DeviceLogins:
    """Says when such sessions are asked about, and what becomes of them."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def carry_on(self, facts: Facts, memory: Memory) -> Facts:
        """End the session whose code is a credential by now; of one that is open, say when the provider is asked."""
        session, credential = facts.session, facts.credential
        if session is None or not session.device_code:
            return facts
        if credential is not None and credential.code_digest == login.digest(session.device_code):
            ended = login.end_session(session)
            await in_thread(self._store.save_session, facts.account.uid, ended)
            return replace(facts, session=ended)
        if not facts.session_is_open:
            return facts
        poll = timedelta(seconds=session.poll_seconds)
        is_new = memory.polled != session.session_id or memory.next_poll is None
        if is_new or (memory.next_poll is not None and memory.next_poll > facts.now + poll):
            # also after a restart: the provider may have been asked a moment before it; or by a clock that was wrong
            memory.polled, memory.next_poll = session.session_id, facts.now + poll
        return replace(facts, next_poll=memory.next_poll)

    async def refused(self, facts: Facts, memory: Memory, asked: LoginSession, error: Exception) -> Facts:
        """What an answer means that is no token."""
        session = facts.session
        if session is None or session.session_id != asked.session_id:
            return facts  # the person has asked for another login meanwhile
        if isinstance(error, AuthorizationPending):
            return await self._wait(facts, memory, session, error)
        if isinstance(error, AuthorizationEnded):
            reason = c.LOGIN_EXPIRED if error.has_expired else c.ACCESS_DENIED
            what = "was not completed in time" if error.has_expired else "was refused on the provider's page"
            return await self._end(facts, session, reason, f"the login {what}")
        if isinstance(error, SubjectMismatch):
            return await self._end(facts, session, c.SUBJECT_MISMATCH, str(error))
        if isinstance(error, GrantRejected | ExchangeRejected):
            return await self._end(facts, session, c.CODE_REJECTED, f"the login failed: {error}")
        return facts

    async def _wait(self, facts: Facts, memory: Memory, session: LoginSession, pending: AuthorizationPending) -> Facts:
        if pending.slow_down:
            session = msgspec.structs.replace(session, poll_seconds=session.poll_seconds + SLOW_DOWN_SECONDS)
            await in_thread(self._store.save_session, facts.account.uid, session)
        memory.polled, memory.next_poll = session.session_id, facts.now + timedelta(seconds=session.poll_seconds)
        return replace(facts, session=session)

    async def _end(self, facts: Facts, session: LoginSession, reason: str, what: str) -> Facts:
        """Nothing comes of this login, and the next one is the person's to ask for."""
        account = facts.account
        message = f"{what}; ask for a new login: {HOW_TO_ASK_AGAIN.format(name=account.name)}"
        log.warning("%s: %s", account.name, message)
        ended = msgspec.structs.replace(login.end_session(session), problem=reason, problem_message=message)
        await in_thread(self._store.save_session, account.uid, ended)
        return replace(facts, session=ended)


def open_session(now: datetime, request: str, authorization: DeviceAuthorization) -> LoginSession:
    """A session as the provider granted it (RFC 8628 3.2)."""
    return LoginSession(
        session_id=secrets.token_hex(8),
        start=now,
        expires=now + authorization.lifetime,
        request=request,
        device_code=authorization.device_code,
        user_code=authorization.user_code,
        verification_uri=authorization.verification_uri,
        verification_uri_complete=authorization.verification_uri_complete,
        poll_seconds=authorization.interval.total_seconds(),
    )
