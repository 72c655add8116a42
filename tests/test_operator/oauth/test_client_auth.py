"""Confidential clients: what they prove themselves with reaches the provider, follows its file, and is never shown."""

import os
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from oauth_pool_operator.errors import ExchangeRejected, TokenEndpointUnavailable
from oauth_pool_operator.oauth.client_auth import prove
from oauth_pool_operator.oauth.profiles import Profile
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import Settings
from tests.support.upstream_server import json_answer, upstream_server
from tests.test_operator.oauth.asking import CLIENT, asked, profile_at

# With characters that RFC 6749 2.3.1 has form-encoded before they are put into a header.
CLIENT_SECRET = "a secret: with+all%20of=it/ü"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "client-secret"
    path.write_text(CLIENT_SECRET + "\n")
    return path


def provider(**settings: Any) -> SimulatorServer:
    return SimulatorServer(Settings(client_id=CLIENT, token_bodies=("form", "json"), **settings))


def at(simulator: SimulatorServer, **client: Any) -> Profile:
    url = f"{simulator.url}/v1/oauth/token"
    return profile_at(url, client_id=CLIENT, **({"revocation_endpoint": f"{simulator.url}/v1/oauth/revoke"} | client))


def replace_with(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


async def refreshed(simulator: SimulatorServer, profile: Profile) -> str:
    issued = simulator.simulator.issue_tokens("alice@example.com")
    async with asked(profile) as endpoint:
        answer = await endpoint.refresh(issued.refresh_token or "")
        await endpoint.revoke(answer.refresh_token or "")
        return answer.access_token


@pytest.mark.parametrize("token_body", ["form", "json"])
@pytest.mark.parametrize("method", [None, "client_secret_basic", "client_secret_post"])
async def test_a_client_with_a_secret_is_let_in(method: Any, token_body: Any, secret_file: Path) -> None:
    with provider(client_secret=CLIENT_SECRET) as simulator:
        settings = {"client_secret_file": secret_file, "client_authentication": method, "token_body": token_body}
        assert await refreshed(simulator, at(simulator, **settings))
        replace_with(secret_file, b"another secret")
        with pytest.raises(ExchangeRejected, match="401 invalid_client") as caught:
            await refreshed(simulator, at(simulator, **settings))
        assert not caught.value.may_be_the_grant


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        pytest.param(RSAKey.generate_key(2048), None, id="RSA"),
        pytest.param(RSAKey.generate_key(2048), "PS256", id="RSA, PS256"),
        pytest.param(ECKey.generate_key("P-256"), None, id="P-256"),
        pytest.param(ECKey.generate_key("P-384"), None, id="P-384"),
    ],
)
async def test_a_client_with_a_private_key_is_let_in(key: Any, algorithm: Any, tmp_path: Path) -> None:
    private_key = tmp_path / "key.pem"
    private_key.write_bytes(key.as_pem(private=True))
    with provider(client_public_key=key.as_pem(private=False).decode()) as simulator:
        settings = {"private_key_file": private_key, "signing_algorithm": algorithm}
        url = f"{simulator.url}/v1/oauth/token"
        assert await refreshed(simulator, at(simulator, **settings))
        with pytest.raises(ExchangeRejected, match="401 invalid_client"):
            await refreshed(simulator, at(simulator, **settings, assertion_audience=url + "/other"))


async def test_an_assertion_is_short_lived_names_its_key_and_is_another_each_time(tmp_path: Path) -> None:
    """RFC 7523 3."""
    key, path = RSAKey.generate_key(2048), tmp_path / "key.pem"
    path.write_bytes(key.as_pem(private=True))
    profile = profile_at("https://provider.example/token", private_key_file=path, key_id="key-7").authorization_code
    assert profile is not None
    tokens = [jwt.decode(prove(profile).members["client_assertion"], key, algorithms=["RS256"]) for _ in range(2)]
    first, second = (token.claims for token in tokens)
    assert tokens[0].header["kid"] == "key-7"
    assert (first["iss"], first["sub"], first["aud"]) == ("me", "me", "https://provider.example/token")
    assert first["exp"] - first["iat"] == 300
    assert first["jti"] != second["jti"]


async def test_a_secret_that_is_replaced_counts_from_the_next_request_on(secret_file: Path) -> None:
    """As kubelet replaces it: a link that suddenly points elsewhere."""
    link = secret_file.with_name("link")
    link.symlink_to(secret_file)
    new = secret_file.with_name("new-secret")
    new.write_text("the-second-secret")
    settings: dict[str, Any] = {
        "client_secret_file": link,
        "client_authentication": "client_secret_post",
        "token_body": "json",
    }
    async with upstream_server() as upstream, asked(profile_at(upstream.url, **settings)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t"}'))
        await endpoint.refresh("r")
        os.replace(_linked(new), link)
        await endpoint.refresh("r")
        assert b"the-second-secret" not in upstream.requests[0].body
        assert b"the-second-secret" in upstream.requests[1].body


def _linked(to: Path) -> Path:
    link = to.with_name("link-that-replaces")
    link.symlink_to(to)
    return link


async def test_a_client_that_proves_itself_by_header_does_not_name_itself_twice(secret_file: Path) -> None:
    async with upstream_server() as upstream:
        upstream.answer_all(json_answer(b'{"access_token": "t"}'))
        async with asked(profile_at(upstream.url, client_secret_file=secret_file)) as endpoint:
            await endpoint.refresh("r")
        (request,) = upstream.requests
        assert b"client_id" not in request.body and b"client_secret" not in request.body
        assert len(request.values(b"authorization")) == 1


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"x" * 70_000])
async def test_a_secret_that_cannot_be_read_is_said_by_its_file_and_nothing_is_sent(
    content: bytes | None, secret_file: Path
) -> None:
    replace_with(secret_file, content)
    async with upstream_server() as upstream:
        async with asked(profile_at(upstream.url, client_secret_file=secret_file)) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="client-secret") as caught:
                await endpoint.refresh("r")
        assert not caught.value.may_be_done
        assert upstream.connections == []


async def test_a_key_that_is_none_is_said_without_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWluLWEtZmlsZQ==\n-----END PRIVATE KEY-----\n")
    async with asked(profile_at("https://provider.invalid/", private_key_file=path)) as endpoint:
        with pytest.raises(TokenEndpointUnavailable, match="holds no private key") as caught:
            await endpoint.refresh("r")
    assert "c2VjcmV0" not in str(caught.value) + repr(caught.value.__cause__)


def test_a_proof_does_not_print_itself(secret_file: Path) -> None:
    for method in ("client_secret_basic", "client_secret_post"):
        profile = profile_at("https://x/", client_secret_file=secret_file, client_authentication=method)
        assert profile.authorization_code is not None
        proof = prove(profile.authorization_code)
        assert "secret: with" not in repr(proof) + repr(profile)
        assert "Basic" not in repr(proof)
