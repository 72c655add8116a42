"""uvicorn's HTTP protocol with the differences that a proxy needs: everything of uvicorn's that is overridden is here.

* The application gets a `Client`, not ASGI's scope, `receive` and `send`: those would cost a tenth of a request. With it comes
  the target exactly as it was received: ASGI knows a path and a query, from which `/a?` and `/a` cannot be told apart.
* A request that offers an upgrade keeps its body: uvicorn takes what follows the head for the new protocol, although
  nobody switched to it (RFC 9110 7.8: a server may ignore the offer). Java's client, and curl with --http2, make that offer
  on every request.
* What is not served is answered in the API's error envelope, and the connection ends in stages (RFC 9112 9.6).
* What a client may keep busy is bounded: heads, requests ahead of their answers, connections without progress.
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
"""Of a head, of trailers, of what is between two requests: with so much that is not part of a body, a connection is ended."""
PIECE_BYTES = 16 * 1024
"""What is parsed at once of a long read, so that what is too long is noticed before all of it is."""
MOST_PIPELINED = 64
"""Requests of one connection that wait for the answers before theirs. Hardly a client sends a second one."""
KEEP_ALIVE_SECONDS = 130.0
"""How long a connection stays without a request. Longer than clients keep theirs (Go and reqwest 90 s, Caddy 120 s): who
closes first never meets a request on its way."""
DRAIN_SECONDS, MOST_DRAINED_BYTES = 2.0, 1024 * 1024
"""How long, and how much, a client that was refused is still listened to, so that it can read why."""


class HttpProtocol(HttpToolsProtocol):
    server_state: State
    is_bounded = True
    """Whether its connections count as those of clients."""
    client: tuple[str, int] | None
    """The address at the other end."""
    socket: socket.socket
    _is_declining = False
    _is_deaf = False
    """Nothing is read as HTTP any more; the connection ends after the answers that are due."""
    _is_ending = False
    """The last answer is written."""
    _bytes_beside_bodies = _drained = 0
    """Since the last piece of a body, or the end of a head or of a request."""
    _written = _taken = 0
    _receiving: Client | None = None
    """The request of which more is to come."""
    _next: Client | None = None
    """The request that is begun with when all that came with its head has been parsed."""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._unfinished: list[Client] = []
        """Requests without a complete answer; the first is being answered, the others wait for that."""
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
        """uvicorn's own, for requests that it does not know."""
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
        """Closing with bytes unread makes the kernel send a reset, and that can cost the client the answer (RFC 9112 9.6)."""
        self._is_deaf = self._is_ending = True
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._idle_since = self.loop.time()

    def look(self, now: float) -> None:
        """Called about once a second, in place of a timer for each thing that may take too long."""
        if self._takes_nothing(now):
            self.transport.abort()
            return
        if self._receiving:
            self._receiving.check(now)
        if self._is_ending:
            if now - self._idle_since > DRAIN_SECONDS:
                self.transport.close()
        # With bytes that are not read yet, a request is just arriving.
        elif not self._unfinished and now - self._idle_since > KEEP_ALIVE_SECONDS and not kernel.unread(self.socket):
            self.transport.close()

    def _takes_nothing(self, now: float) -> bool:
        """Whether the client has had something to take for too long, and took no byte of it."""
        pending = self.transport.get_write_buffer_size()
        if self._unfinished:  # else the kernel can be left alone with it
            pending += kernel.unsent(self.socket)
        taken = self._written - pending
        if not pending or taken != self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at >= self.server_state.idle_seconds

    # What comes in

    def data_received(self, data: bytes) -> None:
        # What a body with a length brings is all body, as long as it lasts.
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
        """Parse. What is left over belongs to a request whose offer of an upgrade is declined."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._is_declining:
                self._is_declining = False
                return self._head_without_offer() + data[offer.args[0] :]
        return b""

    def on_message_begin(self) -> None:
        """uvicorn's own without ASGI's scope."""
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
        self.headers = []  # what comes from now on are trailers, which end at this hop (RFC 9110 6.5.1)
        self._receiving = client
        self._unfinished.append(client)
        if len(self._unfinished) == 1:
            self._next = client
        else:
            self.flow.pause_reading()  # until the first answer is complete
            self._unfinished[0].look_out()

    def _begin(self, client: Client) -> None:
        """The task is the application's, which knows it as long as it runs."""
        self.loop.create_task(self._answered(client))

    def _answered(self, client: Client) -> Coroutine[Any, Any, None]:
        return self.server_state.application.serve(client)

    def _check_length(self, target: bytes = b"") -> None:
        """Of a head, or of trailers, to the byte: the count has all that came with them, too."""
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
            # After a request that is refused nobody knows what the client takes the next bytes for.
            self._is_deaf = client.refusal is not None

    # What goes out

    def on_response_complete(self) -> None:
        """Of the first request that had none."""
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
        """What cannot be read as HTTP ends the connection (RFC 9112 6.3), and is answered if the client can tell that it is."""
        if self._is_deaf:
            return
        self._is_deaf = True
        if self._receiving and not self._receiving.is_answered:
            self._receiving.refuse(error)  # answered when it is its turn
        elif self._receiving or self._unfinished:
            self.transport.close()  # it would be taken for the answer to another request
        else:
            self._answer(error)

    def _answer(self, error: ProxyError) -> None:
        """The API's error envelope, which official clients parse."""
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
        """The same head again, for a parser that knows of no upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class TailnetProtocol(HttpProtocol):
    """For the listener of `tailscale_listen_addr`, where it is believed who logged in."""

    def _answered(self, client: Client) -> Coroutine[Any, Any, None]:
        return self.server_state.application.serve_tailnet(client)


class MonitoringProtocol(HttpProtocol):
    """For the listener of `metrics_addr`: a traffic port that is full does not keep a scrape out."""

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
