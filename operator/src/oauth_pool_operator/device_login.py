"""Logging in with a device code (RFC 8628): asking the provider for a login, and then whether the person has decided.

Nothing is handed over: the person enters the user code on the provider's page, and the operator asks until it has an
answer. What survives a restart is on the state volume; when to ask next is only remembered.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from . import conditions as c
from . import login
from .accounts import rfc3339
from .credentials import Credentials, in_thread
from .documents import LoginSession
from .errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    GrantRejected,
    SubjectMismatch,
    TokenEndpointUnavailable,
)
from .grants import TokenEndpoint
from .policies import Facts, Trouble
from .store import Store

log = logging.getLogger(__name__)

SLOW_DOWN_SECONDS = 5  # RFC 8628 3.5
FIRST_RETRY, LAST_RETRY = timedelta(seconds=1), timedelta(minutes=5)


@dataclass
class Asking:
    """When the provider is asked next about one account's login; may be lost."""

    session_id: str = ""
    next_at: datetime | None = None
    failures: int = 0
    trouble: Trouble | None = None


class DeviceLogins:
    """Opens device logins and sees them through.

    A failure here is a trouble of the login, not of the account: one that works is refreshed all the same.
    """

    def __init__(
        self,
        *,
        store: Store,
        endpoints: Mapping[str, TokenEndpoint],
        credentials: Credentials,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._credentials = credentials
        self._clock = clock

    async def open(self, facts: Facts, request: str, asking: Asking) -> Facts:
        """A new session in place of the one before, once the provider gives one."""
        account = facts.account
        if asking.trouble is not None and facts.now < asking.trouble.retry_at:
            return replace(facts, login_trouble=asking.trouble)
        try:
            authorization = await self._endpoints[account.spec.provider].authorize_device()
        except (TokenEndpointUnavailable, ExchangeRejected, GrantRejected) as error:
            return self._failed(facts, asking, error)
        session = login.open_device_session(self._clock(), request, authorization)
        await in_thread(self._store.save_session, account.uid, session)
        asking.trouble, asking.failures = None, 0
        log.info("%s: login %s is open until %s", account.name, session.session_id, rfc3339(session.expires))
        return replace(facts, session=session)

    async def ask(self, facts: Facts, asking: Asking) -> Facts:
        """Ask whether the person has decided, when it is time for that; what was granted is stored."""
        session = facts.session
        if session is None or not session.device_code or not facts.session_is_open:
            return facts
        if asking.session_id != session.session_id or asking.next_at is None:
            # also after a restart: the provider may have been asked a moment before it
            asking.session_id, asking.failures, asking.trouble = session.session_id, 0, None
            asking.next_at = self._clock() + timedelta(seconds=session.poll_seconds)
        if facts.now < asking.next_at:
            return replace(facts, next_poll=asking.next_at, login_trouble=asking.trouble)
        try:
            return await self._credentials.from_code(facts)
        except AuthorizationPending as pending:
            return await self._wait(facts, session, asking, pending)
        except TokenEndpointUnavailable as error:
            return self._failed(facts, asking, error, at_least=timedelta(seconds=session.poll_seconds))
        except AuthorizationEnded as ended:
            reason = c.LOGIN_EXPIRED if ended.has_expired else c.ACCESS_DENIED
            what = "was not completed in time" if ended.has_expired else "was refused on the provider's page"
            return await self._end(facts, session, reason, f"the login {what}")
        except SubjectMismatch as error:
            return await self._end(facts, session, c.SUBJECT_MISMATCH, str(error))
        except (GrantRejected, ExchangeRejected) as error:
            return await self._end(facts, session, c.CODE_REJECTED, f"the login came to nothing: {error}")

    async def _wait(self, facts: Facts, session: LoginSession, asking: Asking, pending: AuthorizationPending) -> Facts:
        if pending.slow_down:
            session = msgspec.structs.replace(session, poll_seconds=session.poll_seconds + SLOW_DOWN_SECONDS)
        asking.failures, asking.trouble = 0, None
        asking.next_at = self._clock() + timedelta(seconds=session.poll_seconds)
        if pending.slow_down:
            await in_thread(self._store.save_session, facts.account.uid, session)
        return replace(facts, session=session, next_poll=asking.next_at)

    def _failed(self, facts: Facts, asking: Asking, error: Exception, *, at_least: timedelta = FIRST_RETRY) -> Facts:
        """RFC 8628 3.5: a provider that does not answer is asked less and less often."""
        delay = max(at_least, min(at_least * 2**asking.failures, LAST_RETRY))
        if isinstance(error, TokenEndpointUnavailable) and error.retry_after is not None:
            delay = max(delay, error.retry_after)
        asking.failures = min(asking.failures + 1, 16)
        asking.next_at = self._clock() + delay
        is_stalled = not isinstance(error, TokenEndpointUnavailable)
        reason = c.EXCHANGE_REJECTED if is_stalled else c.EXCHANGING
        message = f"{error}; next try at {rfc3339(asking.next_at)}"
        asking.trouble = Trouble(reason, message, asking.next_at, is_stalled)
        log.warning("%s: logging in: %s", facts.account.name, message)
        return replace(facts, login_trouble=asking.trouble)

    async def _end(self, facts: Facts, session: LoginSession, reason: str, what: str) -> Facts:
        """Nothing comes of this login, and the next one is the person's to ask for."""
        account = facts.account
        message = f"{what}; ask for a new login: {login.HOW_TO_ASK_AGAIN.format(name=account.name)}"
        log.warning("%s: %s", account.name, message)
        ended = msgspec.structs.replace(login.end_session(session), problem=reason, problem_message=message)
        await in_thread(self._store.save_session, account.uid, ended)
        return replace(facts, session=ended)
