"""What the tests of the endpoint share: a profile whose endpoints are all at one URL, and an endpoint that is closed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.profiles import (
    AuthorizationCodeProfile,
    DeviceCodeProfile,
    Profile,
    WorkloadIdentityProfile,
)

CLIENT = "a-registered-client"
CALLBACK = "https://pool.example/callback"


def profile_at(url: str, *, profile: dict[str, Any] | None = None, **client: Any) -> Profile:
    """Settings of the client count for both ways to log in; those of the profile are given beside it."""
    members: dict[str, Any] = {"client_id": "me", "token_endpoint": url, "revocation_endpoint": url, **client}
    by_code = AuthorizationCodeProfile(authorization_endpoint=url, redirect_uri=CALLBACK, **members)
    return Profile(
        authorization_code=by_code,
        device_code=DeviceCodeProfile(device_authorization_endpoint=url, **members),
        workload_identity=WorkloadIdentityProfile(url, "audience"),
        **{"timeout_secs": 20, **(profile or {})},
    )


@asynccontextmanager
async def asked(profile: Profile) -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint(profile, user_agent="tests/1")
    try:
        yield endpoint
    finally:
        await endpoint.close()
