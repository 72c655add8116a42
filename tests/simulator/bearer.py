"""Who calls the API: the bearer token and the headers that the API demands beside it."""

import re

from starlette.requests import Request

from .clock import Clock
from .envelope import ApiError
from .exchange import exchange_of
from .grants import Grants
from .known_secrets import KnownSecrets
from .switches import SwitchBoard

OAUTH_BETA = "oauth-2025-04-20"


def betas(request: Request) -> list[str]:
    """The values of `anthropic-beta`, from all its lines."""
    return [value.strip() for line in request.headers.getlist("anthropic-beta") for value in line.split(",")]


class BearerCheck:
    """Names the account of a request, or refuses it in the provider's words."""

    def __init__(self, *, grants: Grants, switches: SwitchBoard, clock: Clock, known_secrets: KnownSecrets) -> None:
        self._grants = grants
        self._switches = switches
        self._clock = clock
        self._known_secrets = known_secrets

    def subject(self, request: Request) -> str:
        """The account's subject, which is recorded even when the request is refused later on.

        RFC 6750 2.1; statuses and texts as the provider documents them.
        """
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        value = value.strip()
        if scheme.lower() != "bearer" or not value:
            raise ApiError(401, "x-api-key header is required")
        self._known_secrets.add("access_token", value)
        if OAUTH_BETA not in betas(request):
            raise ApiError(401, "OAuth authentication is currently not supported.")
        token = self._grants.access_token(value)
        if token is None:
            raise ApiError(401, "Invalid bearer token")
        subject = token.grant.subject
        exchange_of(request).record.subject = subject
        switches = self._switches.get(subject)
        if token.is_revoked or switches.revoked:
            raise ApiError(403, "OAuth token has been revoked. Please obtain a new token.")
        if self._clock.now() >= token.ends_at:
            raise ApiError(401, "OAuth token has expired. Please obtain a new token or refresh your existing token.")
        if switches.scope_missing:
            raise ApiError(403, "OAuth token does not meet scope requirement user:inference")
        version = request.headers.get("anthropic-version")
        if version is None:
            raise ApiError(400, "anthropic-version: header is required")
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", version):
            raise ApiError(400, f"anthropic-version: {version!r} is not a valid version")
        return subject
