"""Interprets the API server's answers, and missing ones: in a few words for people, as booleans for the code."""

from http import HTTPStatus

import httpx2
from lightkube.core.exceptions import ApiError


class GarbledAnswer(httpx2.HTTPError):
    """The answer is not from an API server, or from a version that we do not know."""


def describe(error: BaseException) -> str:
    """A failure of the API server in a few words: its text may quote an object, so it is not repeated."""
    if isinstance(error, httpx2.HTTPStatusError):  # lightkube's ApiError is one
        return f"the API server answered {error.response.status_code}"
    if isinstance(error, GarbledAnswer):
        return f"the API server's answer cannot be used ({error})"
    # "connection refused", or what is wrong with its certificate
    why = str(error) if isinstance(error, httpx2.ConnectError) else ""
    return f"the API server cannot be reached ({why or type(error).__name__})"


def is_gone(error: BaseException) -> bool:
    """True when the API server itself said that the object does not exist; a gateway's 404 says nothing about the object."""
    return isinstance(error, ApiError) and error.status.code == HTTPStatus.NOT_FOUND


def is_not_served(error: BaseException) -> bool:
    """True when nothing is served at the address: the kind is not known (yet), or this is not an API server."""
    return isinstance(error, httpx2.HTTPStatusError) and error.response.status_code == HTTPStatus.NOT_FOUND


def is_forbidden(error: BaseException) -> bool:
    """True when the API server said that the Role lacks something."""
    return isinstance(error, ApiError) and error.status.code == HTTPStatus.FORBIDDEN
