"""The HTTP/1.1 client that talks to the upstream: keeps connections, and uses the last one first.

`Upstream.send` gives an `Answer` once its head is complete; `Answer.read` gives body bytes as they arrive, and
`Answer.release` ends the exchange. Nothing else knows how that works. Built on llhttp and `asyncio.Protocol`, because
relaying is what this service is for, and no client library lets a chunk through as cheaply.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.addresses import Addresses, Lookup, look_up
from oauth_pool_proxy.upstream.certificates import context_for
from oauth_pool_proxy.upstream.connection import Answer, Connection, Headers, NothingCameBack
from oauth_pool_proxy.upstream.tls import TlsConnection

__all__ = ["Answer", "Headers", "Upstream"]

CONNECT_TIMEOUT = 5.0
MOST_HANDSHAKES = 16
"""TLS handshakes at once. Each is a millisecond of work or two, which the streams that run already must not wait for."""


class Upstream:
    """Connections to one origin. `clock` is the event loop's unless a test passes time itself."""

    def __init__(
        self,
        url: UpstreamUrl,
        *,
        timeout: float,
        ca_file: Path | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        most_idle: int = 256,
        clock: Callable[[], float] | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self._url = url
        self._tls = _tls_context(ca_file) if url.is_tls else None
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._most_idle = most_idle
        self.clock = clock or asyncio.get_running_loop().time
        self._addresses = Addresses(url.host, url.port, self.clock, lookup)
        self._handshakes = asyncio.Semaphore(MOST_HANDSHAKES)
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._watchdog: asyncio.TimerHandle | None = None
        self.requests = {"new": 0, "reused": 0, "resent": 0}
        """How many were sent, by the connection they took. `resent`: once more, because a kept one had ended."""

    async def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> Answer:
        """One request, one answer. A connection that died while it was idle costs a second try, not the request."""
        request = self._render(method, target, headers, body)
        is_head = method == b"HEAD"
        if kept := self._take_idle():
            self.requests["reused"] += 1
            try:
                return await kept.exchange(request, is_head=is_head)
            except NothingCameBack:
                self.requests["resent"] += 1  # it was closed as the request was on its way: nobody has looked at it
        connection = await self._connect()
        self.requests["new"] += 1
        try:
            return await connection.exchange(request, is_head=is_head)
        except NothingCameBack:
            raise UpstreamUnreachable("The upstream closed the connection without an answer") from None

    def close(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()
        self._addresses.close()
        for connection in list(self._connections):
            connection.abort()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    def _render(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> list[bytes]:
        lines = [b"%s %s%s HTTP/1.1\r\nhost: %s\r\n" % (method, self._url.base_path, target, self._url.authority)]
        lines += [b"%s: %s\r\n" % header for header in headers]
        # RFC 9110 8.6: a method that has a body says how long it is, even if it is empty.
        if body or method in (b"POST", b"PUT", b"PATCH"):
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        head = b"".join(lines)
        return [head, body] if body else [head]

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        if self._tls is None:
            return await self._connect_in_time()
        try:
            async with asyncio.timeout(self._timeout):
                await self._handshakes.acquire()
        except TimeoutError:
            raise UpstreamTimeout(
                f"The upstream made no new connection within {self._timeout:g} s", was_sent=False
            ) from None
        try:
            return await self._connect_in_time()
        finally:
            self._handshakes.release()

    async def _connect_in_time(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await self._connect_to_any(await self._addresses.current())
        except TimeoutError:
            raise UpstreamTimeout(
                f"The upstream could not be connected to within {self._connect_timeout:g} s", was_sent=False
            ) from None
        except OSError as error:
            raise UpstreamUnreachable(
                f"The upstream could not be connected to ({_reason(error)})", was_sent=False
            ) from error

    async def _connect_to_any(self, addresses: list[str]) -> Connection:
        """In turn. One that does not answer costs its share of the time, and not the others' too."""
        for number, address in enumerate(addresses):
            is_last = number == len(addresses) - 1
            try:
                async with asyncio.timeout(None if is_last else self._connect_timeout / len(addresses)):
                    connection = await self._connect_to(address)
            except OSError:  # a TimeoutError is one, too
                if is_last:
                    raise
            else:
                self._addresses.worked(address)
                return connection
        raise AssertionError("there is at least one address")

    async def _connect_to(self, address: str) -> Connection:
        connection = TlsConnection(self, self._tls, self._url.host) if self._tls else Connection(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, address, self._url.port)
            if isinstance(connection, TlsConnection):
                await connection.secured()
        except BaseException:
            self._abandon(connection)
            raise
        return connection

    def _abandon(self, connection: Connection) -> None:
        """One that was cancelled in the moment in which it was made. uvloop closes it without a word to the protocol."""
        connection.abort()
        self.closed(connection)

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

    def look(self) -> None:
        """The watchdog's look at every connection: end what has been silent for too long."""
        now = self.clock()
        for connection in list(self._connections):
            connection.check(now, self._timeout)

    def _watch(self) -> None:
        """One timer for all connections, instead of one per chunk. It stops when there is nothing to watch."""
        self._watchdog = None
        self.look()
        if self._connections:
            self._watchdog = asyncio.get_running_loop().call_later(min(1.0, self._timeout / 4), self._watch)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return "TLS failed" if isinstance(error, ssl.SSLError) else type(error).__name__


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies against the system's trust store, or against this file alone."""
    context = context_for(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
