"""One request, from its arrival to its last byte. Read this file from top to bottom.

    identify the client, check the request -> wait for room -> read the body -> wait for a slot -> pick an account -> send
         -> judge the answer -> if it may be the account's fault: send with another account
         -> relay the answer

Another account is tried only before the first byte has gone to the client, and each account only once per request. The block
that opens an answer releases it. The pool decides what an answer means for the accounts.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from oauth_pool_proxy.config import Config, Header, LateHeads
from oauth_pool_proxy.downstream.admission import Admission
from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.downstream.gate import Gate
from oauth_pool_proxy.downstream.line import ANYBODY, Turn
from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.pool.asked_models import asked_models, only_model
from oauth_pool_proxy.pool.dispatch import Dispatcher
from oauth_pool_proxy.pool.held_answer import Refusal
from oauth_pool_proxy.relay import relay
from oauth_pool_proxy.request import Blame, Phase, Request
from oauth_pool_proxy.upstream.headers import HeaderContract, request_headers, response_headers
from oauth_pool_proxy.upstream.upstream import Answer, Upstream

if TYPE_CHECKING:
    from oauth_pool_proxy.downstream.identity.allowance import Allowance
    from oauth_pool_proxy.downstream.identity.reception import Reception

log = logging.getLogger(__name__)

RETRY_PAUSE = 0.1
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))  # RFC 9110 9.2.2


class Forwarder:
    def __init__(
        self,
        config: Config,
        upstream: Upstream,
        admission: Admission,
        metrics: Metrics,
        dispatcher: Dispatcher | None = None,
        reception: "Reception | None" = None,
    ) -> None:
        self._contract = HeaderContract.of(config)
        self._gate = Gate(config.oauth)
        self._attempts = config.proxy.attempts
        self._repeats_all = config.proxy.retry_late_heads is LateHeads.ALL
        self._most_bytes, self._body_timeout = config.proxy.max_body_bytes, config.proxy.body_timeout
        self._admission = admission
        self._upstream, self._metrics, self._dispatcher = upstream, metrics, dispatcher
        self._reception = reception

    async def forward(self, request: Request, client: Client) -> None:
        """Answer the request, or raise the error that `app.py` answers with."""
        if preflight := self._gate.admit_origin(request):
            request.blame, request.progress.status = Blame.OK, preflight
            client.respond(preflight, request.answer_headers, b"")
            return
        caller, turn = None, ANYBODY
        if self._reception:
            caller = self._reception.admit(request)
            turn = caller.turn
        try:
            self._gate.admit_path(request)
            if not self._has_body(request, client):
                await self._read_body(request, client, turn)
            if caller and caller.allowance.limits_models:
                self._admit_models(request, caller.allowance)
            request.phase = Phase.QUEUED
            if not self._admission.enter_at_once():
                await self._admission.enter(client, turn)
            try:
                request.phase = Phase.WAITING
                with client.watched():
                    if self._dispatcher is None:
                        await self._pass_through(request, client)
                    else:
                        await self._through_pool(request, client, self._dispatcher)
            finally:
                self._admission.leave()
        finally:
            if request.room:
                request.room.give_back()
            if caller:
                caller.end()

    def _has_body(self, request: Request, client: Client) -> bool:
        """Take the body at once if it is short and came with the head."""
        body = client.short_body(self._most_bytes)
        if body is None:
            return False
        request.body, request.bytes_in = body, len(body)
        request.room = self._admission.room_at_once(len(body))
        return True

    async def _read_body(self, request: Request, client: Client, turn: Turn) -> None:
        """Read the body once there is room for it."""
        request.phase = Phase.BODY
        size = await client.body_size(self._most_bytes, self._body_timeout)
        request.phase = Phase.QUEUED
        request.room = await self._admission.room(size, client, turn)
        request.phase = Phase.BODY
        request.body = await client.body()
        request.bytes_in = len(request.body)
        request.room.shrink_to(request.bytes_in)

    def _admit_models(self, request: Request, allowance: "Allowance") -> None:
        members = request.members
        written = only_model(members)
        if written is not None and allowance.has_allowed(bytes(written)):
            return
        models = asked_models(request.path, members) if request.body else ()
        if models and request.model is None:
            request.model = models[0]  # the log names the model that was refused
        allowance.check_models(models)
        if written is not None:
            allowance.note_allowed(bytes(written))

    async def _pass_through(self, request: Request, client: Client) -> None:
        answer = await self._ask(request, request_headers(request.headers, request.fields, self._contract))
        try:
            request.blame = Blame.of(answer.status)
            await self._relay(request, answer, client)
        finally:
            answer.release()

    async def _through_pool(self, request: Request, client: Client, dispatcher: Dispatcher) -> None:
        """Try one account after another until the pool accepts an answer for the client."""
        dispatch = dispatcher.dispatch(request, request_headers(request.headers, request.fields, self._contract))
        while attempt := dispatch.next_attempt():
            with attempt:
                answer = await self._ask(request, attempt.headers)
                try:
                    if await dispatch.is_for_client(attempt, answer):
                        await self._relay(request, answer, client, attempt.beginning)
                        dispatch.finish(attempt)
                        return
                finally:
                    answer.release()
        self._respond(request, dispatch.refusal(), client)

    async def _ask(self, request: Request, headers: list[Header]) -> Answer:
        """Get one answer from the upstream. A request that got no answer may be sent again, up to `attempts` times in all."""
        while True:
            request.attempts += 1
            try:
                return await self._upstream.send(request.method.encode(), request.target, headers, request.body)
            except (UpstreamTimeout, UpstreamUnreachable) as error:
                request.failures += 1
                if not self._may_repeat(request, error) or request.failures >= self._attempts:
                    raise
                self._metrics.retried(error.type)
                fields = {"request_id": request.id, "attempt": request.attempts, "error": str(error)}
                log.info("attempt failed, trying again", extra={"fields": fields})
            await asyncio.sleep(RETRY_PAUSE)

    def _may_repeat(self, request: Request, error: UpstreamTimeout | UpstreamUnreachable) -> bool:
        """A request that the upstream never saw costs nothing. A late head may belong to an answer that is billed."""
        if not error.was_sent:
            return True
        return isinstance(error, UpstreamTimeout) and (self._repeats_all or request.method in _IDEMPOTENT)

    async def _relay(self, request: Request, answer: Answer, client: Client, already_read: bytes = b"") -> None:
        self._begins(request, answer.fields.get(b"request-id"))
        request.is_stream = answer.is_event_stream
        if answer.status >= 400 and self._dispatcher:
            request.describe()  # the log names the model that the error is about
        request.forget()
        headers = (
            response_headers(answer.headers, answer.fields, self._contract, status=answer.status)
            + request.answer_headers
        )
        await relay(answer, headers, client, request.progress, already_read)

    def _respond(self, request: Request, refusal: Refusal, client: Client) -> None:
        """Send the upstream's own answer, which was held back while another account might have done better."""
        self._begins(request, refusal.upstream_request_id)
        request.forget()
        headers = (
            response_headers(refusal.headers, dict(refusal.headers), self._contract, status=refusal.status)
            + request.answer_headers
        )
        request.progress.status, request.progress.has_started = refusal.status, True
        request.progress.passes(refusal.body)
        client.respond(refusal.status, headers, refusal.body)

    def _begins(self, request: Request, upstream_request_id: bytes | None) -> None:
        request.phase, request.first_byte_at = Phase.ANSWERING, time.monotonic()
        request.upstream_request_id = upstream_request_id
