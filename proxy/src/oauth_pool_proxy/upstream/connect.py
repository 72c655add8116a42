"""Makes connections to the upstream: TCP to one of its addresses, a tunnel if there is a proxy on the way, TLS.

Each of these steps may take `connect_timeout`. If anything fails here, the request was not sent.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from oauth_pool_proxy.config import UpstreamProxy, UpstreamUrl
from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.addresses import Addresses
from oauth_pool_proxy.upstream.certificate_files import CertificateFiles
from oauth_pool_proxy.upstream.connection import Connection, Owner
from oauth_pool_proxy.upstream.happy_eyeballs import first_connected
from oauth_pool_proxy.upstream.tls import TlsConnection, TlsSessions
from oauth_pool_proxy.upstream.tunnel import Tunnel, TunnelRefused, connect_request

MOST_HANDSHAKES = 16
"""The most TLS handshakes at once. Each takes a millisecond or two of CPU, which must not hold up running streams."""


class Connector:
    """`addresses` are those of the proxy, if there is one. `certificates` are given for an https upstream."""

    def __init__(
        self,
        owner: Owner,
        url: UpstreamUrl,
        addresses: Addresses,
        *,
        certificates: CertificateFiles | None,
        proxy: UpstreamProxy | None,
        connect_timeout: float,
        turn_timeout: float,
    ) -> None:
        self._owner, self._url, self._addresses = owner, url, addresses
        self._certificates = certificates
        self._connect_request = connect_request(proxy, url) if proxy else None
        self._peer = "The proxy on the way to the upstream" if proxy else "The upstream"
        self._connect_timeout, self._turn_timeout = connect_timeout, turn_timeout
        self._turns = asyncio.Semaphore(MOST_HANDSHAKES)
        self.sessions = TlsSessions(owner.clock)

    async def connect(self) -> Connection:
        """A connection that is ready for an exchange. Raises `UpstreamTimeout` or `UpstreamUnreachable`."""
        if self._certificates is None:
            return await self._reach()
        async with self._turn():
            connection = await self._reach()
            assert isinstance(connection, TlsConnection)
            try:
                await self._secure(connection)
            except BaseException:
                self._abandon(connection)
                raise
            return connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a turn to do the TLS handshake."""
        try:
            async with asyncio.timeout(self._turn_timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise _late(f"The upstream made no new connection within {self._turn_timeout:g} s") from None
        try:
            yield
        finally:
            self._turns.release()

    async def _reach(self) -> Connection:
        """Connect over TCP, to the upstream itself or through the proxy."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                attempt = await first_connected(await self._addresses.current(), self._attempt, self._addresses.avoid)
        except TimeoutError:
            raise _late(f"{self._peer} could not be connected to within {self._connect_timeout:g} s") from None
        except OSError as error:
            message = f"{self._peer} could not be connected to ({type(error).__name__})"
            raise UpstreamUnreachable(message, was_sent=False) from error
        return await self._through(attempt) if isinstance(attempt, Tunnel) else attempt

    async def _attempt(self, address: str) -> Connection | Tunnel:
        connection = self._new_connection()
        protocol = Tunnel(self._connect_request, connection) if self._connect_request else connection
        try:
            await asyncio.get_running_loop().create_connection(lambda: protocol, address, self._addresses.port)
        except BaseException:
            self._abandon(protocol)
            raise
        return protocol

    def _new_connection(self) -> Connection:
        if self._certificates is None:
            return Connection(self._owner)
        return TlsConnection(self._owner, self._certificates.context(), self._url.host, self.sessions)

    async def _through(self, tunnel: Tunnel) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await tunnel.opened()
        except TimeoutError:
            self._abandon(tunnel)
            raise _late(f"{self._peer} did not answer within {self._connect_timeout:g} s") from None
        except TunnelRefused as refusal:
            raise UpstreamUnreachable(f"{self._peer} {refusal}", was_sent=False) from None
        except BaseException:
            self._abandon(tunnel)
            raise

    async def _secure(self, connection: TlsConnection) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.secure()
        except TimeoutError:
            message = f"The TLS handshake with the upstream was not done within {self._connect_timeout:g} s"
            raise _late(message) from None
        except OSError as error:
            message = f"The upstream could not be connected to ({_tls_reason(error)})"
            raise UpstreamUnreachable(message, was_sent=False) from error

    def _abandon(self, attempt: Connection | Tunnel) -> None:
        """Clean up a connection cancelled at the moment it was made: uvloop closes it without telling the protocol."""
        attempt.abort()
        self._owner.closed(attempt.connection if isinstance(attempt, Tunnel) else attempt)


def _late(message: str) -> UpstreamTimeout:
    return UpstreamTimeout(message, was_sent=False)


def _tls_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return "TLS failed" if isinstance(error, ssl.SSLError) else type(error).__name__
