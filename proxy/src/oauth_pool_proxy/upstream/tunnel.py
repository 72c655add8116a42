"""A way to the upstream through an HTTP proxy (CONNECT, RFC 9110 9.3.6)."""

import asyncio
import base64
import re
from typing import cast

from oauth_pool_proxy.config import UpstreamProxy, UpstreamUrl
from oauth_pool_proxy.upstream.connection import Connection

MOST_HEAD_BYTES = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


class TunnelRefused(Exception):
    """The message says what the proxy did, and reveals nothing that it was sent."""


class Tunnel(asyncio.Protocol):
    """Talks to the proxy until the tunnel is open. From then on, the connection owns the transport."""

    def __init__(self, request: bytes, connection: Connection) -> None:
        self.connection = connection
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._open: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def opened(self) -> Connection:
        """The connection through the tunnel. Raises `TunnelRefused` if there is none."""
        return await self._open

    def abort(self) -> None:
        self.connection.abort()
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(self._received) > MOST_HEAD_BYTES:
                self._refuse("did not answer in HTTP")
            return
        status = _STATUS.match(head)
        if status is None:
            self._refuse("did not answer in HTTP")
        elif status[1].startswith(b"1"):
            self._received = b""  # interim
            self.data_received(rest)
        elif not status[1].startswith(b"2"):
            self._refuse(_answered(int(status[1])))
        elif rest:
            self._refuse("sent bytes that the upstream cannot have sent")
        else:
            self._hand_over()

    def connection_lost(self, error: Exception | None) -> None:
        self._refuse("closed the connection without an answer")

    def _hand_over(self) -> None:
        assert self._transport
        self._transport.set_protocol(self.connection)
        self.connection.connection_made(self._transport)
        if not self._open.done():  # the waiter may have left
            self._open.set_result(self.connection)

    def _refuse(self, what: str) -> None:
        if not self._open.done():
            self._open.set_exception(TunnelRefused(what))
            self._open.exception()
        if self._transport:
            self._transport.abort()


def connect_request(proxy: UpstreamProxy, url: UpstreamUrl) -> bytes:
    host = f"[{url.host}]" if ":" in url.host else url.host
    authority = f"{host}:{url.port}".encode()
    lines = [b"CONNECT %s HTTP/1.1" % authority, b"host: %s" % authority]
    if proxy.credentials is not None:
        lines.append(b"proxy-authorization: Basic " + base64.b64encode(proxy.credentials.encode()))  # RFC 7617
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _answered(status: int) -> str:
    if status == 407:
        return "answered 407: it does not take the user and password of upstream_proxy"
    return f"answered {status}: it opens no way to the upstream"
