"""Obtains and replaces a token, so that none is lost, whatever is killed, raises or hangs.

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

A rotation is a task that runs beside its account's reconciles, which begin it; there is at most one per account. It holds its
turn at the endpoint until it is answered, for little more than `timeout_secs` at most. It raises nothing: its result is in its
`outcome`, the account's `Memory`, and on disk. `beginnings` has the ways to begin one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Credential, Owner
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.policies import forced_refresh, is_last_call
from oauth_pool_operator.account.spec import Account, rfc3339
from oauth_pool_operator.account.trouble import Subject, Trouble
from oauth_pool_operator.beginnings import Beginning, Refresh
from oauth_pool_operator.errors import (
    AuthorizationPending,
    CalledOff,
    ExchangeRejected,
    GrantRejected,
    StoreConflict,
    StoreFailed,
    TokenEndpointUnavailable,
    UnusableAnswer,
    text_of,
)
from oauth_pool_operator.oauth import device_login
from oauth_pool_operator.oauth.answer import DeviceAuthorization, TokenAnswer
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.profiles import Profile
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.setbacks import Setbacks
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

SAVE_RETRY_SECONDS = 1.0
# The request ends by itself after the profile's `timeout_secs`, and then knows whether anything was sent. This is for what it
# does not know of, and less than what the end of the process waits longer than the longest request.
SPARE_SECONDS = 5.0


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
    """Store a credential, with its owner: one that has a copy elsewhere, or that a rotation does not give up on."""
    generation = replaces.generation if replaces is not None else 0
    await in_thread(store.save_credential, account.uid, credential, replaces=generation)
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
        self._setbacks = Setbacks(beginning, memory, tools.store, tools.throttle, tools.clock, self._save)
        self._tell = tell  # a reconcile should look
        self._subject = beginning.subject
        self.was_given_back = False
        self._is_waiting = self._is_called_off = self._is_unwanted = False
        self._task: asyncio.Task[Outcome] | None = None

    def start(self) -> asyncio.Task[Outcome]:
        self._task = asyncio.create_task(self._run(), name=f"rotation {self._account.uid}")
        return self._task

    def call_off(self) -> None:
        """Send nothing, if nothing was sent yet."""
        self._is_called_off = True
        if self._is_waiting and self._task is not None:
            self._task.cancel()

    def withdraw(self) -> None:
        """It is not wanted for now: call it off, if it still waits for its turn."""
        if self._is_waiting:
            self.call_off()

    def give_back(self) -> None:
        """Its result is not wanted: revoke the token instead of storing it."""
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
            await self._setbacks.follow(error, self._subject, was_asked=self.stage >= Stage.ASKED)
            return Outcome(self.beginning, error)
        self._memory[self.beginning.subject].succeeded()
        return Outcome(self.beginning)

    async def _live(self) -> None:
        provider, uid = self._account.spec.provider, self._account.uid
        self._is_waiting = True
        try:
            async with self._tools.throttle.turn(provider, uid, is_last_call=self._cannot_wait):
                self._is_waiting = False
                await self._reserve()
                answer = await self._ask()
        except UnusableAnswer as error:
            await self._keep_refresh_token(error)
            raise
        self.stage = Stage.ANSWERED
        await self._keep(answer)
        self.stage = Stage.STORED

    async def _reserve(self) -> None:
        """Room for the answer, so that a full disk shows before a token is spent; and the journal."""
        self._demand_wanted()
        if isinstance(self.beginning, Refresh):
            await self._demand_stored(self._credential)
        reserves = self.beginning.reserves
        if not reserves or self._memory.reserved != reserves:
            journal = self.beginning.journal(self._tools.clock())
            await in_thread(self._tools.store.begin_exchange, self._account.uid, journal)
            self._memory.reserved = reserves
            self._memory[Subject.STORAGE].succeeded()
        self.stage = Stage.RESERVED

    async def _demand_stored(self, credential: Credential) -> None:
        """What is sent is what is stored: whoever began this may have been told of a credential that is replaced by now."""
        if credential.refresh_token is None:
            raise GrantRejected("the provider gave no refresh token")
        stored = await in_thread(self._tools.store.credential, self._account.uid)
        if stored is not None and stored.refresh_token != credential.refresh_token:
            raise CalledOff

    async def _ask(self) -> TokenAnswer | DeviceAuthorization | None:
        await self._prepare()
        # The disk may have taken its time. From here to the request there is nothing that could.
        self._tools.throttle.demand_right_to_spend()
        self._demand_wanted()
        self.stage, self.asked = Stage.ASKED, self._tools.clock()
        seconds = self._tools.profiles[self._account.spec.provider].timeout_secs + SPARE_SECONDS
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
            session = device_login.open_session(self._tools.clock(), self._account.login_request, answer)
            await in_thread(self._tools.store.save_session, self._account.uid, session)
            log.info("%s: login %s is open until %s", self._account.name, session.session_id, rfc3339(session.expires))
        else:
            await self._forget_revoked()

    async def _keep_refresh_token(self, error: UnusableAnswer) -> None:
        """It may exist nowhere else, whatever is wrong with the access token that came with it."""
        self.stage = Stage.ANSWERED
        if (credential := self.beginning.without_access_token(error.refresh_token)) is not None:
            await self._store(credential)
            self.stage = Stage.STORED

    def _has_a_new_token(self) -> None:
        """Forget what was known about the previous token."""
        memory, facts = self._memory, self.beginning.facts
        memory.reserved = memory.doubted = ""
        memory.refusals, memory.refused_since = 0, None
        memory[Subject.REFRESH].succeeded()
        if forced_refresh(facts) == facts.now:
            memory.last_forced_refresh = self.asked

    async def _store(self, credential: Credential) -> None:
        """Store it, with its owner. Does not give up: this credential may exist nowhere else."""
        rescued = ""
        while not self._is_unwanted:
            try:
                await self._save(credential)
                break
            except StoreConflict as error:
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
            self._memory.may_have_rescued = True
            name = await in_thread(self._tools.store.rescue, self._account.uid, credential, self.asked)
            log.error("%s: the new credential is kept as %s", self._account.name, name)
        except Exception as error:  # noqa: BLE001 (it is tried again)
            log.error(
                "%s: the new credential cannot be kept in a file beside either: %s", self._account.name, text_of(error)
            )
            return ""
        return name

    def _complain(self, error: Exception) -> None:
        """A person should know, once."""
        log.error("%s: the new credential is not on the disk yet: %s", self._account.name, text_of(error))
        if self.trouble is None:
            message = f"{text_of(error)}; tried again every second"
            self.trouble = Trouble(c.STORAGE_UNAVAILABLE, message, NEVER, is_stalled=True)
            self._tell()

    async def _revoke(self, credential: Credential) -> None:
        try:
            await self._endpoint.revoke(credential.refresh_token or credential.access_token, self._account.spec.grant)
            self.was_given_back = True
            log.info("%s: a token that came too late was revoked", self._account.name)
        except (TokenEndpointUnavailable, ExchangeRejected) as error:
            log.warning("%s: a token that came too late was not revoked: %s", self._account.name, error)

    async def _forget_revoked(self) -> None:
        credential = msgspec.structs.replace(self._credential, to_revoke=())
        await self._save(credential)
        log.info("%s: a grant that is no longer needed was revoked", self._account.name)

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
            metrics.refreshed(account_id, result)
