"""The application: the proxy's own paths go to Starlette's router, every other request to `forward.py`.

This is the one place that turns an error into an answer, and that counts and logs a finished request. The relay is called
directly, without middleware: every layer would wrap every chunk.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from oauth_pool_proxy.config import ClientsConfig, Config, KubernetesConfig
from oauth_pool_proxy.downstream.admission import Admission
from oauth_pool_proxy.downstream.asgi import answer_by
from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.downstream.service import Service
from oauth_pool_proxy.errors import (
    ClientGone,
    PathNotAllowed,
    ProxyError,
    ShuttingDown,
    StreamBroken,
    error_body,
)
from oauth_pool_proxy.forward import Forwarder
from oauth_pool_proxy.observe.access_log import AccessLog, RequestLine
from oauth_pool_proxy.observe.client_metrics import STRANGER, ClientMetrics
from oauth_pool_proxy.observe.exposition import Exposition
from oauth_pool_proxy.observe.health import health, health_for_strangers, readiness
from oauth_pool_proxy.observe.metrics import CONTENT_TYPE, Metrics
from oauth_pool_proxy.observe.pool_metrics import UpstreamCollector
from oauth_pool_proxy.observe.request_id import new_request_id
from oauth_pool_proxy.observe.status_html import HEADERS as STATUS_HEADERS
from oauth_pool_proxy.observe.status_page import StatusPage
from oauth_pool_proxy.observe.usage import UsageReader
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.supervised import running
from oauth_pool_proxy.pool.upkeep import pool_mode
from oauth_pool_proxy.request import Blame, Request
from oauth_pool_proxy.upstream.upstream import Upstream

if TYPE_CHECKING:
    from oauth_pool_proxy.downstream.identity.reception import Reception
    from oauth_pool_proxy.pool.kube_api import KubeApi

log = logging.getLogger(__name__)

OWN_PATHS = frozenset((b"/health", b"/ready", b"/metrics"))
CLIENT_GONE = 499
"""The status counted for a client that left before its answer began, as nginx does. It is never sent."""


class App:
    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock = config, clock
        self.service = Service()
        self.metrics = Metrics(ClientMetrics(config.clients.most_names) if config.clients else None)
        self.loop_was_late = self.metrics.loop_was_late
        self._access_log = AccessLog()
        proxy = config.proxy
        self.admission = Admission(
            proxy.max_connections, proxy.max_buffered_bytes, proxy.max_queued, self.metrics.waited
        )
        self.pool = Pool(config.oauth.strategy, config.oauth.reserve) if config.oauth else None
        self.upstream: Upstream
        self._forwarder: Forwarder
        self._exposition = Exposition(self.metrics.pieces)
        with_names = [
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        without = [
            Route("/health", self._health_for_strangers if config.clients else self._health_without_names),
            Route("/ready", self._ready),
            Route("/metrics", _elsewhere),
        ]
        self._status_page = StatusPage(self._mode, version("oauth-pool-proxy"), self.pool)
        self._monitoring = Starlette(routes=[*with_names, Route("/", self._status)])
        tells_names = not proxy.metrics and not config.clients
        self._router = Starlette(routes=with_names if tells_names else without, lifespan=self._lifespan)
        self._apis: dict[KubernetesConfig, KubeApi] = {}
        self._knows_clients: Callable[[], bool] = lambda: True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, for the lifespan."""
        await self._router(scope, receive, send)

    def serve(self, client: Client) -> Coroutine[Any, Any, None]:
        if client.target.partition(b"?")[0] in OWN_PATHS and not client.refusal:
            return answer_by(self._router, client)
        return self._serve(client)

    def serve_tailnet(self, client: Client) -> Coroutine[Any, Any, None]:
        client.is_from_tailnet = True
        return self.serve(client)

    def serve_monitoring(self, client: Client) -> Coroutine[Any, Any, None]:
        """Requests to the monitoring port are never forwarded."""
        return self._serve(client) if client.refusal else answer_by(self._monitoring, client)

    async def _serve(self, client: Client) -> None:
        """Forward one request, then count and log its outcome."""
        request = Request(client)
        task = self.service.begin()
        try:
            error = await self._forward(request, client)
            is_cut = error is not None and request.progress.has_started
            if error and not is_cut:
                _answer(error, request, client)
            self._finished(request, error)
            if is_cut and not isinstance(error, ClientGone):
                client.break_off()
        except Exception:
            log.exception("unexpected error", extra={"fields": {"request_id": request.id}})
            client.break_off()
        finally:
            self.service.end(task)

    def _count_tokens(self, request: Request, reader: UsageReader, client: str) -> None:
        model = reader.model
        request.model = request.model or model
        if request.account and (usage := reader.usage):
            self.metrics.used(request.account, model, usage, client)

    def refused(self, request_id: str, error: ProxyError) -> None:
        """Record that the server has answered something that is not HTTP. Nothing else is known about it."""
        self.metrics.failed(error.error_type)
        self.metrics.finished("", error.status, error.verdict, 0, None)
        if self._access_log.is_on:
            line = RequestLine(request_id, "", "", error.status, error.outcome, error.verdict, 0, 0, 0, 0, False)
            line.error = str(error)
            self._access_log.write(line)

    async def _forward(self, request: Request, client: Client) -> Exception | None:
        """Return the error to tell the client about, if any."""
        if client.refusal:
            return client.refusal
        try:
            await self._forwarder.forward(request, client)
        except (ClientGone, ProxyError, StreamBroken) as error:
            return error
        except asyncio.CancelledError:
            return ShuttingDown("The proxy is shutting down")
        except Exception as error:
            log.exception("unexpected error", extra={"fields": {"request_id": request.id}})
            return error
        return None

    def _finished(self, request: Request, error: Exception | None) -> None:
        seconds = time.monotonic() - request.began
        metrics, progress = self.metrics, request.progress
        client = request.caller.name if request.caller else STRANGER
        outcome = getattr(error, "outcome", "error") if error else "ok"
        if error:
            request.blame = Blame(getattr(error, "verdict", Blame.PROXY))
        if isinstance(error, ClientGone):
            metrics.client_left(request.phase.value)
        elif error:
            metrics.failed(getattr(error, "error_type", None))
        metrics.finished(request.method, progress.status, request.blame, seconds, request.first_byte_seconds)
        if metrics.clients:
            metrics.clients.finished(client, progress.status, seconds)
        metrics.request_bytes += request.bytes_in
        metrics.response_bytes += progress.bytes_sent
        if reader := progress.reader:
            if request.counts_tokens:
                self._count_tokens(request, reader, client)
            reader.close()
        if self._access_log.is_on:
            self._access_log.write(request.line(outcome, seconds, error))

    # The proxy's own paths. They never wait in the queue, and they work in every state of the pool.

    async def _health(self, _: HttpRequest) -> Response:
        return JSONResponse(self._state_of_health(names=True))

    async def _health_without_names(self, _: HttpRequest) -> Response:
        return JSONResponse(self._state_of_health(names=False))

    async def _health_for_strangers(self, _: HttpRequest) -> Response:
        return JSONResponse(health_for_strangers(self.pool, self._clock()))

    def _state_of_health(self, *, names: bool) -> dict[str, object]:
        uptime = time.monotonic() - self.service.started_at
        served, errors = self.metrics.requests_served, self.metrics.errors_total
        return health(self._mode, uptime, served, errors, self.pool, self._clock(), names=names)

    @property
    def _mode(self) -> str:
        return self._config.oauth.provider if self._config.oauth else "passthrough"

    async def _status(self, request: HttpRequest) -> Response:
        """A page for people, on `metrics_addr` only: on the traffic port, `/` belongs to the upstream."""
        figures = [
            ("requests now", str(self.service.in_flight)),
            ("waiting", str(self.admission.waiting)),
            ("served", str(self.metrics.requests_served)),
            ("errors", str(self.metrics.errors_total)),
        ]
        reloads = request.query_params.get("reload") != "no"
        return Response(self._status_page.render(figures, self._clock(), reloads=reloads), headers=STATUS_HEADERS)

    async def _ready(self, _: HttpRequest) -> Response:
        status, document = readiness(self.service.is_running, self.pool, knows_clients=self._knows_clients())
        return JSONResponse(document, status)

    async def _metrics(self, _: HttpRequest) -> Response:
        return Response(await self._exposition.text(), media_type=CONTENT_TYPE)

    # Everything that lives as long as the application.

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        config = self._config.proxy
        async with AsyncExitStack() as stack:
            self.upstream = Upstream(
                config.upstream,
                timeout=config.timeout,
                connect_timeout=config.connect_timeout,
                idle_timeout=config.idle_timeout,
                ca_file=config.upstream_ca_file,
                client_certificate=config.upstream_client_certificate,
                tls_groups=config.tls_groups,
                proxy=config.upstream_proxy,
                most_idle=config.max_connections,
                spare=min(config.spare_connections, config.max_connections),
            )
            stack.callback(self.upstream.close)
            stack.callback(self._close_apis)
            clients = self._config.clients
            reception = await stack.enter_async_context(self._known_clients(clients)) if clients else None
            dispatcher = None
            if self._config.oauth and self.pool:
                dispatcher = await stack.enter_async_context(
                    pool_mode(self._config.oauth, self.pool, self.metrics, self._clock, self._api_of)
                )
            self._forwarder = Forwarder(
                self._config, self.upstream, self.admission, self.metrics, dispatcher, reception
            )
            stack.callback(self._access_log.flush)
            self.metrics.watch_queue(lambda: self.service.in_flight, lambda: self.admission.waiting)
            self.metrics.add(UpstreamCollector(self.upstream))
            yield

    @asynccontextmanager
    async def _known_clients(self, config: ClientsConfig) -> AsyncIterator["Reception"]:
        """The reception, which tells clients from strangers, and the task that keeps the API server's keys up to date."""
        from oauth_pool_proxy.downstream.identity.wiring import reception_of

        fetch = _documents_of(self._api_of(config.kubernetes)) if config.kubernetes else None
        reception, run, self._knows_clients = reception_of(
            config, fetch, self._clock, keeps_credentials=self._config.oauth is None
        )
        async with running([run] if run else []):
            yield reception

    def _api_of(self, config: KubernetesConfig) -> "KubeApi":
        """The client for an API server. All users of a server share one."""
        from oauth_pool_proxy.pool.kube_api import KubeApi

        if config not in self._apis:
            self._apis[config] = KubeApi(config)
        return self._apis[config]

    def _close_apis(self) -> None:
        for api in self._apis.values():
            api.close()


