"""One request's way through the pool: which account to try next, and what its answer means for all accounts.

    next_attempt -> (the forwarder sends) -> is_for_client?  yes: the answer is relayed
                                                             no:  next_attempt
    no account left: refusal

Evidence, not suspicion: if neither headers nor words prove that the account is to blame, it is to blame only if another account
answers the same request well. If two accounts answer the same way, the request is to blame, and no account is benched or
reported.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from oauth_pool_proxy.config import Header, OAuthConfig, Selector, Verdict
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.usage import reader_for
from oauth_pool_proxy.pool.account import AccessToken, Account, Requirements, State
from oauth_pool_proxy.pool.affinity import Affinity, key_of
from oauth_pool_proxy.pool.bench import Bench
from oauth_pool_proxy.pool.due_tokens import AccessTokens
from oauth_pool_proxy.pool.held_answer import UNPROVEN, Refusal, first_event, whole, words
from oauth_pool_proxy.pool.judgement import Judge, Judgement, Question
from oauth_pool_proxy.pool.limits import limit_headers
from oauth_pool_proxy.pool.objects import Objects, creates_object, object_of
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.request_body import with_system_prefix
from oauth_pool_proxy.pool.rules import REFUSED_SECONDS
from oauth_pool_proxy.request import Blame, Request
from oauth_pool_proxy.upstream.upstream import Answer

if TYPE_CHECKING:
    from oauth_pool_proxy.pool.reports import StatusReporter

MOST_UNPROVEN = 3
"""The most accounts to try while nothing proves whose fault the answers are."""
_SUSPECTED_OF = {401: Verdict.UNAUTHORIZED, 402: Verdict.BILLING}
_GOOD = Judgement(Verdict.PASS_ON)
_NOT_HERE = Verdict.NEXT_ACCOUNT
"""Another account may have the object."""
_LIMITS = frozenset((Verdict.QUOTA_EXHAUSTED, Verdict.RATE_LIMITED, Verdict.MODEL_LIMITED))
_PREFIXED_PATHS = frozenset(("/v1/messages", "/v1/messages/count_tokens"))


@dataclass(slots=True)
class Attempt:
    """One attempt with one account."""

    account: Account
    token: AccessToken
    headers: list[Header] = field(repr=False)
    """What is sent to the upstream, with the account's `authorization`."""
    asked_at: float
    beginning: bytes = b""
    """The part of the answer's body that was read to judge it."""
    limits: list[Header] = field(default_factory=list)
    """A stream's limit headers: it may hit a limit long after its head has been freed."""

    def __enter__(self) -> None:
        """The account has one more request in flight, until the last byte of the answer."""
        self.account.begin()

    def __exit__(self, *_: object) -> None:
        self.account.end()


