"""What follows when a rotation fails: when it is tried again, and what a person reads until then.

This module does not decide about a login's code: the next reconcile tells the person what happened to it.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Credential, fingerprint
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.policies import last_call
from oauth_pool_operator.account.trouble import Subject
from oauth_pool_operator.beginnings import Beginning, CodeExchange, Refresh, Revocation
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    CalledOff,
    ExchangeRejected,
    GrantRejected,
    NotInCharge,
    ProviderHeld,
    ServiceAccountTokenRefused,
    StoreConflict,
    StoreFailed,
    SubjectMismatch,
    TokenEndpointUnavailable,
    text_of,
)
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

# After an `invalid_grant`: if it was the provider's mistake, it may be over by then.
SECOND_OPINION = timedelta(seconds=15)
MOST_REVOCATIONS = 8  # attempts; then the operator gives up on revoking the grant


@dataclass
class Setbacks:
    """The setbacks of one rotation. `save` stores a credential in place of the one that it began with."""

    beginning: Beginning
    memory: Memory
    store: Store
    throttle: Throttle
    clock: Callable[[], datetime]
    save: Callable[[Credential], Awaitable[None]]

    async def follow(self, error: Exception, subject: Subject, *, was_asked: bool) -> None:
        """`subject` says what failed, if the error does not."""
        if isinstance(error, NotInCharge | CalledOff):
            return
        if isinstance(self.beginning, CodeExchange) and _is_verdict(error):
            self.memory[Subject.LOGIN].succeeded()
            return
        try:
            if isinstance(self.beginning, Refresh):
                error = await self._refresh_failed(error, was_asked)
            elif isinstance(self.beginning, Revocation):
                error = await self._revocation_failed(error)
        except Exception as worse:  # noqa: BLE001 (the disk's, most likely)
            error = worse
        self._put_off(error, subject)

    async def _refresh_failed(self, error: Exception, was_asked: bool) -> Exception:
        if isinstance(error, GrantRejected):
            return await self._rejected(error)
        if isinstance(error, ExchangeRejected) and error.may_be_the_grant:
            self.memory.refused(self.clock())
        if not _may_be_spent(error, was_asked) and not self.beginning.facts.outcome_is_unknown:
            await in_thread(self.store.end_journal, self.beginning.facts.account.uid)
        return error

    async def _rejected(self, error: GrantRejected) -> Exception:
        """`invalid_grant`: dead only if the token that was sent is still the stored one, and the provider says so twice."""
        facts, memory, sent = self.beginning.facts, self.memory, self._sent
        stored = await in_thread(self.store.credential, self.beginning.facts.account.uid)
        if stored is not None and stored.refresh_token != sent.refresh_token:
            log.warning(
                "%s: the refresh token was replaced meanwhile; going on with the newer one",
                self.beginning.facts.account.name,
            )
            await in_thread(self.store.end_journal, self.beginning.facts.account.uid)
            return CalledOff()
        token = fingerprint(sent.refresh_token or "")
        if sent.dead is None and sent.refresh_token is not None and memory.doubted != token:
            if not facts.outcome_is_unknown:
                await in_thread(self.store.end_journal, self.beginning.facts.account.uid)
            memory.doubted = token
            return _Doubted(error)
        reason = c.REFRESH_OUTCOME_UNKNOWN if facts.outcome_is_unknown else c.GRANT_REVOKED
        await self.save(msgspec.structs.replace(sent, dead=sent.dead or reason))
        memory.doubted = ""
        memory[Subject.REFRESH].succeeded()
        log.error(
            "%s: the grant is dead (%s); somebody has to log in again",
            self.beginning.facts.account.name,
            sent.dead or reason,
        )
        return CalledOff()

    async def _revocation_failed(self, error: Exception) -> Exception:
        """Neither a refusal nor a provider that has long been silent is worth another attempt."""
        is_refused = isinstance(error, ExchangeRejected | GrantRejected)
        if not is_refused and self.memory[Subject.REVOCATION].failures < MOST_REVOCATIONS:
            return error
        log.warning(
            "%s: a grant that is no longer needed could not be revoked; giving up: %s",
            self.beginning.facts.account.name,
            text_of(error),
        )
        await self.save(msgspec.structs.replace(self._sent, to_revoke=()))
        self.memory[Subject.REVOCATION].succeeded()
        return CalledOff()

    def _put_off(self, error: Exception, about: Subject) -> None:
        """Remember when it is tried again, and what a person reads until then."""
        if isinstance(error, CalledOff):
            return
        now, wait = self.clock(), timedelta(0)
        subject, reason, is_stalled = self._kind_of(error, about)
        latest = last_call(replace(self.beginning.facts, now=now)) if subject is not Subject.LOGIN else None
        is_held = isinstance(error, ProviderHeld)
        if isinstance(error, TokenEndpointUnavailable):
            wait, is_held = error.retry_after or wait, is_held or error.is_throttled
        if isinstance(error, _Doubted):
            wait, latest = SECOND_OPINION, now + SECOND_OPINION
        attempts = self.memory[subject]
        attempts.first = self.beginning.first_retry
        trouble = attempts.failed(
            reason, text_of(error), now, is_stalled=is_stalled, at_least=wait, latest=latest, is_held=is_held
        )
        if isinstance(error, TokenEndpointUnavailable) and error.is_throttled:
            self.throttle.hold(self.beginning.facts.account.spec.provider, trouble.retry_at)
        what = "no new access token" if self.beginning.subject is Subject.REFRESH else type(self.beginning).__name__
        log.warning("%s: %s: %s", self.beginning.facts.account.name, what, trouble.message)

    def _kind_of(self, error: Exception, about: Subject) -> tuple[Subject, str, bool]:
        """Which subject has the trouble, its reason, and whether a person has to change something."""
        if isinstance(error, _Doubted):
            return Subject.REFRESH, c.GRANT_DOUBTED, False
        if isinstance(error, TokenEndpointUnavailable):
            return about, self.beginning.waiting, False
        if isinstance(error, GrantRejected | ExchangeRejected):
            return about, c.EXCHANGE_REJECTED, True
        if isinstance(error, ServiceAccountTokenRefused):
            return Subject.CLUSTER, c.SERVICE_ACCOUNT_TOKEN_REFUSED, True
        if isinstance(error, StoreFailed | StoreConflict):
            return Subject.STORAGE, c.STORAGE_UNAVAILABLE, True
        # the traceback names code, not data; the error's own text may quote what was received
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s: unexpected error: %s\n%s", self.beginning.facts.account.name, type(error).__name__, where)
        return about, c.UNEXPECTED, True

    @property
    def _sent(self) -> Credential:
        assert self.beginning.facts.credential is not None
        return self.beginning.facts.credential


class _Doubted(GrantRejected):
    """The provider has said once that the grant is dead."""

    def __init__(self, error: GrantRejected) -> None:
        super().__init__(f"{error}; it is asked once more before anybody has to log in")


def _is_verdict(error: Exception) -> bool:
    """For a code: the provider or we have judged it, or the person has yet to decide."""
    verdicts = GrantRejected | ExchangeRejected | AuthorizationPending | AuthorizationEnded | SubjectMismatch
    return isinstance(error, verdicts)


def _may_be_spent(error: Exception, was_asked: bool) -> bool:
    if isinstance(error, TokenEndpointUnavailable):
        return error.may_be_done
    return was_asked and not isinstance(error, ExchangeRejected)
