"""What every endpoint of the API has in common: who calls, is it made to fail, and how a JSON answer is sent."""

import gzip
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from .bearer import BearerCheck
from .clock import Clock
from .envelope import RATE_LIMIT_TEXT, ApiError
from .exchange import Exchange, exchange_of, pause
from .limits import Limits
from .switches import SwitchBoard, Switches

_FAILURE_TEXTS = {
    400: "The request is not valid.",
    401: "Invalid bearer token",
    402: "Your credit balance is too low to access the API.",
    403: "Your account does not have permission to use this resource.",
    404: "Not found",
    413: "Request exceeds the maximum size",
    429: RATE_LIMIT_TEXT,
    504: "The request timed out.",
    529: "Overloaded",
}


@dataclass(frozen=True)
class Caller:
    subject: str
    switches: Switches


class Api:
    """Shared by the API's endpoints."""

    def __init__(self, *, bearer: BearerCheck, limits: Limits, switches: SwitchBoard, clock: Clock) -> None:
        self.limits = limits
        self.clock = clock
        self._bearer = bearer
        self._switches = switches

    async def admit(self, request: Request) -> Caller:
        """The account and its switches as they are now; raises `ApiError` for a request that is not to be served."""
        subject = self._bearer.subject(request)
        switches = self._switches.get(subject)
        await pause(switches.headers_delay)
        if switches.redirect_location is not None:
            headers = {"location": switches.redirect_location}
            raise ApiError(switches.redirect_status, "The resource is elsewhere.", headers=headers)
        if self._switches.spend("api_failures", subject):
            raise _failure(switches)
        return Caller(subject, switches)

    def answer(
        self, request: Request, document: Any, switches: Switches, headers: Mapping[str, str] | None = None
    ) -> Response:
        """A 200 with a JSON document, compressed or cut short if a switch says so."""
        response: Response = JSONResponse(document, headers=headers)
        if wants_gzip(request, switches):
            response.body = gzip.compress(bytes(response.body), mtime=0)
            response.headers["content-encoding"] = "gzip"
            response.headers["content-length"] = str(len(response.body))
        if switches.json_cut_after is None and not switches.json_chunked:
            return response
        if switches.json_chunked:
            del response.headers["content-length"]
        # else it stays that of the whole answer, also when only a part of it is sent
        body = _json_body(bytes(response.body), switches.json_cut_after, exchange_of(request))
        return StreamingResponse(body, headers=response.headers)


def wants_gzip(request: Request, switches: Switches) -> bool:
    """Whether this answer is to be compressed (RFC 9110 12.5.3, without weights)."""
    accepted = [value.split(";")[0].strip() for value in request.headers.get("accept-encoding", "").split(",")]
    return switches.gzip and "gzip" in accepted


def _failure(switches: Switches) -> ApiError:
    """What the switch `api_failures` asks for."""
    status, message, retry_after = (
        switches.api_failure_status,
        switches.api_failure_message,
        switches.api_failure_retry_after,
    )
    if message is None:
        message = _FAILURE_TEXTS.get(status, "Internal server error")
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return ApiError(status, message, headers=headers, is_from_edge=switches.errors_from_edge)


async def _json_body(body: bytes, cut_after: int | None, exchange: Exchange) -> AsyncIterator[bytes]:
    yield body[:cut_after]
    if cut_after is not None:
        await exchange.drop()
