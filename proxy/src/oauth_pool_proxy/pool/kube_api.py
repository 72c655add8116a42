"""The few requests that this proxy makes to the Kubernetes API server, with a ServiceAccount token that changes.

The kubelet replaces the token file about every hour. The file is read again every minute, and after every 401.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlencode, urlsplit

from oauth_pool_proxy.config import KubernetesConfig, UpstreamUrl
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.upstream import Answer, Upstream

TOKEN_SECONDS = 60.0
READ_TIMEOUT = 75.0
"""Longer than the minute between two bookmarks, so it ends only connections that have gone silent."""
WRITE_TIMEOUT = 10.0
"""A write is answered at once or not at all, and the next ones wait for it."""


class KubeApiError(Exception):
    """The API server cannot be reached, or refuses. `status` is the HTTP status, if it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class KubeAnswer:
    """The body of an answer with a good status. If reading it fails, the block ends with a `KubeApiError`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def whole(self) -> bytes:
        parts = []
        while part := await self._answer.read():
            parts.append(part)
        return b"".join(parts)

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines as they arrive, without line endings. An unterminated last line is lost."""
        parts: list[bytes] = []
        while part := await self._answer.read():
            *ended, rest = part.split(b"\n")
            for line in ended:
                yield b"".join((*parts, line))
                parts.clear()
            parts.append(rest)


class KubeApi:
    def __init__(
        self,
        config: KubernetesConfig,
        *,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace = config.namespace
        self._config, self._clock = config, clock
        self._read_timeout, self._write_timeout = read_timeout, write_timeout
        self._token, self._token_read_at = "", float("-inf")
        self._http: Upstream | None = None

    def close(self) -> None:
        if self._http:
            self._http.close()

    @asynccontextmanager
    async def request(
        self, method: str, path: str, params: Mapping[str, str], content: bytes = b"", content_type: str = ""
    ) -> AsyncIterator[KubeAnswer]:
        """An answer with a good status, its body still unread. Everything else raises `KubeApiError`."""
        answer: Answer | None = None
        try:
            async with asyncio.timeout(None if method == "GET" else self._write_timeout):
                answer = await self._send(method, path, params, content, content_type)
                if answer.status == 401:
                    self._token_read_at = float("-inf")
                if not 200 <= answer.status < 300:
                    raise KubeApiError(f"the API server answered {answer.status}", answer.status)
                yield KubeAnswer(answer)
        except TimeoutError:
            raise KubeApiError(f"the API server did not answer within {self._write_timeout:g} s") from None
        except (UpstreamTimeout, UpstreamUnreachable, StreamBroken) as error:
            raise KubeApiError(f"no connection to the API server ({_why(error)})") from error
        finally:
            if answer:
                answer.release()

    async def _send(
        self, method: str, path: str, params: Mapping[str, str], content: bytes, content_type: str
    ) -> Answer:
        # JSON is the API server's first choice. Its keys have their own media type, which a request for JSON alone does not get.
        headers = [(b"accept", b"*/*"), (b"user-agent", b"oauth-pool-proxy")]
        if content_type:
            headers.append((b"content-type", content_type.encode()))
        try:
            token = self._current_token()
        except OSError as error:
            raise KubeApiError(f"the ServiceAccount's token cannot be read ({error.strerror})") from error
        if token:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        target = f"{path}?{urlencode(params)}" if params else path
        return await self._client().send(method.encode(), target.encode(), headers, content)

    def _client(self) -> Upstream:
        """Use the proxy's own HTTP client. It ignores proxies in the environment, which do not lead to this API server."""
        if self._http is None:
            url, timeout = UpstreamUrl.of(urlsplit(self._config.server)), self._read_timeout
            try:
                self._http = Upstream(url, timeout=timeout, idle_timeout=timeout, ca_file=self._config.ca_file)
            except OSError as error:
                raise KubeApiError(f"the API server's CA cannot be read ({error.strerror})") from error
        return self._http

    def _current_token(self) -> str:
        now = self._clock()
        if self._config.token_file and now - self._token_read_at >= TOKEN_SECONDS:
            self._token = self._config.token_file.read_text().strip()
            self._token_read_at = now
        return self._token


def _why(error: Exception) -> str:
    """The cause, such as "Connection refused", or what is wrong with the server's certificate."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.strerror:
        return cause.strerror
    return str(error).replace("The upstream's", "its").replace("The upstream", "it").replace("the upstream", "it")