class Dispatcher:
    """The accounts, their access tokens and, where the operator takes reports, a reporter."""

    def __init__(
        self,
        config: OAuthConfig,
        pool: Pool,
        tokens: AccessTokens,
        affinity: Affinity,
        objects: Objects,
        reporter: "StatusReporter | None",
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.pool, self.tokens = config, pool, tokens
        self.affinity, self.objects = affinity, objects
        self.reporter, self.metrics, self.clock = reporter, metrics, clock
        self.judge, self.bench = Judge(config.rules), Bench(config.cooldown, reporter, metrics, clock)

    def dispatch(self, request: Request, outgoing: list[Header]) -> "Dispatch":
        """Read from the body what decides the choice of an account, and add the configured prefix to it."""
        conversation = key_of(request.fields, request.describe) if self.config.affinity and request.body else None
        selector = request.caller.accounts if request.caller else None
        if conversation and selector:
            conversation += selector.mark  # clients with different accounts never share a conversation
        if self.config.system_prefix and request.path in _PREFIXED_PATHS:
            request.body = with_system_prefix(
                request.body, self.config.system_prefix, self.config.system_prefix_excluded_models
            )
        return Dispatch(self, request, outgoing, conversation, selector)


class Dispatch:
    def __init__(
        self,
        pool: Dispatcher,
        request: Request,
        outgoing: list[Header],
        conversation: bytes | None,
        selector: Selector | None,
    ) -> None:
        self._pool, self._request, self._outgoing, self._conversation = pool, request, outgoing, conversation
        self._selector = selector
        """The accounts that the client may use. None: all."""
        self._object = object_of(request.method, request.path)
        """The file or batch that the request is about. It exists only in the account that created it."""
        self._tried: set[str] = set()
        self._again: Account | None = None
        """An account that has a newer access token than the one just refused."""
        self._left: tuple[Account, Verdict] | None = None
        self._suspects: list[tuple[Account, AccessToken, int]] = []
        """Accounts that were refused without proof, each with the status."""
        self._unproven = 0
        self._held: Refusal | None = None
        self._retry_at: float | None = None
        """The soonest instant at which an account that is not to blame would take this request."""

    # Choosing an account

    def next_attempt(self) -> Attempt | None:
        """The next attempt. None: no account is left to try."""
        account, self._again = self._again, None
        if account is None:
            if len(self._tried) >= self._pool.config.most_accounts:
                return None
            account = self._pick()
        if account is None or account.token is None:
            return None
        if self._left:
            self._pool.metrics.failover(self._left[0].name, self._left[1])
            self._left = None
        self._tried.add(account.uid)
        self._request.account = account.name
        authorization = (b"authorization", b"Bearer " + account.token.value.encode())
        return Attempt(account, account.token, [*self._outgoing, authorization], time.monotonic())

    def _pick(self) -> Account | None:
        """The account that has the object, or the one whose prompt cache is warm for this conversation, or the pool's pick."""
        now, pool, requirements = self._pool.clock(), self._pool.pool, self._requirements()
        if self._object and (owner := self._owner(self._object, now)):
            return owner
        if self._conversation:
            uid = self._pool.affinity.account_for(
                self._conversation, now, lambda uid: pool.may_pick(uid, now, requirements)
            )
            if uid is not None:
                return pool.account(uid)
        return pool.pick(now, requirements)

    def _owner(self, object_id: str, now: float) -> Account | None:
        """The account that has the object, even if it is cooling down: no other can answer, and the request is free."""
        uid = self._pool.objects.owner(object_id, now)
        account = self._pool.pool.account(uid) if uid and uid not in self._tried else None
        if account is None or account.state(now) is State.DISABLED:
            return None
        return account if account.is_selected(self._selector) else None

    def _requirements(self) -> Requirements:
        """The request's model matters only while some account is limited for some model."""
        if self._pool.pool.limits_models:
            self._request.describe()
        return Requirements(self._request.model, self._tried, self._conversation, self._selector)

    # Judging the answer

    async def is_for_client(self, attempt: Attempt, answer: Answer) -> bool:
        """Judge the answer, and remember what it says about the account. Raises the error of an upstream that fails."""
        if answer.status == 401 and await self._has_newer_token(attempt):
            return False
        is_good = answer.status < 400 and not answer.is_event_stream
        judgement = _GOOD if is_good else await self._judged(attempt, answer)
        attempt.account.note_limits(answer.headers)
        if answer.status == 404 and self._object:
            judgement = Judgement(_NOT_HERE, status=404)
            attempt.beginning = await words(answer)
        if judgement.verdict is Verdict.PASS_ON:
            self._answered(attempt, answer)
            return True
        return not await self._goes_on(attempt, answer, judgement)

    def finish(self, attempt: Attempt) -> None:
        """The whole answer has been relayed."""
        reader, request = self._request.progress.reader, self._request
        if reader and creates_object(request.method, request.path) and (object_id := reader.object_id):
            self._pool.objects.remember(object_id, attempt.account.uid, self._pool.clock())

    def refusal(self) -> Refusal:
        """The upstream's own last answer if the request is to blame. Raises the proxy's own error if limits or accounts are.

        An account that cannot pay gets a 400 or 402, which harms no client. A 401 or 403 that is the account's fault is never
        passed on: clients take it for the end of their own login.
        """
        now, pool = self._pool.clock(), self._pool.pool
        held = self._held
        if held and (
            not held.is_proven or (held.judged_status in (400, 402) and not pool.counts(now)["accounts_cooling"])
        ):
            self._request.blame = Blame.ACCOUNT if held.is_proven else Blame.REQUEST
            return held
        raise pool.why_none(now, self._requirements(), self._retry_at)

    async def _has_newer_token(self, attempt: Attempt) -> bool:
        account = attempt.account
        if not await self._pool.tokens.reread(account, attempt.token):
            return False
        self._again = account
        self._pool.metrics.retried("new_token")
        return True

    async def _judged(self, attempt: Attempt, answer: Answer) -> Judgement:
        now, judge = self._pool.clock(), self._pool.judge
        if answer.status == 200 and answer.is_event_stream:
            attempt.beginning, error = await first_event(answer)
            if not error:
                return _GOOD
            return judge.judge_event(error, answer.headers, self._question(), now)
        if not judge.needs_body(answer.status, answer.headers, now):
            return judge.judge(answer.status, answer.headers, b"", Question(), now)
        attempt.beginning = await words(answer)
        self._request.describe()  # the error may be about the model
        return judge.judge(answer.status, answer.headers, attempt.beginning, self._question(), now)

    def _question(self) -> Question:
        request = self._request
        return Question(request.target, request.headers, request.body, request.model)

    async def _goes_on(self, attempt: Attempt, answer: Answer, judgement: Judgement) -> bool:
        """Whether to try another account. Remembers why."""
        verdict = judgement.verdict
        if verdict in UNPROVEN:
            self._unproven += judgement.status != 404  # a 404 costs nothing, and says nothing about the account
            if self._unproven >= MOST_UNPROVEN or (verdict is Verdict.SUSPECT and self._is_the_same(judgement.status)):
                return self._blame_request()
        attempt.beginning, refusal = await whole(attempt.beginning, answer, judgement)
        if refusal is None and verdict in UNPROVEN:
            return self._blame_request()
        if verdict is Verdict.SUSPECT:
            self._suspects.append((attempt.account, attempt.token, judgement.status))
        else:
            self._bench(attempt, judgement)
        if refusal and (not refusal.is_proven or not self._held or self._held.is_proven):
            self._held = refusal
        self._left = attempt.account, verdict
        return True

    def _is_the_same(self, status: int) -> bool:
        return any(status == before for _, _, before in self._suspects)

    def _blame_request(self) -> bool:
        """The client gets this answer, and no further account is tried."""
        self._request.blame = Blame.REQUEST
        return False

    def _answered(self, attempt: Attempt, answer: Answer) -> None:
        """The client gets this answer. If it is a good one, the accounts that were only suspected are to blame."""
        pool, request = self._pool, self._request
        account, now = attempt.account, pool.clock()
        pool.metrics.account_answered(account.name, time.monotonic() - attempt.asked_at)
        request.blame = Blame.of(answer.status)
        if answer.status >= 400:
            return
        for suspect, token, status in self._suspects:
            verdict = _SUSPECTED_OF.get(status, Verdict.FORBIDDEN)
            until = None if verdict is Verdict.UNAUTHORIZED else now + REFUSED_SECONDS
            self._pool.bench.judged(suspect, token, Judgement(verdict, until), request)
        if self._conversation:
            pool.metrics.affinity(pool.affinity.answered(self._conversation, account.uid, now))
        if self._object:
            pool.objects.remember(self._object, account.uid, now)
        if pool.reporter:
            pool.reporter.works(account, attempt.token.generation, now)
        self._read_along(attempt, answer)

    def _read_along(self, attempt: Attempt, answer: Answer) -> None:
        """Watch the answer for a limit that a stream may still hit, the object it created, and the tokens it used."""
        fields, request = answer.fields, self._request
        request.counts_tokens = self._pool.config.usage_metrics
        kind, coding = fields.get(b"content-type", b""), fields.get(b"content-encoding", b"")
        if answer.is_event_stream:
            attempt.limits = limit_headers(answer.headers)
            on_limit = partial(self._met_limit, attempt, self._question_without_body())
            request.progress.reader = reader_for(kind, coding, on_limit)
        elif request.counts_tokens or creates_object(request.method, request.path):
            request.progress.reader = reader_for(kind, coding)

    def _question_without_body(self) -> Question:
        """The request's body is freed while a stream runs."""
        return Question(self._request.target, (), b"", self._request.model)

    def _met_limit(self, attempt: Attempt, question: Question, data: bytes) -> None:
        """Handle a limit in mid-stream: its bytes are passed on, and later requests spare the account."""
        judgement = self._pool.judge.judge_event(data, attempt.limits, question, self._pool.clock())
        if judgement.verdict in _LIMITS:
            self._request.blame = Blame.LIMIT
            self._bench(attempt, judgement)

    def _bench(self, attempt: Attempt, judgement: Judgement) -> None:
        if judgement.verdict is Verdict.MODEL_LIMITED and judgement.until:
            self._retry_at = min(judgement.until, self._retry_at or judgement.until)
        self._pool.bench.judged(attempt.account, attempt.token, judgement, self._request)
