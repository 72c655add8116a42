"""Which requests reach an account at all: by path, and by the web page that asks. Pool mode only.

An account's token opens more than inference: endpoints that make API keys or read profiles. And whoever opens a web
page in a network would lend it the pool, so that a request of a browser (it has an `Origin`) is refused unless the
configuration names the page's origin; then CORS is answered as browsers expect (https://fetch.spec.whatwg.org, 3.2).
"""

import posixpath
import re
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from oauth_pool_proxy.config import Header, OAuthConfig
from oauth_pool_proxy.errors import OriginNotAllowed, PathNotAllowed

NO_CONTENT = 204
PREFLIGHT_SECONDS = b"600"
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUESTED_HEADERS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z, ]*")


class Asked(Protocol):
    """What the gate looks at of a request, and `answer_headers`, to which it adds."""

    method: str
    headers: list[Header]
    answer_headers: list[Header]

    @property
    def path(self) -> str: ...


class Gate:
    """`oauth` is none in passthrough mode: then everything passes."""

    def __init__(self, oauth: OAuthConfig | None) -> None:
        self._is_open = oauth is None
        self._denied = tuple(path.lower() for path in oauth.denied_paths) if oauth else ()
        self._allowed = oauth.allowed_paths if oauth else ()
        self._origins = frozenset(origin.encode() for origin in oauth.allowed_origins) if oauth else frozenset()
        # Clients ask for few paths, and each of them very often.
        self._is_admitted = lru_cache(1024)(self._look_at)

    def admit(self, request: Asked) -> int | None:
        """Raises `OriginNotAllowed` or `PathNotAllowed`. Returns the status of an answer that needs no upstream, if any."""
        if self._is_open:
            return None
        if origins := [value for name, value in request.headers if name == b"origin"]:
            self._admit_origin(request, origins)
            if request.method == "OPTIONS" and _value(request, b"access-control-request-method"):
                request.answer_headers += _preflight(request)
                return NO_CONTENT
        if not self._is_admitted(request.path):
            raise PathNotAllowed(
                "This path is not forwarded: denied_paths or allowed_paths of the proxy's configuration excludes it"
            )
        return None

    def _admit_origin(self, request: Asked, origins: list[bytes]) -> None:
        if len(origins) > 1 or origins[0] not in self._origins:
            raise OriginNotAllowed(
                "Web pages may not use this proxy: the request has an Origin that allowed_origins does not name"
            )
        request.answer_headers += [(b"access-control-allow-origin", origins[0]), (b"vary", b"origin")]

    def _look_at(self, path: str) -> bool:
        """However the upstream reads the path: as it is, or with what stands for something else resolved."""
        readings = _readings(path)
        if any(_begins_with(reading.lower(), self._denied) for reading in readings):
            return False
        return not self._allowed or all(_begins_with(reading, self._allowed) for reading in readings)


def _value(request: Asked, wanted: bytes) -> bytes | None:
    return next((value for name, value in request.headers if name == wanted), None)


def _preflight(request: Asked) -> list[Header]:
    headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", PREFLIGHT_SECONDS),
    ]
    wanted = _value(request, b"access-control-request-headers")
    if wanted and _REQUESTED_HEADERS.fullmatch(wanted):
        headers.append((b"access-control-allow-headers", wanted))
    return headers


def _begins_with(path: str, beginnings: tuple[str, ...]) -> bool:
    return path.startswith(beginnings) or f"{path}/" in beginnings


def _readings(path: str) -> set[str]:
    readings, decoded = {path}, path
    for _ in range(3):  # decoded more often than any chain of servers does
        readings.add(_resolved(decoded))
        decoded = unquote(decoded)
    return readings


def _resolved(path: str) -> str:
    """Without dot segments (RFC 3986 5.2.4), doubled slashes, backslashes and parameters of segments."""
    plain = re.sub(r";[^/]*", "", path.replace("\\", "/"))
    resolved = posixpath.normpath("/" + plain.lstrip("/"))
    return resolved + "/" if plain.endswith("/") and resolved != "/" else resolved
