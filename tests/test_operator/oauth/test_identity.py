"""Who logged in: from the answer's members, or from the ID token that came with it."""

import base64
import json
from typing import Any

import pytest

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.oauth import login
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import Settings
from tests.support.builders import NOW
from tests.support.upstream_server import json_answer, upstream_server
from tests.test_operator.oauth.asking import CALLBACK, CLIENT, asked, profile_at

SESSION = LoginSession("id", NOW, NOW, state="a-state", verifier="a-verifier")
ISSUER = "https://issuer.example"


def id_token(**claims: Any) -> str:
    def encoded(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    usual = {"iss": ISSUER, "aud": "me", "sub": "7", "email": "alice@example.com", "exp": 1}
    return f"{encoded({'alg': 'RS256'})}.{encoded(usual | claims)}.signature"


async def subject(document: dict[str, Any], **client: Any) -> str | None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url, **client)) as endpoint:
        upstream.answer_all(json_answer(json.dumps({"access_token": "t", **document}).encode()))
        return (await endpoint.exchange_code("c", SESSION)).subject


@pytest.mark.parametrize(
    ("claims", "client", "expected"),
    [
        pytest.param({}, {}, "alice@example.com", id="the address"),
        pytest.param({"email": None}, {}, "7", id="without one, the subject"),
        pytest.param({"email_verified": False}, {}, "7", id="an address that anybody could have entered"),
        pytest.param({}, {"subject_claim": "sub"}, "7", id="a claim that the profile names"),
        pytest.param({"email_verified": "false"}, {"subject_claim": "email"}, None, id="named, but not verified"),
        pytest.param({"org": {"name": "o"}}, {"subject_claim": "org.name"}, "o", id="within another"),
        pytest.param({"https://x.y/z": "o"}, {"subject_claim": "https://x.y/z"}, "o", id="with a URL for a name"),
        pytest.param({}, {"subject_claim": "nickname"}, None, id="a claim that is not there"),
        pytest.param({"aud": ["other", "me"]}, {}, "alice@example.com", id="one audience of several"),
        pytest.param({"aud": "other"}, {}, None, id="for another client"),
        pytest.param({}, {"issuer": ISSUER}, "alice@example.com", id="of the profile's issuer"),
        pytest.param({"iss": "https://evil.example"}, {"issuer": ISSUER}, None, id="of another issuer"),
    ],
)
async def test_an_id_token_names_who_logged_in(
    claims: dict[str, Any], client: dict[str, Any], expected: str | None
) -> None:
    assert await subject({"id_token": id_token(**claims)}, **client) == expected


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "a.WzFd.c", 7, None, f"a.{'W' * 9000}.c"])
async def test_an_id_token_that_is_none_names_nobody_and_costs_no_token(token: Any) -> None:
    assert await subject({"id_token": token, "account": {}}) is None


async def test_a_profile_names_the_member_of_the_answer_that_says_who_it_is() -> None:
    document = {"account": {"email": "other@example.com"}, "user": {"login": "octocat"}}
    assert await subject(document, subject_claim="user.login") == "octocat"


async def test_a_login_at_a_provider_with_id_tokens_says_who_it_was() -> None:
    settings = Settings(client_id=CLIENT, redirect_uris=(CALLBACK,), scopes=("openid",), token_bodies=("form",))
    with SimulatorServer(settings) as provider:
        provider.simulator.switches.set(id_token=True)
        profile = profile_at(f"{provider.url}/v1/oauth/token", client_id=CLIENT, scopes=["openid"])
        async with asked(profile) as endpoint:
            session = login.open_session(NOW, "")
            url = endpoint.authorization_url(session).replace("/v1/oauth/token?", "/oauth/authorize?")
            pasted = provider.simulator.approve(url, "alice@example.com")
            answer = await endpoint.exchange_code(login.parse_pasted(pasted).code, session)
            assert answer.subject == "alice@example.com"
