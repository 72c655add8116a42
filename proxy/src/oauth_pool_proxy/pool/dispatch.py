"""One request's way through the pool: which account is asked next, and what its answer means for all of them.

    next_attempt -> (the forwarder asks) -> is_for_client?  yes: the answer is relayed
                                                           no:  next_attempt
    nobody left: refusal

Evidence, not suspicion: an answer without proof in headers or words is the account's only if another account answers
the same request well. Two that answer the same way mean the request, and then nobody is benched and nobody reported.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from oauth_pool_proxy.config import Header, OAuthConfig, Verdict
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.usage import reader_for
from oauth_pool_proxy.pool.account import REJECTION_SECONDS, AccessToken, Account, Reason, Requirements, State
from oauth_pool_proxy.pool.affinity import Affinity, key_of
from oauth_pool_proxy.pool.due_tokens import AccessTokens
from oauth_pool_proxy.pool.judgement import Judge, Judgement, Question, decompressed
from oauth_pool_proxy.pool.limits import limit_headers
from oauth_pool_proxy.pool.objects import Objects, creates_object, object_of
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.reports import StatusReporter
from oauth_pool_proxy.pool.request_body import with_system_prefix
from oauth_pool_proxy.pool.rules import REFUSED_SECONDS
from oauth_pool_proxy.pool.stream_start import error_data
from oauth_pool_proxy.request import Blame, Request
from oauth_pool_proxy.upstream.upstream import Answer

log = logging.getLogger(__name__)

MOST_UNPROVEN = 3
"""How many accounts are asked when nothing proves whose fault the answers are."""
MOST_JUDGED_BYTES = 64 * 1024
"""An error of the API is shorter. What is longer is passed on."""
JUDGING_SECONDS = 2.0
"""How long the head of an answer may be held back for its first event, or for the words of an error."""
_REASONS = {
    Verdict.QUOTA_EXHAUSTED: Reason.QUOTA_EXHAUSTED,
    Verdict.RATE_LIMITED: Reason.RATE_LIMITED,
    Verdict.UNAUTHORIZED: Reason.UNAUTHORIZED,
    Verdict.FORBIDDEN: Reason.FORBIDDEN,
    Verdict.BILLING: Reason.BILLING,
}
_SUSPECTED_OF = {401: Verdict.UNAUTHORIZED, 402: Verdict.BILLING}
_GOOD = Judgement(Verdict.PASS_ON)
_NOT_HERE = Verdict.NEXT_ACCOUNT
"""Another account may have the object."""
_UNPROVEN = frozenset((Verdict.NEXT_ACCOUNT, Verdict.SUSPECT, Verdict.MODEL_FORBIDDEN))
_LIMITS = frozenset((Verdict.QUOTA_EXHAUSTED, Verdict.RATE_LIMITED, Verdict.MODEL_LIMITED))
_PREFIXED_PATHS = frozenset(("/v1/messages", "/v1/messages/count_tokens"))


@dataclass(slots=True)
class Attempt:
    """One account that is asked."""

    account: Account
    token: AccessToken
    headers: list[Header] = field(repr=False)
    """What the upstream is sent, with the account's `authorization`."""
    asked_at: float
    beginning: bytes = b""
    """What of the answer's body had to be read to judge it."""
    limits: list[Header] = field(default_factory=list)
    """The headers that limits are read from, of a stream: it may meet one when its head is long forgotten."""

    def __enter__(self) -> None:
        """The account has one more request, to the last byte of the answer."""
        self.account.begin()

    def __exit__(self, *_: object) -> None:
        self.account.end()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the upstream that was held back while another account might do better. All of it."""

    status: int
    headers: list[Header]
    body: bytes
    upstream_request_id: bytes | None
    verdict: Verdict
    judged_status: int
    """Of a stream that begins with an error, the status that the error stands for."""

    @property
    def is_proven(self) -> bool:
        """Whether it is the account's, beyond doubt."""
        return self.verdict not in _UNPROVEN


