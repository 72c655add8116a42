"""The token endpoint as the provider's simulator gives it, and as a broken one does, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import pytest_asyncio

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.spec import WorkloadIdentity
from oauth_pool_operator.config import (
    AuthorizationCodeProfile,
    DeviceCodeProfile,
    Profile,
    WorkloadIdentityProfile,
)
from oauth_pool_operator.errors import (
    AuthorizationEnded,
    AuthorizationPending,
    ExchangeRejected,
    GrantRejected,
    TokenEndpointUnavailable,
)
from oauth_pool_operator.oauth import endpoint as grants
from oauth_pool_operator.oauth import login
from oauth_pool_operator.oauth.answer import TokenAnswer
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import Settings
from tests.support.builders import NOW
from tests.support.upstream_server import json_answer, upstream_server

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


def configured(url: str, **settings: Any) -> Profile:
    """A profile whose endpoints are all at `url`."""
    members: dict[str, Any] = {
        "client_id": "me",
        "authorization_endpoint": url,
        "token_endpoint": url,
        "revocation_endpoint": url,
        "redirect_uri": CALLBACK,
        "scopes": ["one", "two"],
        "token_body": "json",
        "token_headers": {"anthropic-beta": "configured"},
    }
    return Profile(
        authorization_code=AuthorizationCodeProfile(**{**members, **settings}),
        workload_identity=WorkloadIdentityProfile(url, "audience", {"anthropic-beta": "configured"}),
        timeout_secs=5,
    )


@asynccontextmanager
async def asked(profile: Profile) -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint(profile, user_agent="tests/1")
    try:
        yield endpoint
    finally:
        await endpoint.close()


SESSION = LoginSession("id", NOW, NOW, state="a-state", verifier="a-verifier")
WORKLOAD = WorkloadIdentity("inference", "fdrl_1", "org")
REFRESH = {"grant_type": "refresh_token", "refresh_token": "r", "client_id": "me"}
EXCHANGE = {
    "grant_type": "authorization_code",
    "code": "c",
    "redirect_uri": CALLBACK,
    "code_verifier": "a-verifier",
    "client_id": "me",
}
ASSERTION = {
    "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "assertion": "a",
    "federation_rule_id": "fdrl_1",
    "organization_id": "org",
}


@pytest.mark.parametrize(
    ("settings", "request_of", "members"),
    [
        pytest.param({}, lambda endpoint: endpoint.refresh("r"), REFRESH, id="refresh, as granted: without a scope"),
        pytest.param({}, lambda endpoint: endpoint.exchange_code("c", SESSION), EXCHANGE, id="code"),
        pytest.param(
            {"send_state": True},
            lambda endpoint: endpoint.exchange_code("c", SESSION),
            {**EXCHANGE, "state": "a-state"},
            id="code, for a provider that wants the state",
        ),
        pytest.param({}, lambda endpoint: endpoint.exchange_assertion("a\n", WORKLOAD), ASSERTION, id="assertion"),
        pytest.param(
            {},
            lambda endpoint: endpoint.exchange_assertion(
                "a", WorkloadIdentity("inference", "fdrl_1", "org", "svac_1", "default")
            ),
            {**ASSERTION, "service_account_id": "svac_1", "workspace_id": "default"},
            id="assertion, with everything that can be said",
        ),
        pytest.param(
            {},
            lambda endpoint: endpoint.revoke("r"),
            {"token": "r", "token_type_hint": "refresh_token", "client_id": "me"},
            id="revocation",
        ),
    ],
)
async def test_a_request_holds_what_it_should_and_the_configured_headers(
    settings: dict[str, Any], request_of: Callable[[TokenEndpoint], Awaitable[object]], members: dict[str, str]
) -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url, **settings)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t"}'))
        await request_of(endpoint)
        (request,) = upstream.requests
        assert json.loads(request.body) == members
        assert request.values(b"anthropic-beta") == [b"configured"]
        assert request.values(b"user-agent") == [b"tests/1"]


async def test_a_configured_header_takes_the_place_of_our_own_however_it_is_written() -> None:
    async with upstream_server() as upstream:
        async with asked(configured(upstream.url, token_headers={"User-Agent": "theirs"})) as endpoint:
            upstream.answer_all(json_answer(b'{"access_token": "t"}'))
            await endpoint.refresh("r")
        (request,) = upstream.requests
        assert request.values(b"user-agent") == [b"theirs"]


@pytest.mark.parametrize(
    "member", ["", ', "refresh_token": null', ', "refresh_token": ""'], ids=["none", "null", "empty"]
)
async def test_a_refresh_token_that_is_not_replaced_stays(member: str) -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t"%s}' % member.encode()))
        assert (await endpoint.refresh("the-refresh-token")).refresh_token == "the-refresh-token"


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        pytest.param("null", timedelta(hours=1), id="not said: an hour"),
        pytest.param("1800", timedelta(minutes=30), id="a number"),
        pytest.param("1800.5", timedelta(seconds=1800.5), id="a fraction"),
        pytest.param('"1800"', timedelta(minutes=30), id="a number as text"),
        pytest.param("1e15", timedelta(days=366), id="not for ever"),
        pytest.param("0", timedelta(hours=1), id="nothing: no sense, an hour"),
        pytest.param("2e-40", timedelta(hours=1), id="as good as nothing"),
        pytest.param("-5", timedelta(hours=1), id="less than nothing"),
        pytest.param("1e400", timedelta(hours=1), id="beyond all numbers"),
        pytest.param('"soon"', timedelta(hours=1), id="a word"),
        pytest.param("true", timedelta(hours=1), id="not a number at all"),
    ],
)
async def test_a_token_lives_as_long_as_the_answer_says(expires_in: str, lifetime: timedelta) -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url)) as endpoint:
        upstream.answer_all(
            json_answer(b'{"access_token": "t", "refresh_token": "new", "expires_in": %s}' % expires_in.encode())
        )
        answer = await endpoint.refresh("old")
        assert (answer.refresh_token, answer.lifetime) == ("new", lifetime)


async def test_an_error_beside_a_token_does_not_lose_the_token() -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t", "refresh_token": "new", "error": ""}'))
        assert (await endpoint.refresh("old")).refresh_token == "new"


@pytest.mark.parametrize(
    ("members", "subject"),
    [
        pytest.param('"account": {"uuid": "u", "email_address": "a@b.example"}', "a@b.example", id="address first"),
        pytest.param('"account": {"uuid": "u"}, "organization": {"name": "o"}', "u", id="a person first"),
        pytest.param('"organization": {"uuid": "o", "name": "Org"}', "o", id="only an organization"),
        pytest.param('"account": {"email": "", "uuid": 7}, "organization": {"name": "Org"}', "Org", id="odd values"),
        pytest.param('"account": "a", "organization": null', None, id="nobody"),
        pytest.param('"account": {"uuid": "%s"}' % ("u" * 999), "u" * 253, id="long"),
    ],
)
async def test_who_logged_in_is_whoever_the_answer_names(members: str, subject: str | None) -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t", %s}' % members.encode()))
        assert (await endpoint.refresh("old")).subject == subject


SENT = ("date", "Fri, 20 Nov 2026 12:00:00 GMT")


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        pytest.param([("retry-after", "7")], timedelta(seconds=7), id="seconds"),
        pytest.param([("retry-after", "999999999")], timedelta(days=1), id="not for years"),
        pytest.param([SENT, ("retry-after", "Fri, 20 Nov 2026 12:05:00 GMT")], timedelta(minutes=5), id="a date"),
        pytest.param([SENT, ("retry-after", "Fri, 20 Nov 2026 11:00:00 GMT")], timedelta(0), id="a date in the past"),
        pytest.param([("retry-after", "Fri, 20 Nov 1998 12:00:00 GMT")], timedelta(0), id="a date by our own clock"),
        pytest.param([("retry-after", "Fri, 20 Nov 9998 12:00:00 GMT")], timedelta(days=1), id="a date far away"),
        pytest.param([("retry-after", "-1")], None, id="nonsense"),
        pytest.param([], None, id="not a word of it"),
    ],
)
async def test_when_the_server_wants_to_be_asked_again(headers: list[tuple[str, str]], delay: timedelta | None) -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b"{}", 429, *headers))
        with pytest.raises(TokenEndpointUnavailable) as caught:
            await endpoint.refresh("r")
        assert (caught.value.retry_after, caught.value.is_throttled) == (delay, True)


async def test_a_request_that_was_never_sent_cannot_have_been_carried_out() -> None:
    async with upstream_server() as upstream:
        url = upstream.url
    async with asked(configured(url)) as endpoint:
        with pytest.raises(TokenEndpointUnavailable, match="cannot be reached") as caught:
            await endpoint.refresh("r")
        assert not caught.value.may_be_done


async def test_an_endpoint_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    async with upstream_server() as upstream:
        profile = msgspec.structs.replace(configured(upstream.url), timeout_secs=0.5)
        async with asked(profile) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="did not answer in time") as caught:
                await endpoint.refresh("r")
            assert caught.value.may_be_done


async def test_a_revocation_that_is_refused_is_an_error() -> None:
    async with upstream_server() as upstream, asked(configured(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"error": "unsupported_token_type"}', 400))
        with pytest.raises(ExchangeRejected, match="answered 400"):
            await endpoint.revoke("r")


async def test_a_revocation_that_is_not_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "REVOCATION_SECONDS", 0.5)
    async with upstream_server() as upstream:
        patient = msgspec.structs.replace(configured(upstream.url), timeout_secs=600)
        async with asked(patient) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="the revocation endpoint did not answer in time"):
                await endpoint.revoke("r")


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
        pytest.param(400, b'{"error": {"type": "invalid_grant"}}', GrantRejected, id="the API's envelope"),
        pytest.param(400, b'{"error": "secret-in-a-body"}', ExchangeRejected, id="an unknown word is not repeated"),
        pytest.param(502, b"<html>", TokenEndpointUnavailable, id="a proxy's error page"),
        pytest.param(302, b"", TokenEndpointUnavailable, id="redirects are not followed"),
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


# --- device codes ----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def device_endpoint(provider: SimulatorServer, body: str) -> AsyncIterator[TokenEndpoint]:
    """A provider that is known for its device logins only."""
    profile = DeviceCodeProfile(
        client_id=CLIENT,
        device_authorization_endpoint=f"{provider.url}/v1/oauth/device_authorization",
        token_endpoint=f"{provider.url}/v1/oauth/token",
        revocation_endpoint=f"{provider.url}/v1/oauth/revoke",
        scopes=["inference"],
        token_body=body,  # type: ignore[arg-type]
        token_headers={"anthropic-beta": "configured"},
    )
    async with asked(Profile(device_code=profile, timeout_secs=5)) as endpoint:
        yield endpoint


async def test_a_device_code_becomes_tokens_that_are_refreshed_and_revoked(
    device_endpoint: TokenEndpoint, provider: SimulatorServer
) -> None:
    provider.simulator.switches.set(device_interval=0)
    login = await device_endpoint.authorize_device()
    assert (login.lifetime, login.interval) == (timedelta(minutes=30), timedelta(seconds=1))
    assert login.verification_uri_complete == f"{provider.url}/oauth/device?user_code={login.user_code}"
    with pytest.raises(AuthorizationPending) as pending:
        await device_endpoint.exchange_device_code(login.device_code)
    assert not pending.value.slow_down
    provider.simulator.approve_device(login.user_code, "alice@example.com")
    first = await device_endpoint.exchange_device_code(login.device_code)
    assert (first.subject, first.lifetime) == ("alice@example.com", timedelta(hours=8))
    assert first.refresh_token is not None
    second = await device_endpoint.refresh(first.refresh_token, "DeviceCode")
    assert second.refresh_token not in (None, first.refresh_token)
    await device_endpoint.revoke(second.refresh_token or "", "DeviceCode")
    with pytest.raises(GrantRejected):
        await device_endpoint.refresh(second.refresh_token or "", "DeviceCode")
    for request in provider.simulator.requests():
        headers = dict(request.headers)
        assert (headers["user-agent"], headers["anthropic-beta"]) == ("tests/1", "configured")


@pytest.mark.parametrize(
    ("switches", "approval", "expected"),
    [
        pytest.param({"device_slow_downs": 1}, None, AuthorizationPending(slow_down=True), id="asked too often"),
        pytest.param({}, "deny", AuthorizationEnded(has_expired=False), id="denied"),
        pytest.param({"device_code_lifetime": 0}, None, AuthorizationEnded(has_expired=True), id="expired"),
    ],
)
async def test_what_becomes_of_a_device_login(
    device_endpoint: TokenEndpoint,
    provider: SimulatorServer,
    switches: dict[str, int],
    approval: str | None,
    expected: Exception,
) -> None:
    provider.simulator.switches.set(**switches)
    login = await device_endpoint.authorize_device()
    if approval is not None:
        provider.simulator.deny_device(login.user_code)
    with pytest.raises(type(expected)) as caught:
        await device_endpoint.exchange_device_code(login.device_code)
    assert vars(caught.value) == vars(expected)
    assert login.device_code not in repr(login) + str(caught.value)


def by_device(url: str) -> Profile:
    profile = DeviceCodeProfile(
        client_id="me", device_authorization_endpoint=url, token_endpoint=url, scopes=["one", "two"], token_body="json"
    )
    return Profile(device_code=profile, timeout_secs=5)


GOOD_DEVICE_ANSWER = {"device_code": "d", "user_code": "u", "verification_uri": "https://x/device", "expires_in": 600}


async def test_requests_of_a_device_login_hold_what_the_standard_says() -> None:
    async with upstream_server() as upstream, asked(by_device(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(json.dumps(GOOD_DEVICE_ANSWER | {"access_token": "t"}).encode()))
        await endpoint.authorize_device()
        await endpoint.exchange_device_code("the-device-code")
        assert [json.loads(request.body) for request in upstream.requests] == [
            {"client_id": "me", "scope": "one two"},
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                "device_code": "the-device-code",
                "client_id": "me",
            },
        ]


@pytest.mark.parametrize(
    ("changes", "lifetime", "interval"),
    [
        pytest.param({}, 600, 5, id="5 s unless it is said"),
        pytest.param({"interval": 0}, 600, 1, id="not without a pause"),
        pytest.param({"interval": 1e9}, 600, 300, id="not for ever"),
        pytest.param({"interval": "soon"}, 600, 5, id="no sense"),
        pytest.param({"interval": 7.5, "expires_in": 1e9}, 3600, 7.5, id="an hour at most"),
    ],
)
async def test_how_long_and_how_often_a_device_asks(changes: dict[str, Any], lifetime: int, interval: float) -> None:
    async with upstream_server() as upstream, asked(by_device(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(json.dumps(GOOD_DEVICE_ANSWER | changes).encode()))
        login = await endpoint.authorize_device()
        assert (login.lifetime.total_seconds(), login.interval.total_seconds()) == (lifetime, interval)
        assert login.verification_uri_complete is None


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        pytest.param({"device_code": ""}, 200, TokenEndpointUnavailable, id="no device code"),
        pytest.param({"user_code": "u" * 65}, 200, TokenEndpointUnavailable, id="a code that nobody can enter"),
        pytest.param({"verification_uri": "javascript:x"}, 200, TokenEndpointUnavailable, id="no web page"),
        pytest.param({"verification_uri": "https://x/" + "u" * 2048}, 200, TokenEndpointUnavailable, id="long"),
        pytest.param({"error": "invalid_client"}, 401, ExchangeRejected, id="unknown client"),
        pytest.param({"error": "secret-in-a-body"}, 400, ExchangeRejected, id="an unknown word"),
        pytest.param({}, 503, TokenEndpointUnavailable, id="503"),
    ],
)
async def test_a_device_login_that_is_not_opened(
    changes: dict[str, str], status: int, expected: type[Exception]
) -> None:
    async with upstream_server() as upstream, asked(by_device(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(json.dumps(GOOD_DEVICE_ANSWER | changes).encode(), status))
        with pytest.raises(expected, match="the device authorization endpoint answered") as caught:
            await endpoint.authorize_device()
        assert "secret-in-a-body" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "word", "expected"),
    [
        pytest.param(200, "authorization_pending", AuthorizationPending, id="pending with 200"),
        pytest.param(428, "authorization_pending", AuthorizationPending, id="pending with 428"),
        pytest.param(403, "access_denied", AuthorizationEnded, id="denied with 403"),
        pytest.param(200, "access_denied", AuthorizationEnded, id="denied with 200"),
        pytest.param(429, "slow_down", TokenEndpointUnavailable, id="429"),
        pytest.param(400, "invalid_grant", GrantRejected, id="unknown code"),
        pytest.param(401, "invalid_client", ExchangeRejected, id="unknown client"),
        pytest.param(500, "slow_down", TokenEndpointUnavailable, id="500"),
    ],
)
async def test_answers_while_a_device_waits(status: int, word: str, expected: type[Exception]) -> None:
    async with upstream_server() as upstream, asked(by_device(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"error": "%s"}' % word.encode(), status))
        with pytest.raises(expected):
            await endpoint.exchange_device_code("d")


def test_an_answer_does_not_print_its_tokens() -> None:
    shown = repr(TokenAnswer("the-access-token", "the-refresh-token", timedelta(1), "alice"))
    assert "token'" not in shown and "the-" not in shown
