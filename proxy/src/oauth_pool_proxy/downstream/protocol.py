"""uvicorn's HTTP protocol with a few differences that a proxy needs.

It tells the application the request target exactly as it was received: ASGI knows a path and a query, from which `/a?`
and `/a` cannot be told apart. It offers a `TransportClient` beside ASGI's `receive` and `send`. And a request that
offers an upgrade keeps its body: uvicorn takes what follows the head for the new protocol, although nobody switched to
it (RFC 9110 7.8: a server may ignore the offer). Java's client, and curl with --http2, make that offer on every request.
What is not HTTP is answered in the API's error envelope.
"""

import asyncio
import re

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from oauth_pool_proxy.downstream.client import AsgiClient, Client
from oauth_pool_proxy.downstream.transport_client import TransportClient
from oauth_pool_proxy.errors import InvalidRequest, error_body
from oauth_pool_proxy.request import new_request_id

EXTENSION = "oauth_pool_proxy"
MOST_HEAD_BYTES = 64 * 1024
"""Of a head, of trailers, of what is between two requests: with so much that is not part of a body, a connection is ended."""
MOST_PIPELINED = 64
"""Requests of one connection that wait for the answers before theirs. Hardly a client sends a second one."""
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class State(ServerState):
    """What all connections of a server share."""

    is_leaving = False
    """The server ends soon: each answer is the last of its connection, so that none is closed while a request comes in."""


class HttpProtocol(HttpToolsProtocol):
    server_state: State
    offers_transport = True
    _is_declining = False
    _bytes_beside_bodies = 0
    """Since the last piece of a body, or the end of a head or of a request."""
    _unfinished: list[TransportClient]
    """Requests without a complete answer: the first is being answered, the last is being received."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._unfinished = []
        self._idle_since = self.loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for client in self._unfinished:
            client.lost()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unfinished:
            self._unfinished[0].resume()

    def data_received(self, data: bytes) -> None:
        self._bytes_beside_bodies += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("The request is not valid HTTP")
            return
        if self._bytes_beside_bodies > MOST_HEAD_BYTES:
            self.send_400_response(f"The head of the request is longer than {MOST_HEAD_BYTES} bytes")

    def _feed(self, data: bytes) -> bytes:
        """Parse. What is left over belongs to a request whose offer of an upgrade is declined."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._is_declining:
                self._is_declining = False
                return self._head_without_offer() + data[offer.args[0] :]
        return b""

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._is_declining = True
            return
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                # Another coding would have to be undone (RFC 9112 7), and the body would not be the client's any more.
                raise httptools.HttpParserError("unknown transfer coding")
        if len(self.pipeline) >= MOST_PIPELINED:
            raise httptools.HttpParserError("too many requests at once")
        super().on_headers_complete()
        if self.server_state.is_leaving:
            self.cycle.keep_alive = False
        self._bytes_beside_bodies = 0
        self.headers = []  # what comes from now on are trailers, which end at this hop (RFC 9110 6.5.1)
        client = None
        if self.offers_transport:
            client = TransportClient(self.transport, self.flow, self.cycle)
            self._unfinished.append(client)
            if self.pipeline:  # the connection is not read from until the first answer is complete
                self._unfinished[0].look_out()
        # The application's task has been made but has not run, so it will see this.
        self.scope["extensions"] = {EXTENSION: {"target": self.url, "client": client}}

    def on_body(self, body: bytes) -> None:
        self._bytes_beside_bodies = 0
        if not self.offers_transport:
            super().on_body(body)
        elif self._unfinished:
            self._unfinished[-1].body_received(body)

    def on_message_complete(self) -> None:
        if self._is_declining:
            return
        self._bytes_beside_bodies = 0
        super().on_message_complete()
        if self._unfinished:
            self._unfinished[-1].body_complete()

    def on_response_complete(self) -> None:
        """uvicorn's own without a timer for each pause between two requests: `Server` looks at all connections at times."""
        if self._unfinished:
            self._unfinished.pop(0)
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()

    def close_if_idle(self, since: float) -> None:
        """Close a connection that has had no request since then."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._idle_since < since and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """The API's error envelope, which official clients parse, and the end of the connection (RFC 9112 6.3)."""
        # Not in the middle of an answer, nor in place of one that others wait for.
        is_answering = self.cycle and self.cycle.response_started and not self.cycle.response_complete
        if not is_answering and not self.pipeline:
            request_id = new_request_id()
            body = error_body(InvalidRequest.type, msg, request_id)
            if callable(refused := getattr(self.app, "refused", None)):
                refused(request_id, msg)
            head = (
                "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(body)}\r\nrequest-id: {request_id}\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _head_without_offer(self) -> bytes:
        """The same head again, for a parser that knows of no upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def client_of(scope: Scope, receive: Receive, send: Send) -> Client:
    """The client's transport where this protocol serves it, ASGI everywhere else."""
    extension = scope.get("extensions", {}).get(EXTENSION, {})
    return extension.get("client") or AsgiClient(scope, receive, send)


def target_of(scope: Scope) -> bytes:
    """The request target in origin form (RFC 9112 3.2.1), no byte of it changed."""
    extension = scope.get("extensions", {}).get(EXTENSION)
    if extension is None:  # another server
        query: bytes = scope["query_string"]
        path: bytes = scope["raw_path"]
        return path + b"?" + query if query else path
    raw: bytes = extension["target"]
    if raw.startswith(b"/"):
        return raw
    if absolute := _ABSOLUTE.match(raw):
        raw = raw[absolute.end() :]
        return raw if raw.startswith(b"/") else b"/" + raw
    return raw
