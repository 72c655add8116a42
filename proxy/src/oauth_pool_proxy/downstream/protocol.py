"""uvicorn's HTTP protocol with the changes that a proxy needs. Every override of uvicorn's protocol is here.

* The application gets a `Client`, not ASGI's scope, `receive` and `send`: those would make up a tenth of a request's cost. It
  has the target exactly as received: ASGI has only a path and a query, which cannot tell `/a?` from `/a`.
* A request that offers an upgrade keeps its body: uvicorn takes what follows the head for the new protocol, although
  nobody switched to it (RFC 9110 7.8: a server may ignore the offer). Java's client, and curl with --http2, make that offer
  on every request.
* A request that is not served gets the API's error envelope, and its connection closes in stages (RFC 9112 9.6).
* What a client can tie up is limited: head size, pipelined requests, connections without progress.
"""

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from oauth_pool_proxy.downstream import head, kernel
from oauth_pool_proxy.downstream.client import Client
from oauth_pool_proxy.downstream.state import State
from oauth_pool_proxy.errors import InvalidRequest, MethodNotImplemented, ProxyError, error_body
from oauth_pool_proxy.observe.request_id import new_request_id

MOST_HEAD_BYTES = 64 * 1024
"""The most bytes in a head, in trailers, or between two requests. A connection with more bytes outside a body is closed."""
PIECE_BYTES = 16 * 1024
"""A long read is parsed in pieces of this size, so excess length is noticed before all of it is parsed."""
MOST_PIPELINED = 64
"""The most requests on one connection that wait for earlier answers. Hardly any client pipelines at all."""
KEEP_ALIVE_SECONDS = 130.0
"""How long an idle connection stays open. Longer than clients keep theirs (Go and reqwest 90 s, Caddy 120 s): if the client
closes first, no request can be on the way."""
DRAIN_SECONDS, MOST_DRAINED_BYTES = 2.0, 1024 * 1024
"""How long, and how many bytes, the proxy still reads from a client that it refused, so the client can read why."""


