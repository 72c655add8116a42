"""One request, from the moment it is ours until its last byte: read this from top to bottom.

    wait for room -> read the body -> wait for a slot -> pick an account -> ask the upstream -> judge the answer
         -> if it is the account's fault: bench the account, pick another, ask again
         -> relay the answer

Another account is tried only before the first byte went to the client, and each account once per request. Whoever
opens an answer releases it, in the same block.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress

from oauth_pool_proxy.config import Config
from oauth_pool_proxy.downstream.admission import Admission
from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.usage import reader_for
from oauth_pool_proxy.pool.judgement import Judgement, Verdict, judge, judge_beginning, may_begin_with_error, needs_body
from oauth_pool_proxy.pool.pool import AccessToken, Account, Reason
from oauth_pool_proxy.pool.pool_mode import PoolMode
from oauth_pool_proxy.relay import relay
from oauth_pool_proxy.request import Phase, Request
from oauth_pool_proxy.upstream.headers import HeaderContract, Headers, request_headers
from oauth_pool_proxy.upstream.upstream import Answer, Upstream

log = logging.getLogger(__name__)

RETRY_PAUSE = 0.1
MOST_JUDGED_BYTES = 64 * 1024

_REASONS = {
    Verdict.QUOTA_EXHAUSTED: Reason.QUOTA_EXHAUSTED,
    Verdict.RATE_LIMITED: Reason.RATE_LIMITED,
    Verdict.UNAUTHORIZED: Reason.UNAUTHORIZED,
    Verdict.FORBIDDEN: Reason.FORBIDDEN,
    Verdict.BILLING: Reason.BILLING,
}


class Forwarder:
    def __init__(
        self,
        config: Config,
        upstream: Upstream,
        admission: Admission,
        metrics: Metrics,
        pool_mode: PoolMode | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._contract = HeaderContract.of(config)
        self._attempts = config.proxy.attempts
        self._most_bytes, self._body_timeout = config.proxy.max_body_bytes, config.proxy.body_timeout
        self._admission = admission
        self._upstream, self._metrics, self._mode, self._clock = upstream, metrics, pool_mode, clock

    async def forward(self, request: Request, client: Client) -> None:
        """Answers the request, or raises what `app.py` answers with."""
        request.phase = Phase.BODY
        size = await client.body_size(self._most_bytes, self._body_timeout)
        request.phase = Phase.QUEUED
        request.room = await self._admission.room(size, client)
        try:
            request.phase = Phase.BODY
            request.body = await client.body()
            request.bytes_in = len(request.body)
            request.room.shrink_to(request.bytes_in)
            request.phase = Phase.QUEUED
            await self._admission.enter(client)
            try:
                request.phase = Phase.WAITING
                with client.watched():
                    if self._mode is None:
                        await self._pass_through(request, client)
                    else:
                        await self._through_pool(request, client, self._mode)
            finally:
                self._admission.leave()
        finally:
            request.room.give_back()

    async def _pass_through(self, request: Request, client: Client) -> None:
        request.outgoing = request_headers(request.headers, self._contract)
        answer = await self._ask(request, request.outgoing)
        try:
            await self._relay(request, answer, client)
        finally:
            answer.release()

    async def _through_pool(self, request: Request, client: Client, mode: PoolMode) -> None:
        """Ask one account after another, until one's answer is about the request and not about the account."""
        request.outgoing = request_headers(request.headers, self._contract)
        mode.read(request)
        left: tuple[Account, Verdict] | None = None
        while True:
            now = self._clock()
            wish = mode.wish(request)
            account = mode.pick(request, wish, now)
            if account is None or account.token is None:
                raise mode.pool.why_none(now, wish, request.retry_at)
            if left:
                self._metrics.failover(left[0].name, left[1])
            request.tried.add(account.uid)
            request.account = account.name
            account.begin()
            try:
                verdict = await self._ask_account(request, account, account.token, client, mode)
            finally:
                account.end()
            if verdict is Verdict.PASS_ON:
                return
            left = account, verdict

    async def _ask_account(
        self, request: Request, account: Account, token: AccessToken, client: Client, mode: PoolMode
    ) -> Verdict:
        """Ask with this account, and relay the answer unless it is the account's fault."""
        asked_at = time.monotonic()
        answer = await self._ask(request, _authorized(request.outgoing, token))
        try:
            if answer.status == 401 and await mode.tokens.reread(account, token) and account.token:
                answer.release()
                token = account.token
                self._metrics.retried("new_token")
                answer = await self._ask(request, _authorized(request.outgoing, token))
            now = self._clock()
            judgement, beginning = await _judged(answer, now)
            account.note_limits(answer.headers)
            if judgement.verdict is Verdict.PASS_ON:
                self._metrics.account_answered(account.name, time.monotonic() - asked_at)
                if answer.status < 400:
                    self._works(request, account, token, answer, now, mode)
                await self._relay(request, answer, client, beginning)
            else:
                self._bench(request, account, token, judgement, mode)
        finally:
            answer.release()
        return judgement.verdict

    async def _ask(self, request: Request, headers: Headers) -> Answer:
        """One answer of the upstream, in up to `attempts` attempts: a request without an answer yet may be sent again."""
        while True:
            request.attempts += 1
            try:
                return await self._upstream.send(request.method.encode(), request.target, headers, request.body)
            except (UpstreamTimeout, UpstreamUnreachable) as error:
                request.failures += 1
                may_repeat = isinstance(error, UpstreamTimeout) or not error.was_sent
                if not may_repeat or request.failures >= self._attempts:
                    raise
                self._metrics.retried(error.type)
                fields = {"request_id": request.id, "attempt": request.attempts, "error": str(error)}
                log.info("attempt failed, trying again", extra={"fields": fields})
            await asyncio.sleep(RETRY_PAUSE)

    async def _relay(self, request: Request, answer: Answer, client: Client, already_read: bytes = b"") -> None:
        request.phase, request.first_byte_at = Phase.ANSWERING, time.monotonic()
        request.upstream_request_id = answer.fields.get(b"request-id")
        request.is_stream = answer.is_event_stream
        if answer.status >= 400 and self._mode:
            request.describe()  # so that the log says which model the error is about
        request.forget()
        await relay(answer, client, request.progress, already_read)

    def _works(
        self, request: Request, account: Account, token: AccessToken, answer: Answer, now: float, mode: PoolMode
    ) -> None:
        """The account has a good answer for this request."""
        if request.conversation:
            self._metrics.affinity(mode.affinity.answered(request.conversation, account.uid, now))
        if mode.reporter:
            mode.reporter.works(account, token.generation, now)
        if mode.reads_usage:
            fields = answer.fields
            request.usage = reader_for(fields.get(b"content-type", b""), fields.get(b"content-encoding", b""))
            request.progress.reader = request.usage

    def _bench(self, request: Request, account: Account, token: AccessToken, judged: Judgement, mode: PoolMode) -> None:
        """Remember what this answer says about the account, and tell the operator if it is news."""
        now = self._clock()
        verdict, until = judged.verdict, judged.until
        longest = account.entry.cooldown_seconds or mode.cooldown
        if verdict in (Verdict.NEXT_ACCOUNT, Verdict.MODEL_LIMITED):
            if until:
                request.retry_at = min(until, request.retry_at or until)
            description = request.describe()
            if verdict is Verdict.MODEL_LIMITED and description and description.model:
                until = until or now + longest
                if account.limit_model(description.model, until, now):
                    mode.pool.limits_models = True
                    _log_bench(request, account, "ModelLimited", until - now)
            return
        reason = _REASONS[verdict]
        if verdict is Verdict.QUOTA_EXHAUSTED:
            # The jitter keeps a fleet of proxies from coming back in the same second.
            until = (until or now + longest) + random.uniform(1, 30)
            is_news = account.cool_down(reason, until, now)
            if is_news:
                self._metrics.quota_exhausted(account.name)
        elif verdict is Verdict.RATE_LIMITED:
            until = until or now + 1
            is_news = account.cool_down(reason, until, now)
        else:
            is_news = account.reject(reason, token.generation, now)
        if is_news:
            _log_bench(request, account, reason.value, until and until - now)
            if mode.reporter:
                mode.reporter.benched(account, reason, until, token.generation, judged.windows, now)


