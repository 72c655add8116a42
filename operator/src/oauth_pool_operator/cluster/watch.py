"""Kopf's connection to the API server, and when its watch last showed a sign of life.

Kopf passes events on but not bookmarks, which show that a quiet watch is alive. So we listen at the connection: every piece
of the watch of accounts, and every list of them, is a sign of life.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kopf

from oauth_pool_operator.account.spec import PLURAL
from oauth_pool_operator.certificates import as_others_verify

# The API server sends a bookmark every 60 to 75 s. A watch that is silent for longer is restarted.
BOOKMARK_SECONDS = 90.0
# Silent for this long although the API server answers other requests: restarting the watch does not help, a new process may.
SILENT_SECONDS = 240.0
FIRST_LOGIN_WAIT, LAST_LOGIN_WAIT = 1.0, 15.0


class WatchPulse:
    """The last sign of life; may be read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard = clock()

    def beat(self) -> None:
        self._heard = self._clock()

    @property
    def silent_for(self) -> float:
        """Seconds."""
        return self._clock() - self._heard


class Logins:
    """Kopf's logins: the pod's ServiceAccount, or what KUBECONFIG names.

    Kopf asks again after a 401. The same token is tried again then: an API server that starts, or has lost its keys for a
    moment, refuses good ones, too. Tries that follow each other at once are spread, up to 15 s apart.
    """

    def __init__(self, pulse: WatchPulse) -> None:
        self._pulse = pulse
        self._wait = 0.0
        self._last = 0.0

    async def log_in(self, **details: Any) -> kopf.AiohttpSession | None:
        found = kopf.login_with_service_account(**details) or kopf.login_with_kubeconfig(**details)
        if found is None:
            return None
        await self._do_not_hurry()
        connector = aiohttp.TCPConnector(limit=0, ssl=tls_of(found))
        session = aiohttp.ClientSession(
            connector=connector,
            headers=found.as_http_headers(),
            proxy=found.proxy_url,
            trust_env=found.trust_env,
            response_class=_responses(self._pulse),
        )
        return kopf.AiohttpSession(
            server=found.server, default_namespace=found.default_namespace, aiohttp_session=session
        )

    async def _do_not_hurry(self) -> None:
        now = time.monotonic()
        if self._last and now - self._last < 2 * LAST_LOGIN_WAIT:
            self._wait = min(max(2 * self._wait, FIRST_LOGIN_WAIT), LAST_LOGIN_WAIT)
            await asyncio.sleep(self._wait)
        else:
            self._wait = 0.0
        self._last = time.monotonic()


def tls_of(connection: kopf.ConnectionInfo) -> ssl.SSLContext:
    """The connection's context, which takes what kubectl and the like take."""
    return as_others_verify(connection.as_ssl_context())


def _responses(pulse: WatchPulse) -> type[aiohttp.ClientResponse]:
    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            if not self.ok or not self.url.path.endswith(f"/{PLURAL}"):
                return self  # that the watch of proxies is alive says nothing of that of accounts
            if self.url.query.get("watch") == "true":
                self.content = _Overheard(self.content, pulse)  # type: ignore[assignment]
            else:
                pulse.beat()
            return self

    return Response


class _Overheard:
    """The body of a watch as Kopf reads it, piece by piece; all else of it is as it was."""

    def __init__(self, content: aiohttp.StreamReader, pulse: WatchPulse) -> None:
        self._content = content
        self._pulse = pulse

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        async for piece in self._content.iter_chunked(n):
            self._pulse.beat()
            yield piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)
