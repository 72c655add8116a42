"""What can go wrong with a request or with the configuration, typed by what should happen next.

Every `ProxyError` is an answer from the proxy itself; `app.py` is the one place that turns it into bytes. An upstream answer is
not an error here, whatever its status. Messages name an account or a status at most: never a token, a body, a query or an
upstream address.
"""

import math
from collections.abc import Mapping

import msgspec


class ConfigInvalid(Exception):
    """The configuration cannot be used. The message is one line: what is wrong, where, and what is allowed."""


class PoolIndexInvalid(Exception):
    """One entry of the pool index cannot be used. Only that account is affected."""


class OtherVersion(PoolIndexInvalid):
    """The entry has another version, so it may mean something that this proxy does not know."""


class TokenInvalid(Exception):
    """One access token cannot be used as it is. Only that account is affected."""


class TokenFileInvalid(TokenInvalid):
    """One access file cannot be used."""


class ProxyError(Exception):
    """The request ends with an answer from the proxy itself."""

    status = 500
    type = "api_error"
    error_type: str | None = None
    """Its label in `proxy_upstream_errors_total`. None: it is not counted there."""
    outcome = "error"
    """The word for it in the request's log line."""
    verdict = "proxy"
    """What was responsible: a value of `request.Blame`."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        return []

    def details(self) -> dict[str, object]:
        """Fields of the error object beside `type` and `message`."""
        return {}


class InvalidRequest(ProxyError):
    """The request cannot be forwarded, and sending it again will not help."""

    verdict = "request"
    status = 400
    outcome = "invalid_request"
    type = error_type = "invalid_request"


class RequestTooLarge(InvalidRequest):
    """The body is longer than the proxy accepts."""

    status = 413
    type = "request_too_large"


class RequestTimeout(InvalidRequest):
    """The request did not arrive in time."""

    status = 408
    type = "timeout_error"


class MethodNotAllowed(InvalidRequest):
    """The method is known but never forwarded."""

    status = 405

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")]  # RFC 9110 15.5.6: MUST


class MethodNotImplemented(InvalidRequest):
    """The parser does not know the method (RFC 9110 15.6.2)."""

    status = 501


class Misdirected(InvalidRequest):
    """The request is for an authority that this proxy does not serve (RFC 9110 15.5.20)."""

    status = 421


class PathNotAllowed(InvalidRequest):
    """The configuration does not allow this path."""

    status = 404
    type = "not_found_error"


class OriginNotAllowed(InvalidRequest):
    """The request comes from a web page whose origin the configuration does not name."""

    status = 403
    type = "permission_error"


class NotIdentified(ProxyError):
    """Only known clients are served, and this one has not proved who it is."""

    verdict = "request"
    status = 401
    outcome = "not_identified"
    type = "authentication_error"

    def __init__(self, message: str, *, is_final: bool = True) -> None:
        super().__init__(message)
        self.is_final = is_final
        """Whether the same proof would be refused again."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"www-authenticate", b'Bearer realm="oauth-pool"')]  # RFC 9110 15.5.2: MUST


class NotPermitted(ProxyError):
    """The rules do not allow this client to do this."""

    verdict = "request"
    status = 403
    outcome = "not_permitted"
    type = "permission_error"


class ClientLimited(ProxyError):
    """This client has used up what its rule allows, or has failed too often to prove who it is."""

    verdict = "limit"
    status = 429
    outcome = "client_limited"
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after)))]


class ProofUndecided(ProxyError):
    """The proof cannot be checked yet: the API server's keys are unknown, or perhaps out of date."""

    status = 503
    outcome = "proof_undecided"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after)))]


class Overloaded(ProxyError):
    """The queue is full."""

    status = 503
    outcome = "overloaded"
    type = "overloaded_error"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"1")]


class UpstreamUnreachable(ProxyError):
    """No answer came: refused, reset, cut before the head was complete, or not HTTP."""

    verdict = "upstream"
    status = 502
    outcome = "unreachable"
    type = error_type = "connection"

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        """Whether the upstream may have seen the request. If not, sending it again is free of side effects."""


class UpstreamTimeout(ProxyError):
    """The upstream could not be connected to, or sent no complete head, in time."""

    verdict = "upstream"
    status = 504
    outcome = "timeout"
    type = error_type = "timeout"

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        """Whether the upstream may have seen the request."""


class PoolCoolingDown(ProxyError):
    """No account may be used now, but at least one will become usable by itself."""

    verdict = "limit"
    status = 429
    outcome = "cooling_down"
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.retry_after is None:
            return []
        return [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after)))]


class PoolExhausted(ProxyError):
    """No account is usable, and waiting alone will not change that."""

    verdict = "account"
    status = 503
    outcome = "pool_exhausted"
    type = "pool_exhausted"

    def __init__(self, message: str, counts: Mapping[str, int]) -> None:
        super().__init__(message)
        self.counts = counts

    def details(self) -> dict[str, object]:
        return {"pool": dict(self.counts)}


class ShuttingDown(ProxyError):
    """The drain timeout is over, and this request has no answer yet."""

    status = 503
    outcome = "shutting_down"


class StreamBroken(Exception):
    """The upstream's answer stopped before its end: cut off, idle for too long, or no longer HTTP."""

    verdict = "upstream"

    def __init__(self, message: str, *, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.outcome = "timeout" if error_type == "timeout" else "truncated"


class ClientGone(Exception):
    """The client left, so there is no one to answer."""

    outcome = "client_gone"
    verdict = "client"


def error_body(type_: str, message: str, request_id: str, details: Mapping[str, object] | None = None) -> bytes:
    """The API's own error envelope, which its official clients parse."""
    error = {"type": type_, "message": message, **(details or {})}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})
