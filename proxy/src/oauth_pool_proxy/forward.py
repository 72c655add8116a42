"""One request, from the moment it is ours until its last byte: read this from top to bottom.

    wait for a slot -> read the body -> pick an account -> ask the upstream -> judge the answer
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
from dataclasses import dataclass, field

from oauth_pool_proxy.client import Client
from oauth_pool_proxy.config import Config
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.headers import HeaderContract, Headers, request_headers
from oauth_pool_proxy.metrics import Metrics
from oauth_pool_proxy.pool import AccessToken, Account, Pool, Reason, Wish
from oauth_pool_proxy.quota import Judgement, Verdict, judge, needs_body
from oauth_pool_proxy.relay import Progress, relay
from oauth_pool_proxy.reports import StatusReporter
from oauth_pool_proxy.slots import Slots
from oauth_pool_proxy.token_files import TokenFiles
from oauth_pool_proxy.upstream import Answer, Upstream

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


@dataclass(slots=True)
class Request:
    """What is known of one request while it runs, and what its log line says at the end."""

    id: str
    method: bytes
    target: bytes
    headers: Headers
    progress: Progress
    body: bytes = b""
    account: str | None = None
    attempts: int = 0
    failures: int = 0
    first_byte_at: float | None = None
    tried: set[str] = field(default_factory=set)
    retry_at: float | None = None
    """The soonest that an account which is not to blame said it would take this request."""


@dataclass(frozen=True, slots=True)
class PoolMode:
    """What pool mode adds: the accounts, their access tokens, and somebody to tell, if anybody listens."""

    pool: Pool
    tokens: TokenFiles
    reporter: StatusReporter | None
    cooldown: float


class Forwarder:
    def __init__(
        self,
        config: Config,
        upstream: Upstream,
        metrics: Metrics,
        pool_mode: PoolMode | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._contract = HeaderContract.of(config)
        self._attempts = config.proxy.attempts
        self._most_bytes, self._timeout = config.proxy.max_body_bytes, config.proxy.timeout
        self.slots = Slots(config.proxy.max_connections)
        self._upstream, self._metrics, self._mode, self._clock = upstream, metrics, pool_mode, clock

    async def forward(self, request: Request, client: Client) -> None:
        """Answers the request, or raises what `app.py` answers with."""
        if not self.slots.take_now():
            with client.watched():
                await self.slots.take()
        try:
            request.body = await client.body(self._most_bytes, self._timeout)
            with client.watched():
                if self._mode is None:
                    await self._pass_through(request, client)
                else:
                    await self._through_pool(request, client, self._mode)
        finally:
            self.slots.give_back()

    async def _pass_through(self, request: Request, client: Client) -> None:
        answer = await self._ask(request, request_headers(request.headers, self._contract))
        try:
            await self._relay(request, answer, client)
        finally:
            answer.release()

    async def _through_pool(self, request: Request, client: Client, mode: PoolMode) -> None:
        """Ask one account after another, until one's answer is about the request and not about the account."""
        headers = request_headers(request.headers, self._contract)
        wish = Wish(None, request.tried)
        left: tuple[Account, Verdict] | None = None
        while True:
            now = self._clock()
            account = mode.pool.pick(now, wish)
            if account is None or account.token is None:
                raise mode.pool.why_none(now, wish, request.retry_at)
            if left:
                self._metrics.failover(left[0].name, left[1])
            request.tried.add(account.uid)
            request.account = account.name
            with account.in_use():
                verdict = await self._ask_account(request, account, account.token, headers, client, mode)
            if verdict is Verdict.PASS_ON:
                return
            left = account, verdict

    async def _ask_account(
        self, request: Request, account: Account, token: AccessToken, headers: Headers, client: Client, mode: PoolMode
    ) -> Verdict:
        """Ask with this account, and relay the answer unless it is the account's fault."""
        answer = await self._ask(request, _authorized(headers, token))
        try:
            if answer.status == 401 and await mode.tokens.reread(account, token) and account.token:
                answer.release()
                token = account.token
                answer = await self._ask(request, _authorized(headers, token))
            now = self._clock()
            body = await _beginning_of(answer) if needs_body(answer.status, answer.headers, now) else b""
            judgement = judge(answer.status, answer.headers, now, body)
            if judgement.verdict is Verdict.PASS_ON:
                if mode.reporter and answer.status < 400:
                    mode.reporter.works(account, token.generation, answer.headers, now)
                await self._relay(request, answer, client, body)
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
                return await self._upstream.send(request.method, request.target, headers, request.body)
            except (UpstreamTimeout, UpstreamUnreachable) as error:
                request.failures += 1
                may_repeat = isinstance(error, UpstreamTimeout) or not error.was_sent
                if not may_repeat or request.failures >= self._attempts:
                    raise
                fields = {"request_id": request.id, "attempt": request.attempts, "error": str(error)}
                log.info("attempt failed, trying again", extra={"fields": fields})
            await asyncio.sleep(RETRY_PAUSE)

    async def _relay(self, request: Request, answer: Answer, client: Client, already_read: bytes = b"") -> None:
        request.first_byte_at = time.monotonic()
        request.body = b""  # it will not be sent again, and a stream may last for an hour
        await relay(answer, client, request.progress, already_read)

    def _bench(self, request: Request, account: Account, token: AccessToken, judged: Judgement, mode: PoolMode) -> None:
        """Remember what this answer says about the account, and tell the operator if it is news."""
        now = self._clock()
        verdict, until = judged.verdict, judged.until
        if verdict is Verdict.NEXT_ACCOUNT:
            if until:
                request.retry_at = min(until, request.retry_at or until)
            return
        reason = _REASONS[verdict]
        if verdict is Verdict.QUOTA_EXHAUSTED:
            # The jitter keeps a fleet of proxies from coming back in the same second.
            until = (until or now + (account.entry.cooldown_seconds or mode.cooldown)) + random.uniform(1, 30)
            is_news = account.cool_down(reason, until, now)
            if is_news:
                self._metrics.quota_exhausted(account.name)
        elif verdict is Verdict.RATE_LIMITED:
            until = until or now + 1
            is_news = account.cool_down(reason, until, now)
        else:
            is_news = account.reject(reason, token.generation, now)
        if is_news:
            fields = {
                "request_id": request.id,
                "account": account.name,
                "reason": reason,
                "seconds": until and round(until - now),
            }
            log.warning("account benched", extra={"fields": fields})
            if mode.reporter:
                mode.reporter.benched(account, reason, until, token.generation, judged.windows, now)


def _authorized(headers: Headers, token: AccessToken) -> Headers:
    return [*headers, (b"authorization", b"Bearer " + token.value.encode())]


async def _beginning_of(answer: Answer) -> bytes:
    """As much of an error's body as its words need; an error page that breaks off is judged by what came."""
    parts: list[bytes] = []
    with suppress(StreamBroken):
        while not answer.is_at_end and sum(map(len, parts)) < MOST_JUDGED_BYTES:
            parts.append(await answer.read())
    return b"".join(parts)
