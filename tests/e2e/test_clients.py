"""Clients that prove who they are with tokens of a real API server, through the official SDKs; and everything that proves nothing."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from tests.e2e.gateway import Gateway, running_gateway
from tests.e2e.questions import TEXT, asking, served
from tests.e2e.typescript_sdk import running_typescript_sdk
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.service_account_tokens import AUDIENCE, claims, rsa_key, token, unsigned


@pytest.fixture(scope="module")
def proxy_token(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the proxy's own ServiceAccount, which has no Role at all."""
    file = tmp_path_factory.mktemp("proxy") / "token"
    file.write_text(control_plane.service_account_token(control_plane.namespace(), "default"))
    return file


@pytest.fixture(scope="module")
def gateway(
    control_plane: ControlPlane, proxy_token: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    server = {"server": control_plane.server, "ca_file": str(control_plane.ca_file), "token_file": str(proxy_token)}
    rules = [
        {"match": ["*/restricted"], "models": ["no-such-model"]},
        {"match": ["*/default", "*/other"]},
        {"match": ["*"], "deny": True},
    ]
    clients = {"kubernetes": server, "rules": rules}
    with running_gateway("pool", tmp_path_factory.mktemp("gateway"), clock=time.time, clients=clients) as gateway:
        wait_until(lambda: httpx2.get(f"{gateway.url}/ready").status_code == 200, "the proxy to know the keys")
        yield gateway


@pytest.fixture
def file(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Path:
    """As a projected volume has it: a token of the namespace's ServiceAccount `default`, for the proxy."""
    file = tmp_path / "token"
    file.write_text(control_plane.service_account_token(namespace, "default", audience=AUDIENCE, seconds=600))
    return file


def ask(gateway: Gateway, credential: str, **more: Any) -> Any:
    with anthropic.Anthropic(
        base_url=gateway.url, auth_token=credential, api_key=None, max_retries=0, timeout=20
    ) as client:
        return client.messages.create(**asking(TEXT, **more))


@pytest.mark.parametrize("header", ["auth_token", "api_key"])
def test_the_python_sdk_gets_in_with_a_token_from_a_file(gateway: Gateway, file: Path, header: str) -> None:
    gateway.simulator.clear_requests()
    credential: dict[str, Any] = {header: file.read_text()}
    with anthropic.Anthropic(base_url=gateway.url, max_retries=0, timeout=20, **credential) as client:
        message = client.messages.create(**asking(TEXT))
        with client.messages.stream(**asking(TEXT)) as stream:
            assert stream.get_final_text() in served(TEXT)
    assert message.content[0].text in served(TEXT)
    sent = [value for request in gateway.simulator.requests("/v1/messages") for _, value in request.headers]
    assert sent and not [value for value in sent if file.read_text() in value]


def test_the_typescript_sdk_gets_in_with_a_token_from_a_file(gateway: Gateway, file: Path) -> None:
    with running_typescript_sdk() as sdk:
        seen = sdk.play("stream", replace(gateway, key=file.read_text()), **asking(TEXT))
    assert "".join(seen["seen"]["texts"]) in served(TEXT)


def refusal(gateway: Gateway, credential: str) -> tuple[int, str]:
    gateway.simulator.clear_requests()
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(gateway, credential)
    assert gateway.simulator.requests("/v1/messages") == []
    body: Any = caught.value.body
    assert credential not in json.dumps(body)
    return caught.value.status_code, body["error"]["message"]


def test_a_token_for_the_api_server_is_none_for_the_proxy(
    control_plane: ControlPlane, gateway: Gateway, namespace: str
) -> None:
    status, message = refusal(gateway, control_plane.service_account_token(namespace, "default"))
    assert (status, "not for the audience oauth-pool" in message) == (401, True)


def test_a_client_is_told_what_a_rule_does_not_give_it(
    control_plane: ControlPlane, gateway: Gateway, namespace: str
) -> None:
    for name in ("restricted", "stranger-to-all-rules"):
        control_plane.kubectl("create", "serviceaccount", name, "-n", namespace)
    restricted = control_plane.service_account_token(namespace, "restricted", audience=AUDIENCE)
    assert refusal(gateway, restricted)[0] == 403
    nobody = control_plane.service_account_token(namespace, "stranger-to-all-rules", audience=AUDIENCE)
    status, message = refusal(gateway, nobody)
    assert (status, "keeps this client out" in message) == (403, True)


def test_what_somebody_makes_up_with_the_api_server_s_own_key_id_is_refused(
    control_plane: ControlPlane, gateway: Gateway, namespace: str
) -> None:
    real = control_plane.service_account_token(namespace, "default", audience=AUDIENCE)
    keys = control_plane.api.get("/openid/v1/jwks").json()["keys"]
    payload = claims(iss=control_plane.server, sub=f"system:serviceaccount:{namespace}:default")
    forged = token(payload, rsa_key("forged"), kid=keys[0]["kid"]).decode()
    assert "signature" in refusal(gateway, forged)[1]
    none = unsigned(payload, alg="none", kid=keys[0]["kid"]).decode()
    assert "algorithm" in refusal(gateway, none)[1]
    head, body, signature = real.split(".")
    assert "signature" in refusal(gateway, f"{head}.{body}.{signature[:-8]}AAAAAAAA")[1]
    assert refusal(gateway, f"{head}.{body}.")[0] == 401


def test_who_proves_nothing_is_told_how_to_get_in(gateway: Gateway) -> None:
    status, message = refusal(gateway, "means-nothing")
    assert status == 401 and re.search("ServiceAccount of this cluster with the audience oauth-pool", message)