def _documents_of(api: "KubeApi") -> Callable[[str], Awaitable[bytes]]:
    from oauth_pool_proxy.downstream.identity.issuer import IssuerUnreachable
    from oauth_pool_proxy.pool.kube_api import KubeApiError

    async def fetch(path: str) -> bytes:
        try:
            async with api.request("GET", path, {}) as response:
                return await response.whole()
        except KubeApiError as error:
            raise IssuerUnreachable(str(error)) from error

    return fetch


async def _elsewhere(_: HttpRequest) -> Response:
    request_id = new_request_id()
    body = error_body(PathNotAllowed.type, "Metrics are at metrics_addr, not here", request_id)
    headers = {"request-id": request_id}
    return Response(body, PathNotAllowed.status, headers, media_type="application/json")


def _answer(error: Exception, request: Request, client: Client) -> None:
    """The one place that turns an error into bytes. A client that left gets none."""
    progress = request.progress
    if isinstance(error, ClientGone):
        progress.status = CLIENT_GONE
        return
    known = error if isinstance(error, ProxyError) else ProxyError("Internal error of the proxy")
    body = error_body(known.type, str(known), progress.request_id, known.details())
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"request-id", progress.request_id.encode()),
        *known.headers(),
        *request.answer_headers,
    ]
    progress.status = known.status
    client.respond(known.status, headers, body)
    progress.bytes_sent = len(body)
