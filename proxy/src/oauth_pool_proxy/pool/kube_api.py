"""The few requests this proxy makes to the Kubernetes API server, with a ServiceAccount's token that changes.

The kubelet replaces the token in its file every hour or so: it is read again every minute, and after every 401.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import httpx2

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.upstream.certificates import context_for

TOKEN_SECONDS = 60.0
READ_TIMEOUT = 75.0
"""Longer than the minute between two bookmarks, so that a connection which went silent is noticed."""
WRITE_TIMEOUT = 10.0
"""A write is answered at once or not at all, and the next ones wait for it."""


class KubeApiError(Exception):
    """The API server cannot be reached, or refuses. `status` is the HTTP status if there was an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


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
        self._token_file, self._clock = config.token_file, clock
        self._read_timeout, self._write_timeout = httpx2.Timeout(10, read=read_timeout), httpx2.Timeout(write_timeout)
        self._token, self._token_read_at = "", float("-inf")
        self._http = httpx2.AsyncClient(
            base_url=config.server,
            verify=context_for(config.ca_file) if config.server.startswith("https") else False,
            trust_env=False,  # an HTTPS_PROXY for the internet is not the way to the cluster's API server
        )

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def request(
        self, method: str, path: str, params: Mapping[str, str], content: bytes | None = None, content_type: str = ""
    ) -> AsyncIterator[httpx2.Response]:
        """An answer with a good status, its body still unread; everything else is a `KubeApiError`."""
        headers = {"content-type": content_type} if content_type else {}
        timeout = self._read_timeout if method == "GET" else self._write_timeout
        try:
            if token := self._current_token():
                headers["authorization"] = f"Bearer {token}"
            async with self._http.stream(
                method, path, params=params, content=content, headers=headers, timeout=timeout
            ) as response:
                if response.status_code == 401:
                    self._token_read_at = float("-inf")
                if not response.is_success:
                    raise KubeApiError(f"the API server answered {response.status_code}", response.status_code)
                yield response
        except httpx2.HTTPError as error:
            # "connection refused", or what is wrong with its certificate
            why = str(error) if isinstance(error, httpx2.ConnectError) else ""
            raise KubeApiError(f"no connection to the API server ({why or type(error).__name__})") from error
        except OSError as error:
            raise KubeApiError(f"the ServiceAccount's token cannot be read ({error.strerror})") from error

    def _current_token(self) -> str:
        now = self._clock()
        if self._token_file and now - self._token_read_at >= TOKEN_SECONDS:
            self._token = self._token_file.read_text().strip()
            self._token_read_at = now
        return self._token
