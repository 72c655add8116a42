"""The life of a token: how one comes to be, and how it is replaced, so that nothing that is killed, raises or hangs loses one.

    idle ─────▶ reserved ─────▶ asked ─────▶ answered ─────▶ stored ─────▶ published
    waits for   a journal, and  the request  what came is    on the disk,  by the reconcile
    its turn    room for the    is with the  nowhere else:   the journal   that follows: access
                answer, fsynced provider     kept until it   ended         file, index, status
                                             is stored, also
                                             beside

    called off   before `asked`, by a deletion; while it waits for its turn, also by a suspension. By nothing else, ever
    not begun    this operator is ending, or must not spend: looked at when its turn comes, and again right before the request
    put off      no answer, or one that means nothing: the journal stays if the token may be spent, and the same is asked again
    doubted      `invalid_grant`: asked once more, and dead only if that is answered the same
    rescued      somebody has stored a newer credential meanwhile: the answer is written beside it

A rotation is a task of its account beside its reconciles, at most one at a time, and begun by them. It holds the turn at the
endpoint until it is answered, and has `timeout_secs` for that. It raises nothing: what became of it is its `outcome`, the
account's `Memory`, and the disk. What it begins with is in `beginnings`.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum

import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Credential, Owner, fingerprint
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.policies import forced_refresh, is_last_call, last_call
from oauth_pool_operator.account.spec import Account, rfc3339
from oauth_pool_operator.account.trouble import Subject, Trouble
from oauth_pool_operator.beginnings import Beginning, CodeExchange, Refresh, Revocation
from oauth_pool_operator.config import Profile
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
)
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import DeviceAuthorization, TokenAnswer
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

SAVE_RETRY_SECONDS = 1.0
# After an `invalid_grant`: what was the provider's mistake has passed by then, or it has not.
SECOND_OPINION = timedelta(seconds=15)
MOST_REVOCATIONS = 8  # tries; afterwards a grant that nobody needs is left to the provider
# RFC 6749 5.2: these blame the client, so they say nothing about the grant.
_CLIENT_WORDS = ("invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_target")


class Stage(IntEnum):
    """How far a rotation has come."""

    IDLE = 0
    RESERVED = 1
    ASKED = 2
    ANSWERED = 3
    STORED = 4


@dataclass(frozen=True)
class Outcome:
    """What became of a rotation; `error` is None for one that ended well."""

    beginning: Beginning
    error: Exception | None = None


@dataclass(frozen=True)
class Tools:
    """What every rotation works with."""

    store: Store
    profiles: Mapping[str, Profile]
    endpoints: Mapping[str, TokenEndpoint]
    throttle: Throttle
    clock: Callable[[], datetime]


async def put(store: Store, account: Account, credential: Credential, *, replaces: Credential | None) -> None:
    """On the disk, with whose it is: for what has a copy elsewhere, and for what a rotation does not give up on."""
    generation = replaces.generation if replaces is not None else 0
    await in_thread(lambda: store.save_credential(account.uid, credential, replaces=generation))
    owner = Owner(account.name, account.namespace, account.spec.provider, account.spec.grant)
    with suppress(StoreFailed):  # the credential is what matters; the next one brings another chance
        await in_thread(store.save_owner, account.uid, owner)


class Rotation:
    """One of them. `run` is its whole life but for the publishing."""

    def __init__(self, tools: Tools, beginning: Beginning, memory: Memory, tell: Callable[[], None]) -> None:
        self.stage = Stage.IDLE
        self.trouble: Trouble | None = None  # why its answer is not on the disk yet
        self.beginning = beginning
        self._tools = tools
        self._memory = memory
        self._tell = tell  # a reconcile should look
        self._subject = beginning.subject
        self.was_given_back = False
        self._is_waiting = self._is_called_off = self._is_unwanted = False
        self._task: asyncio.Task[Outcome] | None = None

    def start(self) -> asyncio.Task[Outcome]:
        self._task = asyncio.create_task(self._run(), name=f"rotation {self._account.uid}")
        return self._task

    def call_off(self) -> None:
        """Ask for nothing any more, if nothing was asked for yet."""
        self._is_called_off = True
        if self._is_waiting and self._task is not None:
            self._task.cancel()

    def withdraw(self) -> None:
        """Nobody wants it for now: call it off, if it still waits for its turn."""
        if self._is_waiting:
            self.call_off()

    def give_back(self) -> None:
        """Nobody wants what comes of it: revoke it instead of storing it."""
        self.call_off()
        self._is_unwanted = True

    # --- the life ----------------------------------------------------------------------------------------------------

    async def _run(self) -> Outcome:
        try:
            await self._live()
        except asyncio.CancelledError:
            if not self._is_called_off:
                raise  # the process ends
            return Outcome(self.beginning, CalledOff())
        except Exception as error:  # noqa: BLE001 (whatever it is, it costs this account a delay, and no other anything)
            await self._came_to_nothing(error)
            return Outcome(self.beginning, error)
        self._memory[self.beginning.subject].succeeded()
        return Outcome(self.beginning)

    async def _live(self) -> None:
        provider, uid = self._account.spec.provider, self._account.uid
        self._is_waiting = True
        async with self._tools.throttle.turn(provider, uid, is_last_call=self._cannot_wait):
            self._is_waiting = False
            await self._reserve()
            answer = await self._ask()
        self.stage = Stage.ANSWERED
        await self._keep(answer)
        self.stage = Stage.STORED

    async def _reserve(self) -> None:
        """Room for the answer, so that a full disk shows before a token is spent; and the journal."""
        self._demand_wanted()
        if isinstance(self.beginning, Refresh) and self._credential.refresh_token is None:
            raise GrantRejected("the provider gave no refresh token")
        reserves = self.beginning.reserves
        if not reserves or self._memory.reserved != reserves:
            journal = self.beginning.journal(self._tools.clock())
            await in_thread(self._tools.store.begin_exchange, self._account.uid, journal)
            self._memory.reserved = reserves
            self._memory[Subject.STORAGE].succeeded()
        self.stage = Stage.RESERVED

    async def _ask(self) -> TokenAnswer | DeviceAuthorization | None:
        await self._prepare()
        # The disk may have taken its time. From here to the request there is nothing that could.
        self._tools.throttle.demand_right_to_spend()
        self._demand_wanted()
        self.stage, self.asked = Stage.ASKED, self._tools.clock()
        seconds = self._tools.profiles[self._account.spec.provider].timeout_secs
        with _timed(self._account.name, self.beginning):
            try:
                async with asyncio.timeout(seconds):
                    return await self.beginning.ask(self._endpoint)
            except TimeoutError:
                late = f"the provider did not answer within {seconds:g} s"
                raise TokenEndpointUnavailable(late, may_be_done=True) from None

    async def _prepare(self) -> None:
        self._subject = Subject.CLUSTER
        await self.beginning.prepare()
        self._subject = self.beginning.subject
        self._memory[Subject.CLUSTER].succeeded()

    def _demand_wanted(self) -> None:
        if self._is_called_off:
            raise CalledOff

    @property
    def _cannot_wait(self) -> bool:
        """Also while the provider is left alone: the token is about to expire, or a person wants it now."""
        is_needed = is_last_call(self.beginning.facts) or self.beginning.facts.refresh_is_wanted
        return self.beginning.subject is Subject.REFRESH and is_needed

    # --- answered: what it may have cost a token must not be lost ----------------------------------------------------

    async def _keep(self, answer: TokenAnswer | DeviceAuthorization | None) -> None:
        if isinstance(answer, TokenAnswer):
            await self.beginning.demand(answer, self._endpoint)
            credential = self.beginning.credential(answer, self.asked)
            await self._store(credential)
            self._has_a_new_token()
            log.info("%s: token generation %d is stored", self._account.name, credential.generation)
        elif isinstance(answer, DeviceAuthorization):
            session = login.open_device_session(self._tools.clock(), self._account.login_request, answer)
            await in_thread(self._tools.store.save_session, self._account.uid, session)
            log.info("%s: login %s is open until %s", self._account.name, session.session_id, rfc3339(session.expires))
        else:
            await self._forget_revoked()

    def _has_a_new_token(self) -> None:
        """What was known of the one before is of no use."""
        memory, facts = self._memory, self.beginning.facts
        memory.reserved = memory.doubted = ""
        memory.refusals, memory.refused_since = 0, None
        if forced_refresh(facts) == facts.now:
            memory.last_forced_refresh = self.asked

    async def _store(self, credential: Credential) -> None:
        """On the disk, with whose it is. Does not give up: what is to be stored may exist nowhere else."""
        rescued = ""
        while not self._is_unwanted:
            try:
                await self._save(credential)
                break
            except StoreConflict as error:
                if await self._is_there(credential):  # stored, and then the disk failed
                    break
                log.error("%s: somebody else has stored a newer credential: %s", self._account.name, error)
                if await self._rescue(credential):
                    break
            except Exception as error:  # noqa: BLE001 (nothing is a reason to throw it away)
                rescued = rescued or await self._rescue(credential)
                self._complain(error)
            await asyncio.sleep(SAVE_RETRY_SECONDS)
        if self._is_unwanted:
            await self._revoke(credential)
        self.trouble = None
        if rescued and await self._is_there(credential):
            with suppress(StoreFailed):
                await in_thread(self._tools.store.end_rescue, self._account.uid, rescued)

    async def _is_there(self, credential: Credential) -> bool:
        try:
            return await in_thread(self._tools.store.credential, self._account.uid) == credential
        except StoreFailed:
            return False

    async def _save(self, credential: Credential) -> None:
        await put(self._tools.store, self._account, credential, replaces=self.beginning.facts.credential)

    async def _rescue(self, credential: Credential) -> str:
        """Beside the credential whose place it cannot take; empty when not even that is possible."""
        try:
            name = await in_thread(self._tools.store.rescue, self._account.uid, credential, self.asked)
            log.error("%s: the new credential is kept as %s", self._account.name, name)
        except Exception as error:  # noqa: BLE001 (it is tried again)
            log.error("%s: the new credential cannot be kept beside either: %s", self._account.name, _text(error))
            return ""
        return name

    def _complain(self, error: Exception) -> None:
        """A person should know, once."""
        log.error("%s: the new credential is not on the disk yet: %s", self._account.name, _text(error))
        if self.trouble is None:
            message = f"{_text(error)}; tried again every second"
            self.trouble = Trouble(c.STORAGE_UNAVAILABLE, message, NEVER, is_stalled=True)
            self._tell()

    async def _revoke(self, credential: Credential) -> None:
        try:
            await self._endpoint.revoke(credential.refresh_token or credential.access_token, self._account.spec.grant)
            self.was_given_back = True
            log.info("%s: what came too late was given back", self._account.name)
        except (TokenEndpointUnavailable, ExchangeRejected) as error:
            log.warning("%s: what came too late was not given back: %s", self._account.name, error)

    async def _forget_revoked(self) -> None:
        credential = msgspec.structs.replace(self._credential, to_revoke=())
        await self._save(credential)
        log.info("%s: a grant that nobody needs any more is given back", self._account.name)

    # --- what else may become of it ----------------------------------------------------------------------------------

    async def _came_to_nothing(self, error: Exception) -> None:
        """What follows for the next try. What a person reads of a login that failed is the next reconcile's business."""
        if isinstance(error, NotInCharge | CalledOff):
            return
        if isinstance(self.beginning, CodeExchange) and _is_verdict(error):
            self._memory[Subject.LOGIN].succeeded()
            return
        try:
            if isinstance(self.beginning, Refresh):
                error = await self._refresh_failed(error)
            elif isinstance(self.beginning, Revocation):
                error = await self._revocation_failed(error)
        except Exception as worse:  # noqa: BLE001 (the disk's, most likely)
            error = worse
        self._put_off(error)

    async def _refresh_failed(self, error: Exception) -> Exception:
        if isinstance(error, GrantRejected):
            return await self._rejected(error)
        if isinstance(error, ExchangeRejected) and error.word not in _CLIENT_WORDS:
            self._memory.refused(self._tools.clock())
        if not self._may_be_spent(error) and not self.beginning.facts.outcome_is_unknown:
            await in_thread(self._tools.store.end_journal, self._account.uid)
        return error

    def _may_be_spent(self, error: Exception) -> bool:
        if isinstance(error, TokenEndpointUnavailable):
            return error.may_be_done
        return self.stage >= Stage.ASKED and not isinstance(error, ExchangeRejected)

    async def _rejected(self, error: GrantRejected) -> Exception:
        """`invalid_grant`: dead only if what was sent is still what is stored, and if it is said twice."""
        facts, memory, sent = self.beginning.facts, self._memory, self._credential
        stored = await in_thread(self._tools.store.credential, self._account.uid)
        if stored is not None and stored.refresh_token != sent.refresh_token:
            log.warning("%s: the refresh token was replaced meanwhile; going on with the newer", self._account.name)
            await in_thread(self._tools.store.end_journal, self._account.uid)
            return CalledOff()
        token = fingerprint(sent.refresh_token or "")
        if sent.dead is None and sent.refresh_token is not None and memory.doubted != token:
            if not facts.outcome_is_unknown:
                await in_thread(self._tools.store.end_journal, self._account.uid)
            memory.doubted = token
            return _Doubted(error)
        reason = c.REFRESH_OUTCOME_UNKNOWN if facts.outcome_is_unknown else c.GRANT_REVOKED
        await self._save(msgspec.structs.replace(sent, dead=sent.dead or reason))
        memory.doubted = ""
        memory[Subject.REFRESH].succeeded()
        log.error("%s: the grant is dead (%s); somebody has to log in again", self._account.name, sent.dead or reason)
        return CalledOff()

    async def _revocation_failed(self, error: Exception) -> Exception:
        """A refusal is not worth another try, nor is a provider that does not answer for long."""
        is_refused = isinstance(error, ExchangeRejected | GrantRejected)
        if not is_refused and self._memory[Subject.REVOCATION].failures < MOST_REVOCATIONS:
            return error
        log.warning("%s: a grant that nobody needs is left to the provider: %s", self._account.name, _text(error))
        await self._forget_revoked()
        self._memory[Subject.REVOCATION].succeeded()
        return CalledOff()

    def _put_off(self, error: Exception) -> None:
        """Remember when it is tried again, and what a person reads until then."""
        if isinstance(error, CalledOff):
            return
        now, wait = self._tools.clock(), timedelta(0)
        subject, reason, is_stalled = self._kind_of(error)
        latest = last_call(replace(self.beginning.facts, now=now)) if subject is not Subject.LOGIN else None
        is_held = isinstance(error, ProviderHeld)
        if isinstance(error, TokenEndpointUnavailable):
            wait, is_held = error.retry_after or wait, is_held or error.is_throttled
        if isinstance(error, _Doubted):
            wait, latest = SECOND_OPINION, now + SECOND_OPINION
        attempts = self._memory[subject]
        attempts.first = self.beginning.first_retry
        trouble = attempts.failed(
            reason, _text(error), now, is_stalled=is_stalled, at_least=wait, latest=latest, is_held=is_held
        )
        if isinstance(error, TokenEndpointUnavailable) and error.is_throttled:
            self._tools.throttle.hold(self._account.spec.provider, trouble.retry_at)
        log.warning("%s: %s: %s", self._account.name, type(self.beginning).__name__, trouble.message)

    def _kind_of(self, error: Exception) -> tuple[Subject, str, bool]:
        """Whose trouble it is, its reason, and whether a person has to change something."""
        if isinstance(error, _Doubted):
            return Subject.REFRESH, c.GRANT_DOUBTED, False
        if isinstance(error, TokenEndpointUnavailable):
            return self._subject, self.beginning.waiting, False
        if isinstance(error, GrantRejected | ExchangeRejected):
            return self._subject, c.EXCHANGE_REJECTED, True
        if isinstance(error, ServiceAccountTokenRefused):
            return Subject.CLUSTER, c.SERVICE_ACCOUNT_TOKEN_REFUSED, True
        if isinstance(error, StoreFailed | StoreConflict):
            return Subject.STORAGE, c.STORAGE_UNAVAILABLE, True
        # the traceback names code, not data; the error's own text may quote what was received
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("%s: an error that nobody expects: %s\n%s", self._account.name, type(error).__name__, where)
        return self._subject, c.UNEXPECTED, True

    # --- of whom -----------------------------------------------------------------------------------------------------

    @property
    def _account(self) -> Account:
        return self.beginning.facts.account

    @property
    def _credential(self) -> Credential:
        assert self.beginning.facts.credential is not None
        return self.beginning.facts.credential

    @property
    def _endpoint(self) -> TokenEndpoint:
        return self._tools.endpoints[self._account.spec.provider]


