"""The token endpoint as the provider's simulator gives it, and as a broken one does, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from oauth_pool_operator import login
from oauth_pool_operator.config import AuthorizationCodeProfile, Profile
from oauth_pool_operator.errors import ExchangeRejected, GrantRejected, TokenEndpointUnavailable
from oauth_pool_operator.grants import TokenAnswer, TokenEndpoint
from oauth_pool_operator.store import LoginSession
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import Settings
from tests.support.builders import NOW

CLIENT = "a-registered-client"
CALLBACK = "https://pool.example/callback"


@pytest.fixture(params=["json", "form"])
def body(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(body: str) -> Iterator[SimulatorServer]:
    settings = Settings(client_id=CLIENT, redirect_uris=(CALLBACK,), scopes=("inference",), token_bodies=(body,))  # type: ignore[arg-type]
    with SimulatorServer(settings) as server:
        yield server


@pytest_asyncio.fixture
async def endpoint(provider: SimulatorServer, body: str) -> AsyncIterator[TokenEndpoint]:
    profile = AuthorizationCodeProfile(
        client_id=CLIENT,
        authorization_endpoint=f"{provider.url}/oauth/authorize",
        token_endpoint=f"{provider.url}/v1/oauth/token",
        revocation_endpoint=f"{provider.url}/v1/oauth/revoke",
        redirect_uri=CALLBACK,
        scopes=["inference"],
        token_body=body,  # type: ignore[arg-type]
        token_headers={"anthropic-beta": "configured"},
    )
    endpoint = TokenEndpoint(Profile(authorization_code=profile, timeout_secs=5), user_agent="tests/1")
    yield endpoint
    await endpoint.close()


async def logged_in(endpoint: TokenEndpoint, provider: SimulatorServer) -> TokenAnswer:
    session = login.open_session(NOW, "")
    pasted = provider.simulator.approve(endpoint.authorization_url(session), "alice@example.com")
    return await endpoint.exchange_code(login.parse_pasted(pasted).code, session)


async def test_a_code_becomes_tokens(endpoint: TokenEndpoint, provider: SimulatorServer) -> None:
    answer = await logged_in(endpoint, provider)
    assert (answer.subject, answer.lifetime) == ("alice@example.com", timedelta(hours=8))
    assert answer.access_token and answer.refresh_token
    (request,) = provider.simulator.requests(path="/v1/oauth/token")
    headers = dict(request.headers)
    assert (headers["user-agent"], headers["anthropic-beta"]) == ("tests/1", "configured")


async def test_a_refresh_gives_another_pair(endpoint: TokenEndpoint, provider: SimulatorServer) -> None:
    first = await logged_in(endpoint, provider)
    assert first.refresh_token is not None
    second = await endpoint.refresh(first.refresh_token)
    assert second.access_token != first.access_token
    assert second.refresh_token != first.refresh_token


async def test_an_answer_without_a_refresh_token_keeps_the_old_one(
    endpoint: TokenEndpoint, provider: SimulatorServer
) -> None:
    first = await logged_in(endpoint, provider)
    assert first.refresh_token is not None
    provider.simulator.switches.set(omit_refresh_token=True)
    assert (await endpoint.refresh(first.refresh_token)).refresh_token == first.refresh_token


async def test_a_spent_refresh_token_is_a_dead_grant(endpoint: TokenEndpoint, provider: SimulatorServer) -> None:
    first = await logged_in(endpoint, provider)
    assert first.refresh_token is not None
    await endpoint.refresh(first.refresh_token)
    with pytest.raises(GrantRejected):
        await endpoint.refresh(first.refresh_token)


async def test_revocation_ends_the_grant(endpoint: TokenEndpoint, provider: SimulatorServer) -> None:
    first = await logged_in(endpoint, provider)
    assert first.refresh_token is not None
    await endpoint.revoke(first.refresh_token)
    with pytest.raises(GrantRejected):
        await endpoint.refresh(first.refresh_token)


async def test_a_wrong_client_is_a_mistake_in_the_configuration(provider: SimulatorServer, body: str) -> None:
    profile = AuthorizationCodeProfile(
        client_id="somebody else",
        authorization_endpoint=f"{provider.url}/oauth/authorize",
        token_endpoint=f"{provider.url}/v1/oauth/token",
        redirect_uri=CALLBACK,
        token_body=body,  # type: ignore[arg-type]
    )
    endpoint = TokenEndpoint(Profile(authorization_code=profile), user_agent="tests/1")
    with pytest.raises(ExchangeRejected, match="invalid_client"):
        await endpoint.exchange_code("code", LoginSession("id", NOW, NOW, state="s", verifier="v"))
    await endpoint.close()


@pytest.mark.parametrize(
    ("switches", "may_be_done", "retry_after"),
    [
        pytest.param(
            {"token_failures": 1, "token_failure_status": 429, "token_failure_retry_after": 7}, False, 7, id="429"
        ),
        pytest.param({"token_failures": 1, "token_failure_status": 500}, True, None, id="500"),
        pytest.param({"token_drops_before_redeem": 1}, True, None, id="cut"),
        pytest.param({"token_drops_after_redeem": 1}, True, None, id="cut after redeeming"),
    ],
)
async def test_what_may_pass_is_told_apart_from_what_does_not(
    endpoint: TokenEndpoint,
    provider: SimulatorServer,
    switches: dict[str, int],
    may_be_done: bool,
    retry_after: int | None,
) -> None:
    first = await logged_in(endpoint, provider)
    assert first.refresh_token is not None
    provider.simulator.switches.set(**switches)
    with pytest.raises(TokenEndpointUnavailable) as caught:
        await endpoint.refresh(first.refresh_token)
    assert caught.value.may_be_done is may_be_done
    if retry_after is not None:
        assert caught.value.retry_after == timedelta(seconds=retry_after)
    for secret in (first.refresh_token, first.access_token):
        assert secret not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None


def test_the_authorization_url_is_what_the_standards_ask() -> None:
    profile = AuthorizationCodeProfile(
        client_id="me",
        authorization_endpoint="https://provider.example/authorize",
        token_endpoint="https://provider.example/token",
        redirect_uri=CALLBACK,
        scopes=["one", "two"],
        authorization_parameters={"code": "true"},
    )
    endpoint = TokenEndpoint(Profile(authorization_code=profile), user_agent="tests/1")
    session = LoginSession(
        "id", NOW, NOW, state="a-state", verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )  # RFC 7636 appendix B
    query = parse_qs(urlsplit(endpoint.authorization_url(session)).query)
    assert query == {
        "response_type": ["code"],
        "client_id": ["me"],
        "redirect_uri": [CALLBACK],
        "scope": ["one two"],
        "state": ["a-state"],
        "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"],
        "code_challenge_method": ["S256"],
        "code": ["true"],
    }


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        pytest.param(200, b"{}", TokenEndpointUnavailable, id="200 that is no token"),
        pytest.param(200, b"<html>", TokenEndpointUnavailable, id="200 that is no JSON"),
        pytest.param(403, b'{"detail": "secret-in-a-body"}', ExchangeRejected, id="403 without an error"),
        pytest.param(400, b'{"error": {"type": "invalid_grant"}}', GrantRejected, id="the API's envelope"),
        pytest.param(400, b'{"error": "secret-in-a-body"}', ExchangeRejected, id="an unknown word is not repeated"),
        pytest.param(502, b"<html>", TokenEndpointUnavailable, id="a proxy's error page"),
        pytest.param(302, b"", ExchangeRejected, id="redirects are not followed"),
    ],
)
async def test_answers_of_something_that_is_no_token_endpoint(
    status: int, answer: bytes, expected: type[Exception]
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\nlocation: http://127.0.0.1:9/\r\n"
        writer.write(head.encode() + b"connection: close\r\n\r\n" + answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    profile = AuthorizationCodeProfile(
        client_id="me",
        authorization_endpoint=f"http://127.0.0.1:{port}/",
        token_endpoint=f"http://127.0.0.1:{port}/",
        redirect_uri=CALLBACK,
        token_body="json",
    )
    endpoint = TokenEndpoint(Profile(authorization_code=profile, timeout_secs=5), user_agent="tests/1")
    try:
        with pytest.raises(expected) as caught:
            await endpoint.refresh("the-refresh-token")
        assert "secret-in-a-body" not in str(caught.value)
        assert "the-refresh-token" not in str(caught.value)
    finally:
        await endpoint.close()
        server.close()
        await server.wait_closed()


def test_an_answer_does_not_print_its_tokens() -> None:
    shown = repr(TokenAnswer("the-access-token", "the-refresh-token", timedelta(1), "alice"))
    assert "token'" not in shown and "the-" not in shown
