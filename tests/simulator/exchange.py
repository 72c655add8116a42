"""One request and its answer around the application: recording, `request-id`, clients that leave, connections cut.

The application sees the whole body at once; while it answers, a second task watches for the client's leaving and
cancels it then.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Never

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .clock import Clock
from .envelope import ApiError, new_request_id
from .recorder import Outcome, RecordedRequest, Recorder
from .switches import SwitchBoard

_log = logging.getLogger(__name__)

_EXTENSION = "simulator.connection"
CONTROL_PREFIX = "/_simulator"


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also hands the application its transport: ASGI knows no way to hang up."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # decided here, because uvicorn turns it on as soon as somebody listens to its logger; it would show queries
        self.access_log = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


@dataclass(eq=False)
class Exchange:
    """What an endpoint may do with its request besides answering it."""

    record: RecordedRequest
    transport: asyncio.Transport = field(repr=False)

    async def drop(self) -> Never:
        """Close the connection after what was already sent. Never returns: losing the connection cancels the caller."""
        self.record.outcome = Outcome.DROPPED
        self.transport.close()
        await fall_silent()


async def fall_silent() -> Never:
    """Wait for the cancellation that comes when the client leaves or the simulator stops."""
    while True:
        await asyncio.Event().wait()


async def pause(seconds: float) -> None:
    """Real seconds, unlike those of the simulator's clock."""
    if seconds > 0:
        await asyncio.sleep(seconds)


def exchange_of(request: Request) -> Exchange:
    exchange: Exchange = request.state.exchange
    return exchange


class ExchangeLayer:
    """Outermost ASGI application. Everything is recorded except the control API."""

    def __init__(self, app: ASGIApp, *, recorder: Recorder, switches: SwitchBoard, clock: Clock) -> None:
        self._app = app
        self._recorder = recorder
        self._switches = switches
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(f"{CONTROL_PREFIX}/"):
            await self._app(scope, receive, send)
            return
        record = self._recorder.begin(
            request_id=new_request_id(),
            now=self._clock.now(),
            method=scope["method"],
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        )
        started = self._clock.now()
        try:
            await self._answer(record, scope, receive, send)
        finally:
            # no query and no body: codes and states travel there
            _log.info(
                "%s %s %s account=%s outcome=%s %.3fs %s",
                record.method,
                record.path,
                record.status or "-",
                record.subject or "-",
                record.outcome,
                self._clock.now() - started,
                record.request_id,
            )

    async def _answer(self, record: RecordedRequest, scope: Scope, receive: Receive, send: Send) -> None:
        switches = self._switches.get()
        limit = switches.max_body_bytes
        body, is_whole, size = await _read_body(receive, limit)
        self._recorder.keep_body(record, body)
        if not is_whole:
            record.outcome = Outcome.CLIENT_DISCONNECTED
            return
        transport = scope["extensions"][_EXTENSION]["transport"]
        scope.setdefault("state", {})["exchange"] = Exchange(record, transport)
        app = self._app
        if size > limit:
            error = ApiError(413, "Request exceeds the maximum size", is_from_edge=switches.errors_from_edge)
            app = error.response(record.request_id)

        answering = asyncio.create_task(_run(app, scope, _replay(body), self._recording(record, send)))
        leaving = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            # the disconnect is also announced after an answer that is complete
            if not answering.done() and record.outcome is not Outcome.COMPLETE:
                if record.outcome is Outcome.PENDING:
                    record.outcome = Outcome.CLIENT_DISCONNECTED
                answering.cancel()
            await asyncio.wait({answering})
            if not answering.cancelled():
                answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    def _recording(self, record: RecordedRequest, send: Send) -> Send:
        async def recording_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"request-id", record.request_id.encode()),
                    (b"date", formatdate(self._clock.now(), usegmt=True).encode()),
                ]
            elif message["type"] == "http.response.body":
                record.bytes_sent += len(message.get("body", b""))
                # before it is sent: a client that has read the end must find the answer complete
                if not message.get("more_body", False):
                    record.outcome = Outcome.COMPLETE
            await send(message)

        return recording_send


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def _read_body(receive: Receive, limit: int) -> tuple[bytes, bool, int]:
    """The body up to the limit, whether the client sent all of it, and its size."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts), False, size
        part = message.get("body", b"")
        if size < limit:
            parts.append(part[: limit - size])
        size += len(part)
        if not message.get("more_body", False):
            return b"".join(parts), True, size


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _replay(body: bytes) -> Receive:
    """The body once; then silence, because the exchange itself watches for the disconnect."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await fall_silent()

    return receive
