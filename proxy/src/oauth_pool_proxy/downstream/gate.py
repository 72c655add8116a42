"""Decides which requests may use an account at all, by path and by the web page that sends them. Pool mode only.

An account's token opens more than inference: some endpoints create API keys or read profiles. And any web page opened inside
the network could use the pool. So a browser's request, which has an `Origin`, is refused unless the configuration names the
page's origin. For those origins, CORS is answered as browsers expect (https://fetch.spec.whatwg.org, 3.2).
"""

import re
from typing import Protocol

from oauth_pool_proxy.config import Header, OAuthConfig
from oauth_pool_proxy.downstream.paths import Paths
from oauth_pool_proxy.errors import OriginNotAllowed, PathNotAllowed

NO_CONTENT = 204
PREFLIGHT_SECONDS = b"600"
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUESTED_HEADERS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z, ]*")


class Asked(Protocol):
    """The parts of a request that the gate checks, and `answer_headers`, to which it adds."""

    method: str
    headers: list[Header]
    fields: dict[bytes, bytes]
    """The headers by name."""
    answer_headers: list[Header]

    @property
    def path(self) -> str: ...


class Gate:
    """In passthrough mode `oauth` is None, and everything passes."""

    def __init__(self, oauth: OAuthConfig | None) -> None:
        self._is_open = oauth is None
        self._paths = Paths(oauth.denied_paths, oauth.allowed_paths) if oauth else Paths((), ())
        self._origins = frozenset(origin.encode() for origin in oauth.allowed_origins) if oauth else frozenset()

    def admit_origin(self, request: Asked) -> int | None:
        """Raise `OriginNotAllowed`, or return the status that answers a preflight request: it carries no credentials."""
        if self._is_open:
            return None
        if b"origin" in request.fields:
            origins = [value for name, value in request.headers if name == b"origin"]
            self._admit_origin(request, origins)
            if request.method == "OPTIONS" and request.fields.get(b"access-control-request-method"):
                request.answer_headers += _preflight(request)
                return NO_CONTENT
        return None

    def admit_path(self, request: Asked) -> None:
        """Raises `PathNotAllowed`."""
        if not self._is_open and not self._paths.admit(request.path):
            raise PathNotAllowed(
                "This path is not forwarded: denied_paths or allowed_paths of the proxy's configuration excludes it"
            )

    def _admit_origin(self, request: Asked, origins: list[bytes]) -> None:
        if len(origins) > 1 or origins[0] not in self._origins:
            raise OriginNotAllowed(
                "Web pages may not use this proxy: the request has an Origin that allowed_origins does not name"
            )
        request.answer_headers += [(b"access-control-allow-origin", origins[0]), (b"vary", b"origin")]


def _preflight(request: Asked) -> list[Header]:
    headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
    ]
    wanted = request.fields.get(b"access-control-request-headers")
    if wanted and _REQUESTED_HEADERS.fullmatch(wanted):
        headers.append((b"access-control-allow-headers", wanted))
    return headers
