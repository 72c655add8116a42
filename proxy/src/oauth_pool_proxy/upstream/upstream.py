"""The HTTP/1.1 client that talks to the upstream. It keeps connections, and uses the most recent one first.

`Upstream.send` returns an `Answer` once its head is complete. `Answer.read` returns body bytes as they arrive, and
`Answer.release` ends the exchange. No other code knows how that works. It is built on llhttp and `asyncio.Protocol`, because
relaying is what this service is for, and no client library passes on a chunk as cheaply.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from oauth_pool_proxy.config import ClientCertificate, UpstreamProxy, UpstreamUrl
from oauth_pool_proxy.errors import UpstreamUnreachable
from oauth_pool_proxy.upstream.addresses import Addresses, Lookup, look_up
from oauth_pool_proxy.upstream.answer import Answer
from oauth_pool_proxy.upstream.certificate_files import CertificateFiles
from oauth_pool_proxy.upstream.connect import Connector
from oauth_pool_proxy.upstream.connection import Connection
from oauth_pool_proxy.upstream.exchange import NothingCameBack
from oauth_pool_proxy.upstream.headers import Headers
from oauth_pool_proxy.upstream.spares import Spares

__all__ = ["Answer", "Headers", "Upstream"]


class Upstream:
    """Connections to one origin. `clock` is the event loop's, unless a test controls time itself."""

    def __init__(
        self,
        url: UpstreamUrl,
        *,
        timeout: float,
        connect_timeout: float = 5.0,
        idle_timeout: float = 300.0,
        ca_file: Path | None = None,
        client_certificate: ClientCertificate | None = None,
        tls_groups: tuple[str, ...] = (),
        proxy: UpstreamProxy | None = None,
        most_idle: int = 256,
        spare: int = 0,
        clock: Callable[[], float] | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self._url = url
        self._timeout, self._idle_timeout = timeout, idle_timeout
        self._most_idle = most_idle
        self.clock = clock or asyncio.get_running_loop().time
        self._addresses = Addresses(
            proxy.host if proxy else url.host, proxy.port if proxy else url.port, self.clock, lookup
        )
        self._connector = Connector(
            self,
            url,
            self._addresses,
            certificates=CertificateFiles(ca_file, client_certificate, self.clock, tls_groups) if url.is_tls else None,
            proxy=proxy,
            connect_timeout=connect_timeout,
            turn_timeout=timeout,
        )
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._watchdog: asyncio.TimerHandle | None = None
        self.requests = {"new": 0, "reused": 0, "resent": 0}
        """Requests sent, by the connection they took. `resent`: sent again because a kept connection had ended."""
        self._spares = Spares(self, spare, self._connect_ahead)
        self._keeping = asyncio.create_task(self._spares.run()) if spare else None

    async def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> Answer:
        """Send one request and return its answer. Raises `UpstreamTimeout` or `UpstreamUnreachable` if there is none.

        A connection that died while idle costs a second try, not the request.
        """
        head = self._render(method, target, headers, body)
        is_head = method == b"HEAD"
        if kept := self._take_idle():
            self.requests["reused"] += 1
            self._spares.taken()
            try:
                return await kept.exchange(head, body, is_head=is_head)
            except NothingCameBack as end:
                if not end.is_unseen:
                    raise _closed() from None
                self.requests["resent"] += 1
        self._spares.missed()
        connection = await self._connector.connect()
        self.requests["new"] += 1
        try:
            return await connection.exchange(head, body, is_head=is_head)
        except NothingCameBack:
            raise _closed() from None

    def close(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()
        if self._keeping:
            self._keeping.cancel()
        self._addresses.close()
        for connection in list(self._connections):
            connection.abort()

    @property
    def handshakes(self) -> dict[str, int]:
        """The number of TLS handshakes done, by kind: `full`, `resumed`."""
        return self._connector.sessions.handshakes

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    def _render(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> bytes:
        if method != b"OPTIONS" or target != b"*":  # `OPTIONS *` is about the server, not a resource (RFC 9112 3.2.4)
            target = self._url.base_path + target
        lines = [b"%s %s HTTP/1.1\r\nhost: %s\r\n" % (method, target, self._url.authority)]
        lines.append(b"\r\n".join([b": ".join(header) for header in headers]))
        lines.append(b"\r\n" if headers else b"")
        # RFC 9110 8.6: a method that expects a body sends its length, even if it is empty.
        if body or method in (b"POST", b"PUT", b"PATCH"):
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        return b"".join(lines)

    async def _connect_ahead(self) -> None:
        connection = await self._connector.connect()
        if connection.is_usable:
            self.keep(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        return None

    # Called by the connections

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._watchdog is None:
            self._watch()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def keep(self, connection: Connection) -> None:
        if len(self._idle) < self._most_idle:
            self._idle.append(connection)
        else:
            connection.abort()

    # The watchdog: one timer for all connections, instead of one per chunk

    def look(self) -> None:
        """End the exchanges that have been silent for too long, and old idle connections."""
        now = self.clock()
        for connection in list(self._connections):
            connection.check(now, self._timeout, self._idle_timeout)

    def _watch(self) -> None:
        """Check and reschedule. The timer stops when there is nothing to watch."""
        self._watchdog = None
        self.look()
        if self._connections:
            seconds = min(1.0, self._timeout / 4, self._idle_timeout / 4)
            self._watchdog = asyncio.get_running_loop().call_later(seconds, self._watch)


def _closed() -> UpstreamUnreachable:
    return UpstreamUnreachable("The upstream closed the connection without an answer")
