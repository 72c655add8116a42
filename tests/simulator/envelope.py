"""The API's error envelope and request ids, and the pages of the edge in front of it."""

import secrets
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import HTMLResponse, JSONResponse, Response

# The provider's error types by status.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


# the same for a quota and for a short-term limit
RATE_LIMIT_TEXT = "This request would exceed your account's rate limit. Please try again later."


class ApiError(Exception):
    """An answer of the API that is not a 200; `is_from_edge` makes it one of the edge, which knows no envelope."""

    def __init__(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None, is_from_edge: bool = False
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.is_from_edge = is_from_edge

    def response(self, request_id: str) -> Response:
        if self.is_from_edge:
            return HTMLResponse(_page(self.status), self.status, self.headers)
        document = error_document(error_type(self.status), self.message, request_id)
        return JSONResponse(document, self.status, self.headers)


def error_type(status: int) -> str:
    return _TYPES.get(status, "api_error")


def error_document(kind: str, message: str, request_id: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _page(status: int) -> str:
    # 529 is the API's own
    title = f"{status} {HTTPStatus(status).phrase}" if status != 529 else "529 Overloaded"
    return f"<html>\n<head><title>{title}</title></head>\n<body><center><h1>{title}</h1></center></body>\n</html>\n"