class Dispatcher:
    """The accounts, their access tokens, and somebody to tell, if anybody listens."""

    def __init__(
        self,
        config: OAuthConfig,
        pool: Pool,
        tokens: AccessTokens,
        affinity: Affinity,
        objects: Objects,
        reporter: StatusReporter | None,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.pool, self.tokens = config, pool, tokens
        self.affinity, self.objects = affinity, objects
        self.reporter, self.metrics, self.clock = reporter, metrics, clock
        self.judge = Judge(config.rules)

    def dispatch(self, request: Request, outgoing: list[Header]) -> "Dispatch":
        """Read what the body says about the choice of an account, and put the configured prefix into it."""
        conversation = key_of(request.headers, request.describe) if self.config.affinity and request.body else None
        if self.config.system_prefix and request.path in _PREFIXED_PATHS:
            request.body = with_system_prefix(
                request.body, self.config.system_prefix, self.config.system_prefix_excluded_models
            )
        return Dispatch(self, request, outgoing, conversation)


class Dispatch:
    def __init__(self, pool: Dispatcher, request: Request, outgoing: list[Header], conversation: bytes | None) -> None:
        self._pool, self._request, self._outgoing, self._conversation = pool, request, outgoing, conversation
        self._object = object_of(request.method, request.path)
        """The file or batch that the request is about: only the account that made it has it."""
        self._tried: set[str] = set()
        self._again: Account | None = None
        """Has a newer access token than the one that was just refused."""
        self._left: tuple[Account, Verdict] | None = None
        self._suspects: list[tuple[Account, AccessToken, int]] = []
        """Accounts that were refused without proof, and with which status."""
        self._unproven = 0
        self._held: Refusal | None = None
        self._retry_at: float | None = None
        """The soonest that an account which is not to blame said it would take this request."""

    # Whose turn

    def next_attempt(self) -> Attempt | None:
        """None if nobody is left who might be asked."""
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
        """Whoever has the object; the account whose prompt cache is warm for this conversation; or whoever the pool names."""
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
        """Also one that cools down: nobody else can answer, and nothing is paid for this."""
        uid = self._pool.objects.owner(object_id, now)
        account = self._pool.pool.account(uid) if uid and uid not in self._tried else None
        return account if account and account.state(now) is not State.DISABLED else None

    def _requirements(self) -> Requirements:
        """Its model matters only while some account is limited for some model."""
        if self._pool.pool.limits_models:
            self._request.describe()
        return Requirements(self._request.model, self._tried, self._conversation)

    # What the answer means

    async def is_for_client(self, attempt: Attempt, answer: Answer) -> bool:
        """Judge the answer, and remember what it says of the account. Raises what the upstream's failure is."""
        if answer.status == 401 and await self._has_newer_token(attempt):
            return False
        is_good = answer.status < 400 and not answer.is_event_stream
        judgement = _GOOD if is_good else await self._judged(attempt, answer)
        attempt.account.note_limits(answer.headers)
        if answer.status == 404 and self._object:
            judgement = Judgement(_NOT_HERE, status=404)
            attempt.beginning = await _words(answer)
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
        """The upstream's own last words where the request is the reason; raises our own where limits or accounts are.

        An account that cannot pay says so with a 400 or 402, which harms no client. A 401 or 403 that is the account's
        is never passed on: clients take it for the end of their own login.
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
            attempt.beginning, error = await _first_event(answer)
            if not error:
                return _GOOD
            return judge.judge_event(error, answer.headers, self._question(), now)
        if not judge.needs_body(answer.status, answer.headers, now):
            return judge.judge(answer.status, answer.headers, b"", Question(), now)
        attempt.beginning = await _words(answer)
        self._request.describe()  # which model it may be about
        return judge.judge(answer.status, answer.headers, attempt.beginning, self._question(), now)

    def _question(self) -> Question:
        request = self._request
        return Question(request.target, request.headers, request.body, request.model)

    async def _goes_on(self, attempt: Attempt, answer: Answer, judgement: Judgement) -> bool:
        """Whether another account is asked. Remembers why."""
        verdict = judgement.verdict
        if verdict in _UNPROVEN:
            self._unproven += judgement.status != 404  # which costs nothing, and says nothing of the account
            if self._unproven >= MOST_UNPROVEN or (verdict is Verdict.SUSPECT and self._is_the_same(judgement.status)):
                return self._blame_request()
        refusal = await _whole(attempt, answer, judgement)
        if refusal is None and verdict in _UNPROVEN:
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
        """The client gets this answer, and no account is asked after it."""
        self._request.blame = Blame.REQUEST
        return False

    def _answered(self, attempt: Attempt, answer: Answer) -> None:
        """The client gets this answer. If it is a good one, whoever was only suspected is to blame."""
        pool, request = self._pool, self._request
        account, now = attempt.account, pool.clock()
        pool.metrics.account_answered(account.name, time.monotonic() - attempt.asked_at)
        request.blame = Blame.of(answer.status)
        if answer.status >= 400:
            return
        for suspect, token, status in self._suspects:
            verdict = _SUSPECTED_OF.get(status, Verdict.FORBIDDEN)
            until = None if verdict is Verdict.UNAUTHORIZED else now + REFUSED_SECONDS
            self._reject(suspect, token, Judgement(verdict, until))
        if self._conversation:
            pool.metrics.affinity(pool.affinity.answered(self._conversation, account.uid, now))
        if self._object:
            pool.objects.remember(self._object, account.uid, now)
        if pool.reporter:
            pool.reporter.works(account, attempt.token.generation, now)
        self._read_along(attempt, answer)

    def _read_along(self, attempt: Attempt, answer: Answer) -> None:
        """See the limit that a stream may still meet, the object that was made, and the tokens that the answer used."""
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
        """The body is forgotten while a stream runs."""
        return Question(self._request.target, (), b"", self._request.model)

    def _met_limit(self, attempt: Attempt, question: Question, data: bytes) -> None:
        """A limit in mid-stream: its bytes pass, and the account rests for the next request."""
        judgement = self._pool.judge.judge_event(data, attempt.limits, question, self._pool.clock())
        if judgement.verdict in _LIMITS:
            self._request.blame = Blame.LIMIT
            self._bench(attempt, judgement)

    # What is remembered

    def _bench(self, attempt: Attempt, judgement: Judgement) -> None:
        """Remember what the answer says about the account, and tell the operator if it is news."""
        account, verdict, now = attempt.account, judgement.verdict, self._pool.clock()
        if verdict in (Verdict.MODEL_LIMITED, Verdict.MODEL_FORBIDDEN):
            self._bench_for_model(account, judgement, now)
        elif verdict in (Verdict.QUOTA_EXHAUSTED, Verdict.RATE_LIMITED):
            self._cool_down(attempt, judgement, now)
        elif verdict in _REASONS:
            self._reject(account, attempt.token, judgement)

    def _bench_for_model(self, account: Account, judgement: Judgement, now: float) -> None:
        until = judgement.until
        if judgement.verdict is Verdict.MODEL_LIMITED and until:
            self._retry_at = min(until, self._retry_at or until)
        description = self._request.describe()
        if not description or not description.model:
            return
        until = until or now + self._longest(account)
        if judgement.verdict is Verdict.MODEL_FORBIDDEN:
            is_news = account.refuse_model(description.model, until, now)
        else:
            is_news = account.limit_model(description.model, until, now)
        if is_news:
            self._tell(account, "".join(map(str.capitalize, judgement.verdict.split("_"))), until - now)

    def _cool_down(self, attempt: Attempt, judgement: Judgement, now: float) -> None:
        account, reason, until = attempt.account, _REASONS[judgement.verdict], judgement.until
        if judgement.verdict is Verdict.QUOTA_EXHAUSTED:
            # The jitter keeps a fleet of proxies from coming back in the same second.
            until = (until or now + self._longest(account)) + random.uniform(1, 30)
        else:
            until = until or now + 1
        if not account.cool_down(reason, until, now):
            return
        if judgement.verdict is Verdict.QUOTA_EXHAUSTED:
            self._pool.metrics.quota_exhausted(account.name)
        self._tell(account, reason.value, until - now)
        self._report(account, reason, until, attempt.token, judgement)

    def _reject(self, account: Account, token: AccessToken, judgement: Judgement) -> None:
        """Until a newer access token comes, or a while. With an end, no newer one would help, and nobody has to get one."""
        reason, now = _REASONS[judgement.verdict], self._pool.clock()
        seconds = judgement.until - now if judgement.until else REJECTION_SECONDS
        if account.reject(reason, token.generation, now, seconds):
            self._tell(account, reason.value, seconds)
            self._report(account, reason, judgement.until, token, judgement)

    def _longest(self, account: Account) -> float:
        return account.entry.cooldown_seconds or self._pool.config.cooldown

    def _tell(self, account: Account, reason: str, seconds: float) -> None:
        fields = {
            "request_id": self._request.id,
            "account": account.name,
            "reason": reason,
            "seconds": round(seconds),
        }
        log.warning("account benched", extra={"fields": fields})
        self._pool.metrics.benched(account.name, reason)

    def _report(
        self, account: Account, reason: Reason, until: float | None, token: AccessToken, judgement: Judgement
    ) -> None:
        if self._pool.reporter:
            now = self._pool.clock()
            self._pool.reporter.benched(account, reason, until, token.generation, judgement.windows, now)


async def _first_event(answer: Answer) -> tuple[bytes, bytes | None]:
    """What has come of a stream, and the data of its first event if that is an error."""
    beginning = answer.read_now()
    error = _error_in(answer, beginning)
    if error is None and not answer.is_at_end:
        try:
            async with asyncio.timeout(JUDGING_SECONDS):
                while error is None and not answer.is_at_end:
                    beginning += await answer.read()
                    error = _error_in(answer, beginning)
        except TimeoutError:
            pass  # a model may think for minutes, and the client shall see that somebody has answered
        except StreamBroken as broken:
            # The client has seen nothing yet: it is told in the plainest way.
            kind = UpstreamTimeout if broken.error_type == "timeout" else UpstreamUnreachable
            raise kind(str(broken)) from broken
    return beginning, error


def _error_in(answer: Answer, beginning: bytes) -> bytes | None:
    text = decompressed(answer.headers, beginning)
    return b"" if text is None else error_data(text)


async def _words(answer: Answer) -> bytes:
    """As much of an error's body as its words need; an error page that breaks off is judged by what came."""
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(JUDGING_SECONDS):
            while not answer.is_at_end and sum(map(len, parts)) < MOST_JUDGED_BYTES:
                parts.append(await answer.read())
    except (TimeoutError, StreamBroken):
        pass
    return b"".join(parts)


async def _whole(attempt: Attempt, answer: Answer, judgement: Judgement) -> Refusal | None:
    """The answer, to be told later; none if it is longer than any error, or not complete by now."""
    if not answer.is_at_end:
        attempt.beginning += await _words(answer)
    if not answer.is_at_end or len(attempt.beginning) > MOST_JUDGED_BYTES:
        return None
    request_id = answer.fields.get(b"request-id")
    return Refusal(answer.status, answer.headers, attempt.beginning, request_id, judgement.verdict, judgement.status)