def _log_bench(request: Request, account: Account, reason: str, seconds: float | None) -> None:
    fields = {
        "request_id": request.id,
        "account": account.name,
        "reason": reason,
        "seconds": seconds and round(seconds),
    }
    log.warning("account benched", extra={"fields": fields})


def _authorized(headers: Headers, token: AccessToken) -> Headers:
    return [*headers, (b"authorization", b"Bearer " + token.value.encode())]


async def _judged(answer: Answer, now: float) -> tuple[Judgement, bytes]:
    """What the answer says about its account, and as much of its body as had to be read to know."""
    if answer.status == 200 and answer.is_event_stream:
        beginning = await _first_event(answer)
        return judge_beginning(answer.headers, beginning, now), beginning
    beginning = await _error_body(answer) if needs_body(answer.status, answer.headers, now) else b""
    return judge(answer.status, answer.headers, now, beginning), beginning


async def _first_event(answer: Answer) -> bytes:
    """What has come of a stream; if it begins with an error, all of that event.

    The head waits for it: an error of the account in place of an answer can still be asked of another account.
    """
    beginning = answer.read_now()
    try:
        while not answer.is_at_end and may_begin_with_error(answer.headers, beginning):
            beginning += await answer.read()
    except StreamBroken as error:
        # The client has seen nothing yet: it is told in the plainest way.
        kind = UpstreamTimeout if error.error_type == "timeout" else UpstreamUnreachable
        raise kind(str(error)) from error
    return beginning


async def _error_body(answer: Answer) -> bytes:
    """As much of an error's body as its words need; an error page that breaks off is judged by what came."""
    parts: list[bytes] = []
    with suppress(StreamBroken):
        while not answer.is_at_end and sum(map(len, parts)) < MOST_JUDGED_BYTES:
            parts.append(await answer.read())
    return b"".join(parts)
