"""What every endpoint of the API does first: who calls, how slowly, and is it made to fail?"""

import gzip
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from .bearer import BearerCheck
from .clock import Clock
from .envelope import ApiError
from .exchange import pause
from .limits import Limits
from .switches import SwitchBoard, Switches

_FAILURE_TEXTS = {
    402: "Your credit balance is too low to access the API.",
    413: "Request exceeds the maximum size",
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
        if self._switches.spend("api_failures", subject):
            status, retry_after = switches.api_failure_status, switches.api_failure_retry_after
            headers = {} if retry_after is None else {"retry-after": str(retry_after)}
            raise ApiError(status, _FAILURE_TEXTS.get(status, "Internal server error"), headers=headers)
        return Caller(subject, switches)


def wants_gzip(request: Request, switches: Switches) -> bool:
    """Whether this answer is to be compressed (RFC 9110 12.5.3, without weights)."""
    accepted = [value.split(";")[0].strip() for value in request.headers.get("accept-encoding", "").split(",")]
    return switches.gzip and "gzip" in accepted


def compressed(response: Response) -> Response:
    """The same answer with a gzip body."""
    response.body = gzip.compress(bytes(response.body), mtime=0)
    response.headers["content-encoding"] = "gzip"
    response.headers["content-length"] = str(len(response.body))
    return response
