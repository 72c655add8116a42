"""The API's error envelope and request ids."""

import secrets
from collections.abc import Mapping

from starlette.responses import JSONResponse

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


class ApiError(Exception):
    """An answer of the API that is not a 200."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> JSONResponse:
        return JSONResponse(
            error_document(error_type(self.status), self.message, request_id), self.status, self.headers
        )


def error_type(status: int) -> str:
    return _TYPES.get(status, "api_error")


def error_document(kind: str, message: str, request_id: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"
