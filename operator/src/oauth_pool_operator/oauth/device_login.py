"""Logging in with a device code (RFC 8628): asking the provider for a login, and then whether the person has decided.

Nothing is handed over: the person enters the user code on the provider's page, and the operator asks until it has an
answer. What survives a restart is on the state volume; when to ask next is only remembered.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.backoff import FIRST_RETRY
from oauth_pool_operator.credentials import Credentials
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    GrantRejected,
    SubjectMismatch,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.exchanges import Exchanges
from oauth_pool_operator.memory import Asking, Memory
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import DeviceAuthorization
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.storage.documents import LoginSession
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

SLOW_DOWN_SECONDS = 5  # RFC 8628 3.5


class DeviceLogins:
    """Opens such logins and sees them through.

    A failure here is a trouble of the login, not of the account: one that works is refreshed all the same.
    """

    def __init__(
        self,
        *,
        store: Store,
        endpoints: Mapping[str, TokenEndpoint],
        credentials: Credentials,
        exchanges: Exchanges,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._credentials = credentials
        self._exchanges = exchanges
        self._clock = clock

    async def open(self, facts: Facts, memory: Memory) -> Facts:
        """A new session in place of the one before, once the provider gives one."""
        if (held := memory.asking.holds_back(facts.now)) is not None:
            return replace(facts, login_trouble=held)
        try:
            facts = await self._exchanges.run(facts, memory, self._authorize)
        except (TokenEndpointUnavailable, ExchangeRejected, GrantRejected) as error:
            return self._failed(facts, memory.asking, error)
        memory.asking.succeeded()
        return facts

    async def carry_on(self, facts: Facts, memory: Memory) -> Facts:
        """Ask whether the person has decided, when it is time for that; what was granted is stored."""
        session, asking = facts.session, memory.asking
        if session is None or not session.device_code or not facts.session_is_open:
            return facts
        poll = timedelta(seconds=session.poll_seconds)
        if asking.session_id != session.session_id or asking.next_at is None:
            # also after a restart: the provider may have been asked a moment before it
            asking.session_id, asking.next_at = session.session_id, self._clock() + poll
            asking.succeeded()
        if facts.now < asking.next_at:
            return replace(facts, next_poll=asking.next_at, login_trouble=asking.trouble)
        try:
            return await self._exchanges.run(facts, memory, self._credentials.from_code)
        except AuthorizationPending as pending:
            return await self._wait(facts, session, asking, pending)
        except TokenEndpointUnavailable as error:
            return self._failed(facts, asking, error, earliest=poll)
        except AuthorizationEnded as ended:
            reason = c.LOGIN_EXPIRED if ended.has_expired else c.ACCESS_DENIED
            what = "was not completed in time" if ended.has_expired else "was refused on the provider's page"
            return await self._end(facts, session, reason, f"the login {what}")
        except SubjectMismatch as error:
            return await self._end(facts, session, c.SUBJECT_MISMATCH, str(error))
        except (GrantRejected, ExchangeRejected) as error:
            return await self._end(facts, session, c.CODE_REJECTED, f"the login came to nothing: {error}")

    async def _authorize(self, facts: Facts) -> Facts:
        account = facts.account
        authorization = await self._endpoints[account.spec.provider].authorize_device()
        session = _opened(self._clock(), account.login_request or "", authorization)
        await in_thread(self._store.save_session, account.uid, session)
        log.info("%s: login %s is open until %s", account.name, session.session_id, rfc3339(session.expires))
        return replace(facts, session=session)

    async def _wait(self, facts: Facts, session: LoginSession, asking: Asking, pending: AuthorizationPending) -> Facts:
        if pending.slow_down:
            session = msgspec.structs.replace(session, poll_seconds=session.poll_seconds + SLOW_DOWN_SECONDS)
        asking.succeeded()
        asking.next_at = self._clock() + timedelta(seconds=session.poll_seconds)
        if pending.slow_down:
            await in_thread(self._store.save_session, facts.account.uid, session)
        return replace(facts, session=session, next_poll=asking.next_at)

    def _failed(self, facts: Facts, asking: Asking, error: Exception, *, earliest: timedelta = FIRST_RETRY) -> Facts:
        """RFC 8628 3.5: a provider that does not answer is asked less and less often."""
        facts = replace(facts, now=self._clock())
        if isinstance(error, TokenEndpointUnavailable):
            trouble = self._exchanges.put_off(asking, c.EXCHANGING, error, facts, earliest=earliest)
        else:
            trouble = asking.failed(c.EXCHANGE_REJECTED, error, facts.now, is_stalled=True)
        asking.next_at = trouble.retry_at
        log.warning("%s: logging in: %s", facts.account.name, trouble.message)
        return replace(facts, login_trouble=trouble)

    async def _end(self, facts: Facts, session: LoginSession, reason: str, what: str) -> Facts:
        """Nothing comes of this login, and the next one is the person's to ask for."""
        account = facts.account
        message = f"{what}; ask for a new login: {login.HOW_TO_ASK_AGAIN.format(name=account.name)}"
        log.warning("%s: %s", account.name, message)
        ended = msgspec.structs.replace(login.end_session(session), problem=reason, problem_message=message)
        await in_thread(self._store.save_session, account.uid, ended)
        return replace(facts, session=ended)


def _opened(now: datetime, request: str, authorization: DeviceAuthorization) -> LoginSession:
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
