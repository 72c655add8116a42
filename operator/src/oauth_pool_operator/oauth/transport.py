"""One HTTP request to a provider: bounded in time and size, through the profile's proxy or directly, and typed when it fails.

The environment's HTTPS_PROXY is ignored: an operator sends refresh tokens only through a proxy that its configuration
names. Requests share connections and nothing else, not even cookies.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from oauth_pool_operator.certificates import context_for
from oauth_pool_operator.errors import TokenEndpointUnavailable
from oauth_pool_operator.oauth.profiles import Profile
from oauth_pool_operator.secret_files import SecretUnreadable, read_secret

# Of an answer, after decompression. One with tokens has a few hundred bytes; the operator's pod has 256 MiB.
LARGEST_ANSWER = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: httpx2.Headers = field(repr=False)
    body: bytes = field(repr=False)


class Transport:
    """One provider's connections."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._context = context_for(str(profile.ca_file) if profile.ca_file else None)
        self._direct = self._connections(None)
        self._through_proxy: dict[str, httpx2.AsyncHTTPTransport] = {}  # by the proxy's password, which may change

    async def close(self) -> None:
        for connections in (self._direct, *self._through_proxy.values()):
            await connections.aclose()

    async def post(
        self, url: str, what: str, *, body: bytes, headers: Mapping[str, str], seconds: float | None = None
    ) -> Answer:
        """The whole answer of `url`, within `seconds` (and never longer than the profile's `timeout_secs`).

        Raises `TokenEndpointUnavailable`, which calls it `what`, and nothing else. No redirect is followed.
        """
        limit = self._profile.timeout_secs if seconds is None else min(seconds, self._profile.timeout_secs)
        progress = _Progress()
        # TCP and TLS each get a third of it, so that they time out on their own: a cancelled handshake leaks its socket.
        extensions = {"trace": progress.note, "timeout": {"connect": limit / 3}}
        try:
            request = httpx2.Request("POST", url, content=body, headers=dict(headers), extensions=extensions)
            async with asyncio.timeout(limit):
                connections = await self._connections_for(request.url)
                return await _answer(await connections.handle_async_request(request), what)
        except TimeoutError:
            raise TokenEndpointUnavailable(f"{what} did not answer in time", may_be_done=progress.is_sent) from None
        except SecretUnreadable as error:
            raise TokenEndpointUnavailable(f"proxy_password_file: {error}", may_be_done=False) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:  # the last: a name that DNS cannot hold
            raise TokenEndpointUnavailable(_how(error, what), may_be_done=progress.is_sent) from None

    async def _connections_for(self, url: httpx2.URL) -> httpx2.AsyncHTTPTransport:
        """Plain http is for loopback addresses only (`profile_checks`), and no proxy is to read it."""
        if not self._profile.proxy_url or url.scheme != "https":
            return self._direct
        password = ""
        if self._profile.proxy_password_file is not None:
            password = await asyncio.to_thread(read_secret, self._profile.proxy_password_file)
        # One for each password there was: a request that is in flight goes on.
        if password not in self._through_proxy:
            proxy = httpx2.URL(self._profile.proxy_url)
            auth = (proxy.username, password) if proxy.username else None
            bare = proxy.copy_with(username=None, password=None)
            self._through_proxy[password] = self._connections(httpx2.Proxy(bare, auth=auth))
        return self._through_proxy[password]

    def _connections(self, proxy: httpx2.Proxy | None) -> httpx2.AsyncHTTPTransport:
        return httpx2.AsyncHTTPTransport(verify=self._context, trust_env=False, proxy=proxy)


class _Progress:
    """How far a request got: what was not sent cannot have been carried out."""

    is_sent = False

    async def note(self, event: str, info: dict[str, Any]) -> None:
        if event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
            self.is_sent = True


async def _answer(response: httpx2.Response, what: str) -> Answer:
    body = bytearray()
    try:
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > LARGEST_ANSWER:
                raise TokenEndpointUnavailable(f"{what} answered with more than 1 MiB", may_be_done=True)
        return Answer(response.status_code, response.headers, bytes(body))
    finally:
        await response.aclose()


def _how(error: Exception, what: str) -> str:
    """The kind of failure in our own words; the library's text may name a URL."""
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy on the way to {what} refused"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.InvalidURL | UnicodeError):
        return f"{what} cannot be reached"
    return f"the connection to {what} was cut"