class _Doubted(Exception):
    """The provider has said once that the grant is dead."""

    def __init__(self, error: GrantRejected) -> None:
        super().__init__(f"{error}, and is asked once more before anybody has to log in")


def _is_verdict(error: Exception) -> bool:
    """About a code: the provider, or we, have judged it, or the person has yet to decide."""
    verdicts = GrantRejected | ExchangeRejected | AuthorizationPending | AuthorizationEnded | SubjectMismatch
    return isinstance(error, verdicts)


def _text(error: Exception) -> str:
    """Our own errors' texts are made to be read; those of others may quote what was received."""
    ours = TokenEndpointUnavailable | ExchangeRejected | GrantRejected | ServiceAccountTokenRefused | StoreFailed
    return str(error) if isinstance(error, ours | StoreConflict | _Doubted) else f"unexpected {type(error).__name__}"


@contextmanager
def _timed(account_id: str, beginning: Beginning) -> Iterator[None]:
    """Counts and times one request for a token, unless it was only a question whether somebody has decided."""
    start, result = time.monotonic(), "failure"
    try:
        yield
        result = "success"
    except AuthorizationPending:
        result = ""
        raise
    finally:
        if result and beginning.is_counted:
            metrics.REFRESH_SECONDS.observe(time.monotonic() - start)
            metrics.TOKEN_REFRESHES.labels(account_id, result).inc()
