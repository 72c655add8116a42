"""Error answers of the upstream that reach the client, and what SDKs make of them: their classes have the same names."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.gateway import MODEL

WORDS = "words that clients match on"


@dataclass(frozen=True)
class ErrorAnswer:
    status: int
    exception: str
    type: str | None
    switches: dict[str, Any]
    message: str | None = WORDS
    retry_after: str | None = None
    is_about_the_account: bool = False
    """In pool mode it is not passed on: another account is asked."""
    is_put_to_both: bool = False
    """In pool mode both accounts are asked before it is passed on: it might have been the first one's fault."""


def _on_demand(status: int, retry_after: int | None = None, **more: object) -> dict[str, Any]:
    failure = {"api_failures": 1, "api_failure_status": status, "api_failure_message": WORDS}
    return {**failure, "api_failure_retry_after": retry_after, **more}


_ANSWERS = {
    "400": ErrorAnswer(400, "BadRequestError", "invalid_request_error", _on_demand(400)),
    "401": ErrorAnswer(401, "AuthenticationError", "authentication_error", _on_demand(401), is_about_the_account=True),
    "403-scope": ErrorAnswer(
        403,
        "PermissionDeniedError",
        "permission_error",
        {"scope_missing": True},
        "OAuth token does not meet scope requirement user:inference",
        is_put_to_both=True,
    ),
    "403-model": ErrorAnswer(
        403,
        "PermissionDeniedError",
        "permission_error",
        {"forbidden_model": MODEL},
        f"Your account does not have access to the model {MODEL}.",
        is_put_to_both=True,
    ),
    "403-revoked": ErrorAnswer(
        403,
        "PermissionDeniedError",
        "permission_error",
        {"revoked": True},
        "OAuth token has been revoked. Please obtain a new token.",
        is_about_the_account=True,
    ),
    "404": ErrorAnswer(404, "NotFoundError", "not_found_error", _on_demand(404)),
    "413": ErrorAnswer(413, "ContentTooLargeError", "request_too_large", _on_demand(413)),
    "413-from-the-edge": ErrorAnswer(
        413, "ContentTooLargeError", None, _on_demand(413, errors_from_edge=True), message=None
    ),
    "429-per-minute": ErrorAnswer(
        429,
        "RateLimitError",
        "rate_limit_error",
        {"rate_limited": 17},
        "This request would exceed your account's rate limit. Please try again later.",
        retry_after="17",
        is_about_the_account=True,
    ),
    "429-windowless": ErrorAnswer(
        429, "RateLimitError", "rate_limit_error", _on_demand(429), is_about_the_account=True
    ),
    "500": ErrorAnswer(500, "InternalServerError", "api_error", _on_demand(500)),
    "504": ErrorAnswer(504, "GatewayTimeoutError", "timeout_error", _on_demand(504)),
    "529": ErrorAnswer(529, "OverloadedError", "overloaded_error", _on_demand(529)),
    "529-retry-after": ErrorAnswer(
        529, "OverloadedError", "overloaded_error", _on_demand(529, retry_after=600), retry_after="600"
    ),
}

PASSED_ON = [
    pytest.param(mode, answer, id=f"{mode}-{name}")
    for mode in ("passthrough", "pool")
    for name, answer in _ANSWERS.items()
    if mode == "passthrough" or not answer.is_about_the_account
]
"""Every mode with every answer that it hands on unchanged."""

STATUSES = (400, 401, 402, 403, 404, 413, 429, 500, 502, 503, 504, 529)
"""Every error status of the API, and those of what stands before it."""