class HttpProtocol(HttpToolsProtocol):
    server_state: State
    is_bounded = True
    """Whether its connections count towards the limit on client connections."""
    client: tuple[str, int] | None
    """The peer's address."""
    socket: socket.socket
    _is_declining = False
    _is_deaf = False
    """Nothing more is parsed as HTTP. The connection ends after the outstanding answers."""
    _is_ending = False
    """The last answer is written."""
    _bytes_beside_bodies = _drained = 0
    """Counted since the last piece of a body, or the end of a head or of a request."""
    _written = _taken = 0
    _receiving: Client | None = None
    """The request that is still arriving."""
    _next: Client | None = None
    """The request to start once everything that arrived with its head has been parsed."""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._unfinished: list[Client] = []
        """Requests without a complete answer. The first is being answered; the others wait for that."""
        self._idle_since = self._taken_at = self.loop.time()
        self.socket = transport.get_extra_info("socket")
        super().connection_made(transport)
        if self.is_bounded:
            self.server_state.clients += 1
            if self.server_state.clients > self.server_state.most_clients:
                self.server_state.too_many(self._idle_since)
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.is_bounded:
            self.server_state.clients -= 1
        for client in self._unfinished:
            client.lost()

    def shutdown(self) -> None:
        """As uvicorn does it, for requests that uvicorn does not know about."""
        if not self._unfinished:
            self.transport.close()
        for client in self._unfinished:
            client.keep_alive = False

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unfinished:
            self._unfinished[0].resume()

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self.transport.write(data)

    def close_in_stages(self) -> None:
        """Closing with unread bytes makes the kernel send a reset, which can cost the client its answer (RFC 9112 9.6)."""
        self._is_deaf = self._is_ending = True
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._idle_since = self.loop.time()

    def look(self, now: float) -> None:
        """Called about once a second, instead of one timer for each thing that may take too long."""
        if self._takes_nothing(now):
            self.transport.abort()
            return
        if self._receiving:
            self._receiving.check(now)
        if self._is_ending:
            if now - self._idle_since > DRAIN_SECONDS:
                self.transport.close()
        # Unread bytes mean that a request is just arriving.
        elif not self._unfinished and now - self._idle_since > KEEP_ALIVE_SECONDS and not kernel.unread(self.socket):
            self.transport.close()

    def _takes_nothing(self, now: float) -> bool:
        """Whether bytes have been waiting for the client for too long, and it took none of them."""
        pending = self.transport.get_write_buffer_size()
        if self._unfinished:  # else the kernel can deliver the rest by itself
            pending += kernel.unsent(self.socket)
        taken = self._written - pending
        if not pending or taken != self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at >= self.server_state.idle_seconds

    # What comes in

    def data_received(self, data: bytes) -> None:
        # While a body of known length arrives, every byte belongs to it.
        is_short = len(data) <= PIECE_BYTES or (self._receiving and self._receiving.announced)
        try:
            for piece in (data,) if is_short else _in_pieces(data):
                if self._is_deaf:
                    self._drain(len(piece))
                    continue
                self._bytes_beside_bodies += len(piece)
                while piece := self._feed(piece):
                    pass
                if self._bytes_beside_bodies > MOST_HEAD_BYTES:
                    self._refuse(_too_long())
        except httptools.HttpParserError as error:
            self._refuse(_refusal(error, data))
        if self._next:
            client, self._next = self._next, None
            self._begin(client)

    def _drain(self, size: int) -> None:
        self._drained += size
        if self._drained > MOST_DRAINED_BYTES:
            self.transport.abort()

    def _feed(self, data: bytes | memoryview) -> bytes:
        """Parse. Return what has to be parsed again: a request whose upgrade offer is declined."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._is_declining:
                self._is_declining = False
                return self._head_without_offer() + data[offer.args[0] :]
        return b""

    def on_message_begin(self) -> None:
        """As uvicorn does it, but without ASGI's scope."""
        self.url, self.headers = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser, headers = self.parser, self.headers
        method, version = parser.get_method(), parser.get_http_version()
        if parser.should_upgrade() and method != b"CONNECT":
            self._is_declining = True
            return
        if self._bytes_beside_bodies > MOST_HEAD_BYTES:
            self._check_length(self.url)
        if len(self._unfinished) > MOST_PIPELINED:
            raise InvalidRequest("Too many requests at once")
        fields = dict(headers)
        client = Client(self, method, head.origin_form(self.url), headers, fields)
        client.is_http_1_1 = version == "1.1"
        client.announced = head.body_length(fields)
        client.refusal = head.refusal(method, version, self.url, headers, fields)
        client.waits_for_100 = fields.get(b"expect", b"").lower() == b"100-continue"
        client.keep_alive = (
            client.is_http_1_1
            and parser.should_keep_alive()
            and not client.refusal
            and not self.server_state.is_leaving
        )
        self._bytes_beside_bodies = 0
        self.headers = []  # any further fields are trailers, which end at this hop (RFC 9110 6.5.1)
        self._receiving = client
        self._unfinished.append(client)
        if len(self._unfinished) == 1:
            self._next = client
        else:
            self.flow.pause_reading()  # until the first answer is complete
            self._unfinished[0].look_out()

    def _begin(self, client: Client) -> None:
        """The application owns the task, and keeps a reference to it while it runs."""
        self.loop.create_task(self._answered(client))

    def _answered(self, client: Client) -> Coroutine[Any, Any, None]:
        return self.server_state.application.serve(client)

    def _check_length(self, target: bytes = b"") -> None:
        """Check a head, or trailers, to the byte: the running count includes everything that arrived with them."""
        if len(target) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MOST_HEAD_BYTES:
            raise _too_long()

    def on_body(self, body: bytes) -> None:
        self._bytes_beside_bodies = 0
        if self._receiving:
            self._receiving.body_received(body)

    def on_message_complete(self) -> None:
        if self._is_declining:
            return
        if self._bytes_beside_bodies > MOST_HEAD_BYTES:
            self._check_length()
        self._bytes_beside_bodies = 0
        if self._receiving:
            client, self._receiving = self._receiving, None
            client.body_complete()
            # After a refused request, there is no telling what the client means by the next bytes.
            self._is_deaf = client.refusal is not None

    # What goes out

    def on_response_complete(self) -> None:
        """The oldest outstanding request has its answer."""
        del self._unfinished[0]
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._is_ending:
            return
        self.flow.resume_reading()
        if self._unfinished:
            self._begin(self._unfinished[0])
        else:
            self._idle_since = self.loop.time()

    def _refuse(self, error: ProxyError) -> None:
        """Bytes that are not HTTP end the connection (RFC 9112 6.3). They get an answer if the client can tell what it is for."""
        if self._is_deaf:
            return
        self._is_deaf = True
        if self._receiving and not self._receiving.is_answered:
            self._receiving.refuse(error)  # answered when its turn comes
        elif self._receiving or self._unfinished:
            self.transport.close()  # an answer would be taken for that to another request
        else:
            self._answer(error)

    def _answer(self, error: ProxyError) -> None:
        """Send the API's error envelope, which official clients parse."""
        request_id = new_request_id()
        body = error_body(error.type, str(error), request_id)
        self.server_state.application.refused(request_id, error)
        lines = (
            "content-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\nrequest-id: {request_id}\r\n\r\n"
        )
        self.write(STATUS_LINE[error.status] + lines.encode() + body)
        self.close_in_stages()

    def _head_without_offer(self) -> bytes:
        """The same head without the upgrade offer, for a fresh parser."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class TailnetProtocol(HttpProtocol):
    """For the listener on `tailscale_listen_addr`, where the Tailscale login headers are trusted."""

    def _answered(self, client: Client) -> Coroutine[Any, Any, None]:
        return self.server_state.application.serve_tailnet(client)


class MonitoringProtocol(HttpProtocol):
    """For the listener on `metrics_addr`: a full traffic port does not block a scrape."""

    is_bounded = False

    def _answered(self, client: Client) -> Coroutine[Any, Any, None]:
        return self.server_state.application.serve_monitoring(client)


def _in_pieces(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for at in range(0, len(data), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]


def _too_long() -> InvalidRequest:
    return InvalidRequest(f"The head of the request is longer than {MOST_HEAD_BYTES} bytes")


def _refusal(error: httptools.HttpParserError, data: bytes) -> ProxyError:
    if isinstance(error.__context__, ProxyError):
        return error.__context__  # raised in a callback
    if isinstance(error, httptools.HttpParserInvalidMethodError) and head.is_unknown_method(data):
        return MethodNotImplemented("The method is not one that this proxy knows")
    return InvalidRequest("The request is not valid HTTP")
