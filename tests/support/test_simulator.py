"""The simulator keeps the provider's rules: over real sockets, with the provider's own client where there is one."""

import base64
import gzip
import hashlib
import json
import logging
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import anthropic
import httpx2
import pytest
from anthropic.lib.credentials import StaticToken, WorkloadIdentityCredentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.simulator.authorize import AuthorizationRejected
from tests.simulator.clock import Clock
from tests.simulator.control import Control
from tests.simulator.recorder import Outcome, Recorder
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import FederationRule, Settings
from tests.simulator.switches import NAMES, SwitchError

ALICE = "alice@example.com"
BOB = "bob@example.com"
MODEL = "claude-simulated-sonnet"
OAUTH_BETA = "oauth-2025-04-20"
FEDERATION_BETA = "oidc-federation-2026-04-01"
REDIRECT_URI = "https://callback.example.com/done"
ORGANIZATION = "5f1c7a52-0000-4000-8000-000000000001"
WORKLOAD = "system:serviceaccount:inference:runner"
RULE = FederationRule("fdrl_test", ORGANIZATION, "system:serviceaccount:inference:*", lifetime=1800)
AUDIENCE = "https://api.example.com"
NOW = 1_800_000_000.0


def settings(**changes: Any) -> Settings:
    return Settings(client_id="client-1", redirect_uris=(REDIRECT_URI,), scopes=("user:inference",), **changes)


@pytest.fixture
def provider() -> Iterator[SimulatorServer]:
    """A simulator whose time stands still until it is moved."""
    with SimulatorServer(settings(), clock=Clock(lambda: NOW)) as server:
        yield server


@pytest.fixture
def http(provider: SimulatorServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=provider.url, trust_env=False, timeout=30) as client:
        yield client


# --- logging in ------------------------------------------------------------------------------------------------


class Login:
    """One attempt of a client: its verifier and state, and the URL it would publish."""

    def __init__(self, base_url: str) -> None:
        self.verifier = secrets.token_urlsafe(64)
        self.state = secrets.token_urlsafe(32)
        self.base_url = base_url

    def url(self, **changes: str | None) -> str:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": "client-1",
            "redirect_uri": REDIRECT_URI,
            "scope": "user:inference",
            "state": self.state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **changes,
        }
        kept = {name: value for name, value in parameters.items() if value is not None}
        return f"{self.base_url}/oauth/authorize?{urlencode(kept)}"

    def exchange_body(self, code: str, /, **changes: str | None) -> dict[str, str]:
        body = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT_URI,
            "client_id": "client-1",
            "code_verifier": self.verifier,
            "state": self.state,
            **changes,
        }
        return {name: value for name, value in body.items() if value is not None}


def log_in(provider: SimulatorServer, http: httpx2.Client, subject: str = ALICE) -> dict[str, Any]:
    """A whole login; the token endpoint's answer."""
    login = Login(provider.url)
    code = provider.simulator.approve(login.url(), subject).partition("#")[0]
    response = http.post("/v1/oauth/token", json=login.exchange_body(code))
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def refresh(http: httpx2.Client, refresh_token: str, **changes: str) -> httpx2.Response:
    body = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "client-1", **changes}
    return http.post("/v1/oauth/token", json=body)


def is_dead(response: httpx2.Response) -> bool:
    """The dead grant: a 400 `invalid_grant`, not a 401."""
    return response.status_code == 400 and response.json()["error"] == "invalid_grant"


def api_headers(access_token: str, **changes: str | None) -> dict[str, str]:
    headers = {
        "authorization": f"Bearer {access_token}",
        "anthropic-beta": OAUTH_BETA,
        "anthropic-version": "2023-06-01",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return {name: value for name, value in headers.items() if value is not None}


def question(text: str = "hello", **changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **changes}


def ask(http: httpx2.Client, access_token: str, **changes: Any) -> httpx2.Response:
    return http.post("/v1/messages", headers=api_headers(access_token), json=question(**changes))


def error_of(response: httpx2.Response) -> tuple[int, str]:
    """Status and type, from an envelope that must be whole."""
    document = response.json()
    assert document["type"] == "error"
    assert document["request_id"] == response.headers["request-id"]
    return response.status_code, document["error"]["type"]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until another thread has done something; fails when it does not."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.005)


def test_a_person_logs_in_on_the_page_and_copies_code_and_state(provider: SimulatorServer, http: httpx2.Client) -> None:
    login = Login(provider.url)
    page = http.get(login.url())
    assert page.status_code == 200
    assert ALICE in page.text
    action = re.search(r'action="([^"]+)"', page.text)
    assert action is not None

    shown = http.post(action[1].replace("&amp;", "&"), data={"subject": ALICE, "decision": "approve"})
    pasted = re.search(r'<code id="code">([^<]+)</code>', shown.text)
    assert pasted is not None
    code, _, state = pasted[1].partition("#")
    assert state == login.state

    answer = http.post("/v1/oauth/token", json=login.exchange_body(code)).json()
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 28_800
    assert answer["scope"] == "user:inference"
    assert answer["account"]["email_address"] == ALICE
    assert set(answer["organization"]) == {"uuid", "name"}
    assert ask(http, answer["access_token"]).json()["content"][0]["text"] == f"Served by {ALICE}: hello"


def test_the_page_escapes_what_it_repeats(provider: SimulatorServer, http: httpx2.Client) -> None:
    login = Login(provider.url)
    login.state = "\"><script>alert('x')</script>"
    shown = http.post(login.url(), data={"subject": ALICE, "decision": "approve"})
    assert shown.status_code == 200
    assert "<script" not in shown.text


def test_a_login_is_approved_without_a_browser(provider: SimulatorServer, http: httpx2.Client) -> None:
    login = Login(provider.url)
    body = {"authorization_url": login.url(), "subject": "zoe@example.com"}
    approval = http.post("/_simulator/approve", json=body).json()
    assert approval["pasted"] == f"{approval['code']}#{login.state}"
    redirected = parse_qs(urlsplit(approval["redirect_url"]).query)
    assert redirected == {"code": [approval["code"]], "state": [login.state]}
    assert approval["redirect_url"].startswith(REDIRECT_URI)
    assert http.post("/v1/oauth/token", json=login.exchange_body(approval["code"])).status_code == 200


def test_a_login_can_be_denied(provider: SimulatorServer, http: httpx2.Client) -> None:
    login = Login(provider.url)
    redirected = parse_qs(urlsplit(provider.simulator.deny(login.url())).query)
    assert redirected == {"error": ["access_denied"], "state": [login.state]}
    assert "access_denied" in http.post(login.url(), data={"decision": "deny"}).text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"code_challenge": None}, "code_challenge", id="without-pkce"),
        pytest.param({"code_challenge_method": None}, "code_challenge_method", id="without-method"),
        pytest.param({"code_challenge_method": "plain"}, "code_challenge_method", id="plain-challenge"),
        pytest.param({"code_challenge": "too-short"}, "code_challenge", id="challenge-no-digest"),
        pytest.param({"client_id": "somebody-else"}, "client_id", id="unknown-client"),
        pytest.param({"redirect_uri": f"{REDIRECT_URI}/more"}, "redirect_uri", id="redirect-uri-longer"),
        pytest.param({"response_type": "token"}, "response_type", id="implicit-grant"),
        pytest.param({"state": None}, "state", id="without-state"),
        pytest.param({"scope": "user:inference org:admin"}, "scope", id="scope-not-offered"),
    ],
)
def test_a_bad_login_request_gets_a_page_that_names_the_parameter(
    provider: SimulatorServer, http: httpx2.Client, changes: dict[str, str | None], named: str
) -> None:
    login = Login(provider.url)
    page = http.get(login.url(**changes))
    assert page.status_code == 400
    assert f"<p>{named}:" in page.text
    with pytest.raises(AuthorizationRejected, match=named):
        provider.simulator.approve(login.url(**changes), ALICE)


def test_a_parameter_given_twice_is_refused(provider: SimulatorServer, http: httpx2.Client) -> None:
    assert http.get(Login(provider.url).url() + "&state=other").status_code == 400


def test_code_true_may_be_demanded() -> None:
    with SimulatorServer(settings(code_parameter_required=True)) as provider:
        login = Login(provider.url)
        with pytest.raises(AuthorizationRejected, match="code"):
            provider.simulator.approve(login.url(), ALICE)
        assert provider.simulator.approve(login.url(code="true"), ALICE).endswith(f"#{login.state}")


# --- codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"code_verifier": "v" * 64}, "invalid_grant", id="wrong-verifier"),
        pytest.param({"code_verifier": None}, "invalid_request", id="no-verifier"),
        pytest.param({"code_verifier": "v" * 171}, "invalid_request", id="verifier-too-long"),
        pytest.param({"code_verifier": "v" * 42}, "invalid_request", id="verifier-too-short"),
        pytest.param({"redirect_uri": "https://elsewhere.example.com"}, "invalid_grant", id="wrong-redirect-uri"),
        pytest.param({"client_id": "somebody-else"}, "invalid_client", id="wrong-client"),
        pytest.param({"state": "of-another-login"}, "invalid_grant", id="wrong-state"),
        pytest.param({"code": "made-up"}, "invalid_grant", id="unknown-code"),
        pytest.param({"grant_type": "password"}, "unsupported_grant_type", id="unknown-grant"),
    ],
)
def test_a_code_is_not_exchanged_when_anything_differs(
    provider: SimulatorServer, http: httpx2.Client, changes: dict[str, str | None], error: str
) -> None:
    login = Login(provider.url)
    code = provider.simulator.approve(login.url(), ALICE).partition("#")[0]
    response = http.post("/v1/oauth/token", json=login.exchange_body(code, **changes))
    assert response.json()["error"] == error
    assert response.status_code == (401 if error == "invalid_client" else 400)
    assert response.headers["cache-control"] == "no-store"
    assert not provider.simulator.secrets()["access_token"]


def test_a_code_is_good_once_and_its_replay_kills_the_tokens(provider: SimulatorServer, http: httpx2.Client) -> None:
    login = Login(provider.url)
    code = provider.simulator.approve(login.url(), ALICE).partition("#")[0]
    answer = http.post("/v1/oauth/token", json=login.exchange_body(code)).json()
    assert is_dead(http.post("/v1/oauth/token", json=login.exchange_body(code)))
    assert error_of(ask(http, answer["access_token"])) == (403, "permission_error")
    assert is_dead(refresh(http, answer["refresh_token"]))


def test_a_code_expires(provider: SimulatorServer, http: httpx2.Client) -> None:
    login = Login(provider.url)
    code = provider.simulator.approve(login.url(), ALICE).partition("#")[0]
    provider.simulator.clock.advance(601)
    assert is_dead(http.post("/v1/oauth/token", json=login.exchange_body(code)))


def test_the_exchange_may_leave_the_state_out_unless_it_is_required(
    provider: SimulatorServer, http: httpx2.Client
) -> None:
    def exchange() -> httpx2.Response:
        login = Login(provider.url)
        code = provider.simulator.approve(login.url(), ALICE).partition("#")[0]
        return http.post("/v1/oauth/token", json=login.exchange_body(code, state=None))

    assert exchange().status_code == 200
    provider.simulator.switches.set(state_required=True)
    assert exchange().json()["error"] == "invalid_request"


# --- logging in with a device code -------------------------------------------------------------------------------


def open_device_login(http: httpx2.Client, **changes: str) -> dict[str, Any]:
    response = http.post("/v1/oauth/device_authorization", json={"client_id": "client-1", **changes})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def poll(http: httpx2.Client, device_code: str, **changes: str) -> httpx2.Response:
    grant_type = "urn:ietf:params:oauth:grant-type:device_code"
    body = {"grant_type": grant_type, "device_code": device_code, "client_id": "client-1", **changes}
    return http.post("/v1/oauth/token", json=body)


def test_a_device_waits_until_a_person_approves_on_the_page(provider: SimulatorServer, http: httpx2.Client) -> None:
    opened = open_device_login(http, scope="user:inference")
    assert (opened["interval"], opened["expires_in"]) == (5, 1800)
    assert opened["verification_uri_complete"] == f"{opened['verification_uri']}?user_code={opened['user_code']}"
    assert poll(http, opened["device_code"]).json()["error"] == "authorization_pending"
    assert opened["user_code"] in http.get(opened["verification_uri_complete"]).text
    form = {"user_code": opened["user_code"].lower().replace("-", ""), "subject": ALICE, "decision": "approve"}
    assert "Approved" in http.post(opened["verification_uri"], data=form).text
    provider.simulator.clock.advance(5)
    answer = poll(http, opened["device_code"]).json()
    assert answer["account"]["email_address"] == ALICE
    assert refresh(http, answer["refresh_token"]).status_code == 200
    provider.simulator.clock.advance(5)
    assert is_dead(poll(http, opened["device_code"]))


def test_a_device_that_asks_too_often_has_to_wait_longer(provider: SimulatorServer, http: httpx2.Client) -> None:
    opened = open_device_login(http)
    provider.simulator.approve_device(opened["user_code"], ALICE)
    provider.simulator.switches.set(device_slow_downs=1)
    assert poll(http, opened["device_code"]).json()["error"] == "slow_down"
    provider.simulator.clock.advance(9)
    assert poll(http, opened["device_code"]).json()["error"] == "slow_down"
    provider.simulator.clock.advance(14)
    assert poll(http, opened["device_code"]).json()["error"] == "slow_down"
    provider.simulator.clock.advance(20)
    assert poll(http, opened["device_code"]).status_code == 200


def test_a_device_login_is_denied_or_expires(provider: SimulatorServer, http: httpx2.Client) -> None:
    denied, late = open_device_login(http), open_device_login(http)
    form = {"user_code": denied["user_code"], "decision": "deny"}
    assert "Denied" in http.post(denied["verification_uri"], data=form).text
    assert poll(http, denied["device_code"]).json()["error"] == "access_denied"
    provider.simulator.clock.advance(1800)
    assert poll(http, late["device_code"]).json()["error"] == "expired_token"
    with pytest.raises(ValueError, match="no login waits"):
        provider.simulator.approve_device(late["user_code"], ALICE)


@pytest.mark.parametrize(
    ("changes", "error"), [({"client_id": "other"}, "invalid_client"), ({"scope": "everything"}, "invalid_scope")]
)
def test_a_device_login_is_for_the_registered_client(http: httpx2.Client, changes: dict[str, str], error: str) -> None:
    body = {"client_id": "client-1", **changes}
    assert http.post("/v1/oauth/device_authorization", json=body).json()["error"] == error


def test_an_unknown_user_code_gets_a_page_that_says_so(http: httpx2.Client) -> None:
    form = {"user_code": "<b>", "subject": ALICE, "decision": "approve"}
    answer = http.post("/oauth/device", data=form)
    assert answer.status_code == 400
    assert "no login waits" in answer.text and "<b>" not in answer.text


def test_form_bodies_are_read_only_where_they_are_configured(provider: SimulatorServer, http: httpx2.Client) -> None:
    body = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "client-1"}
    assert http.post("/v1/oauth/token", data=body).json()["error"] == "invalid_request"
    with SimulatorServer(settings(token_bodies=("form",))) as other:
        login = Login(other.url)
        code = other.simulator.approve(login.url(), ALICE).partition("#")[0]
        assert httpx2.post(f"{other.url}/v1/oauth/token", data=login.exchange_body(code)).status_code == 200
        assert httpx2.post(f"{other.url}/v1/oauth/token", json=body).json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(b'{"grant_type": 1}', id="number"),
        pytest.param(b'{"grant_type": "made-up", "grant_type": "made-up"}', id="twice"),
        pytest.param(b"{}", id="nothing-in-it"),
    ],
)
def test_a_body_that_is_no_token_request_is_an_invalid_request(http: httpx2.Client, content: bytes) -> None:
    response = http.post("/v1/oauth/token", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


# --- refreshing ------------------------------------------------------------------------------------------------


def test_refresh_tokens_rotate_and_a_replayed_one_is_refused(provider: SimulatorServer, http: httpx2.Client) -> None:
    first = log_in(provider, http)
    second = refresh(http, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert is_dead(refresh(http, first["refresh_token"]))
    # the family lives on
    assert ask(http, first["access_token"]).status_code == 200
    assert ask(http, second["access_token"]).status_code == 200
    assert refresh(http, second["refresh_token"]).status_code == 200


def test_a_replay_may_revoke_the_family(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(replay_revokes_family=True)
    first = log_in(provider, http)
    other = log_in(provider, http)
    second = refresh(http, first["refresh_token"]).json()
    assert is_dead(refresh(http, first["refresh_token"]))
    assert is_dead(refresh(http, second["refresh_token"]))
    assert error_of(ask(http, second["access_token"])) == (403, "permission_error")
    # another login of the same account is another family
    assert refresh(http, other["refresh_token"]).status_code == 200


def test_rotation_can_be_off(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(rotation=False)
    first = log_in(provider, http)
    for _ in range(2):
        assert refresh(http, first["refresh_token"]).json()["refresh_token"] == first["refresh_token"]


def test_the_refresh_token_can_be_left_out(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(omit_refresh_token=True)
    first = log_in(provider, http)
    for _ in range(2):
        answer = refresh(http, first["refresh_token"])
        assert answer.status_code == 200
        assert "refresh_token" not in answer.json()


def test_a_grace_window_allows_a_replay_for_a_while(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(rotation_grace=30)
    first = log_in(provider, http)
    assert refresh(http, first["refresh_token"]).status_code == 200
    provider.simulator.clock.advance(29)
    assert refresh(http, first["refresh_token"]).status_code == 200
    provider.simulator.clock.advance(1)
    assert is_dead(refresh(http, first["refresh_token"]))


def test_a_refresh_may_kill_the_previous_access_token(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(refresh_kills_access_tokens=True)
    first = log_in(provider, http)
    second = refresh(http, first["refresh_token"]).json()
    assert error_of(ask(http, first["access_token"])) == (401, "authentication_error")
    assert ask(http, second["access_token"]).status_code == 200


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"scope": "user:inference org:admin"}, "invalid_scope", id="wider-scope"),
        pytest.param({"client_id": "somebody-else"}, "invalid_client", id="wrong-client"),
        pytest.param({"refresh_token": "made-up"}, "invalid_grant", id="unknown"),
    ],
)
def test_a_refresh_that_is_refused_spends_nothing(
    provider: SimulatorServer, http: httpx2.Client, changes: dict[str, str], error: str
) -> None:
    refresh_token = log_in(provider, http)["refresh_token"]
    assert refresh(http, **{"refresh_token": refresh_token, **changes}).json()["error"] == error
    assert refresh(http, refresh_token, scope="user:inference").status_code == 200


def test_revoking_a_refresh_token_ends_the_grant(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer = log_in(provider, http)
    form = {"token": answer["refresh_token"], "token_type_hint": "refresh_token", "client_id": "client-1"}
    assert http.post("/v1/oauth/revoke", data=form).status_code == 200
    assert is_dead(refresh(http, answer["refresh_token"]))
    assert error_of(ask(http, answer["access_token"])) == (403, "permission_error")
    # RFC 7009 2.2: once more, or with nonsense, is fine
    assert http.post("/v1/oauth/revoke", json=form).status_code == 200
    assert http.post("/v1/oauth/revoke", json={"token": "made-up"}).status_code == 200
    assert http.post("/v1/oauth/revoke", json={}).status_code == 400
    assert http.post("/v1/oauth/revoke", json={**form, "client_id": "somebody-else"}).status_code == 401


def test_revoking_an_access_token_ends_only_that_one(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer = log_in(provider, http)
    assert http.post("/v1/oauth/revoke", json={"token": answer["access_token"]}).status_code == 200
    assert error_of(ask(http, answer["access_token"])) == (403, "permission_error")
    assert refresh(http, answer["refresh_token"]).status_code == 200


# --- workload identity -----------------------------------------------------------------------------------------


class Issuer:
    """A tiny API server: the discovery document and the keys, and tokens signed with them."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetched.append(self.path)
                body = json.dumps(issuer.documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in issuer.documents else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.fetched: list[str] = []
        self.documents: dict[str, Any] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.rotate()

    def rotate(self) -> None:
        """A new key instead of the old one."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(8), "use": "sig"})
        self.documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/openid/v1/jwks"},
            "/openid/v1/jwks": {"keys": [self.key.as_dict(private=False)]},
        }

    def token(self, *, key: RSAKey | None = None, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": [AUDIENCE],
            "sub": WORKLOAD,
            "exp": now + 600,
            "nbf": now - 1,
            "iat": now - 1,
            **changes,
        }
        key = key or self.key
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture
def federation(issuer: Issuer) -> Iterator[SimulatorServer]:
    """A provider that accepts the issuer's ServiceAccount tokens; its time is the real one, as theirs is."""
    with SimulatorServer(settings(issuer=issuer.url, audience=AUDIENCE, federation_rules=(RULE,))) as server:
        yield server


def present(
    federation: SimulatorServer, assertion: str, *, beta: str = f"{OAUTH_BETA},{FEDERATION_BETA}", **changes: str
) -> httpx2.Response:
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": assertion,
        "federation_rule_id": RULE.id,
        "organization_id": ORGANIZATION,
        **changes,
    }
    return httpx2.post(f"{federation.url}/v1/oauth/token", json=body, headers={"anthropic-beta": beta})


def test_a_service_account_token_is_exchanged(federation: SimulatorServer, issuer: Issuer) -> None:
    answer = present(federation, issuer.token(), workspace_id="default").json()
    assert answer["expires_in"] == 1800
    assert "refresh_token" not in answer
    assert answer["account"]["email_address"] == WORKLOAD
    assert answer["organization"]["uuid"] == ORGANIZATION
    with httpx2.Client(base_url=federation.url) as http:
        assert ask(http, answer["access_token"]).json()["content"][0]["text"] == f"Served by {WORKLOAD}: hello"


def test_the_official_client_logs_in_with_a_service_account_token(federation: SimulatorServer, issuer: Issuer) -> None:
    credentials = WorkloadIdentityCredentials(
        identity_token_provider=issuer.token, federation_rule_id=RULE.id, organization_id=ORGANIZATION
    )
    with credentials, anthropic.Anthropic(base_url=federation.url, credentials=credentials, max_retries=0) as client:
        message = client.messages.create(
            model=MODEL, max_tokens=10, messages=[{"role": "user", "content": "from a pod"}]
        )
    assert message.content[0].type == "text"
    assert message.content[0].text == f"Served by {WORKLOAD}: from a pod"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        pytest.param({"aud": ["https://another.example.com"]}, "aud", id="wrong-audience"),
        pytest.param({"aud": None}, "aud", id="no-audience"),
        pytest.param({"sub": "system:serviceaccount:kube-system:default"}, "sub", id="wrong-subject"),
        pytest.param({"iss": "https://another.example.com"}, "iss", id="wrong-issuer"),
        pytest.param({"exp": int(time.time()) - 10}, "expired", id="expired"),
        pytest.param({"exp": None}, "expired", id="without-expiry"),
        pytest.param({"nbf": int(time.time()) + 3600}, "not valid yet", id="not-yet-valid"),
    ],
)
def test_an_assertion_with_wrong_claims_is_refused(
    federation: SimulatorServer, issuer: Issuer, claims: dict[str, Any], said: str
) -> None:
    response = present(federation, issuer.token(**claims))
    assert is_dead(response)
    assert said in response.json()["error_description"]
    assert not federation.simulator.secrets()["access_token"]


def test_an_assertion_with_a_wrong_signature_is_refused(federation: SimulatorServer, issuer: Issuer) -> None:
    impostor = RSAKey.generate_key(2048, {"kid": issuer.key.kid or ""})
    assert is_dead(present(federation, issuer.token(key=impostor)))
    header, _, signature = issuer.token().split(".")
    _, payload, _ = issuer.token(sub="system:serviceaccount:inference:other").split(".")
    assert is_dead(present(federation, f"{header}.{payload}.{signature}"))
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    assert is_dead(present(federation, f"{unsigned}.{payload}."))
    assert is_dead(present(federation, "no token at all"))
    # a file read with its line end
    assert is_dead(present(federation, f"{issuer.token()}\n"))


def test_an_expired_assertion_follows_the_simulators_clock(federation: SimulatorServer, issuer: Issuer) -> None:
    assertion = issuer.token()
    federation.simulator.clock.advance(601)
    assert is_dead(present(federation, assertion))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"federation_rule_id": "fdrl_unknown"}, "invalid_grant", id="unknown-rule"),
        pytest.param({"organization_id": ORGANIZATION[:-1] + "2"}, "invalid_grant", id="wrong-organization"),
        pytest.param({"service_account_id": "svac_other"}, "invalid_grant", id="wrong-service-account"),
        pytest.param({"workspace_id": "elsewhere"}, "invalid_request", id="workspace-malformed"),
        pytest.param({"workspace_id": ""}, "invalid_request", id="workspace-empty"),
        pytest.param({"beta": OAUTH_BETA}, "invalid_request", id="without-federation-beta"),
        pytest.param({"beta": FEDERATION_BETA}, "invalid_request", id="without-oauth-beta"),
    ],
)
def test_an_exchange_needs_its_rule_and_both_beta_values(
    federation: SimulatorServer, issuer: Issuer, changes: dict[str, str], error: str
) -> None:
    response = present(federation, issuer.token(), **changes)
    assert (response.status_code, response.json()["error"]) == (400, error)


def test_a_rejected_assertion_may_be_a_401(federation: SimulatorServer, issuer: Issuer) -> None:
    federation.simulator.switches.set(federation_rejection_status=401)
    assert present(federation, issuer.token(sub="somebody")).status_code == 401


def test_keys_are_fetched_once_and_again_for_an_unknown_one(federation: SimulatorServer, issuer: Issuer) -> None:
    for _ in range(2):
        assert present(federation, issuer.token()).status_code == 200
    assert issuer.fetched.count("/openid/v1/jwks") == 1
    issuer.rotate()
    assert present(federation, issuer.token()).status_code == 200
    assert issuer.fetched.count("/openid/v1/jwks") == 2


def test_an_issuer_that_does_not_answer_is_not_the_assertions_fault(
    federation: SimulatorServer, issuer: Issuer
) -> None:
    issuer.documents.clear()
    response = present(federation, issuer.token())
    assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")


def test_keys_may_come_from_a_file(issuer: Issuer, tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(issuer.documents["/openid/v1/jwks"]))
    configured = settings(issuer=issuer.url, jwks_file=keys, audience=AUDIENCE, federation_rules=(RULE,))
    with SimulatorServer(configured) as provider:
        assert present(provider, issuer.token()).status_code == 200
    assert not issuer.fetched


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("fdrl_x", id="no-pairs"),
        pytest.param(f"id=fdrl_x,organization={ORGANIZATION}", id="no-subject"),
        pytest.param("id=fdrl_x,organization=acme,subject=*", id="organization-no-uuid"),
        pytest.param(f"id=rule,organization={ORGANIZATION},subject=*", id="bad-id"),
        pytest.param(f"id=fdrl_x,organization={ORGANIZATION},subject=*,lifetime=59", id="too-short"),
        pytest.param(f"id=fdrl_x,organization={ORGANIZATION},subject=*,lifetime=86401", id="too-long"),
        pytest.param(f"id=fdrl_x,organization={ORGANIZATION},subject=*,color=red", id="unknown-key"),
    ],
)
def test_a_federation_rule_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        FederationRule.parse(text)


# --- the API ---------------------------------------------------------------------------------------------------


def test_the_official_client_gets_messages_streams_counts_and_models(provider: SimulatorServer) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(chunk_bytes=7)
    client = anthropic.Anthropic(
        base_url=provider.url, auth_token=token, default_headers={"anthropic-beta": OAUTH_BETA}, max_retries=0
    )
    with client:
        message = client.messages.create(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "¿qué tal?"}]
        )
        assert message.content[0].type == "text"
        assert message.content[0].text == f"Served by {ALICE}: ¿qué tal?"
        assert message.stop_reason == "end_turn"

        blocks: list[anthropic.types.TextBlockParam] = [
            {"type": "text", "text": "¿qué"},
            {"type": "text", "text": " tal?"},
        ]
        with client.messages.stream(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": blocks}]
        ) as stream:
            assert "".join(stream.text_stream) == message.content[0].text
            streamed = stream.get_final_message()
        assert streamed.content[0].type == "text"
        assert streamed.content[0].text == message.content[0].text
        assert streamed.usage.output_tokens == message.usage.output_tokens
        assert streamed.stop_reason == "end_turn"

        counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "¿qué tal?"}])
        assert counted.input_tokens == message.usage.input_tokens
        models = [model.id for model in client.models.list(limit=1)]
        assert MODEL in models
        assert len(models) == len(set(models)) > 1
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("claude-none")
    record = provider.simulator.requests(path="/v1/messages")[0]
    assert record.header("x-stainless-lang") == "python"


async def test_the_official_async_client_adds_the_beta_value_itself(provider: SimulatorServer) -> None:
    token = provider.simulator.issue_access_token(BOB)
    async with (
        anthropic.AsyncAnthropic(base_url=provider.url, credentials=StaticToken(token), max_retries=0) as client,
        client.messages.stream(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream,
    ):
        assert await stream.get_final_text() == f"Served by {BOB}: hi"


def test_models_are_paged_in_both_directions(provider: SimulatorServer, http: httpx2.Client) -> None:
    headers = api_headers(provider.simulator.issue_access_token(ALICE))
    everything = http.get("/v1/models?limit=1000", headers=headers).json()
    ids = [model["id"] for model in everything["data"]]
    assert everything["has_more"] is False
    assert (everything["first_id"], everything["last_id"]) == (ids[0], ids[-1])
    after = http.get(f"/v1/models?limit=1&after_id={ids[0]}", headers=headers).json()
    assert ([model["id"] for model in after["data"]], after["has_more"]) == ([ids[1]], True)
    before = http.get(f"/v1/models?limit=1&before_id={ids[1]}", headers=headers).json()
    assert ([model["id"] for model in before["data"]], before["has_more"]) == ([ids[0]], False)
    assert error_of(http.get("/v1/models?limit=0", headers=headers)) == (400, "invalid_request_error")


def test_the_events_of_a_stream_are_the_apis(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    response = ask(http, token, stream=True, text="one two")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [_event(block) for block in response.text.split("\n\n")[:-1]]
    kinds = [event["type"] for event in events]
    deltas = kinds.count("content_block_delta")
    assert deltas == 5
    assert kinds == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] > 0
    assert events[-2]["usage"]["output_tokens"] > events[0]["message"]["usage"]["output_tokens"]
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


WEATHER: anthropic.types.ToolParam = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}},
}
CLOCK: anthropic.types.ToolParam = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    ("choice", "calls_tools", "called"),
    [
        pytest.param(None, False, None, id="free-and-not-minded-to"),
        pytest.param({"type": "auto"}, True, "weather", id="free-and-minded-to"),
        pytest.param({"type": "any"}, False, "weather", id="any"),
        pytest.param({"type": "tool", "name": "clock"}, False, "clock", id="a-certain-one"),
        pytest.param({"type": "none"}, True, None, id="none"),
    ],
)
def test_the_choice_of_tool_is_kept_to(
    provider: SimulatorServer,
    http: httpx2.Client,
    choice: dict[str, str] | None,
    calls_tools: bool,
    called: str | None,
) -> None:
    provider.simulator.switches.set(calls_tools=calls_tools)
    changes = {} if choice is None else {"tool_choice": choice}
    token = provider.simulator.issue_access_token(ALICE)
    message = ask(http, token, tools=[WEATHER, CLOCK], **changes).json()
    assert [block["name"] for block in message["content"] if block["type"] == "tool_use"] == ([called] * bool(called))
    assert message["stop_reason"] == ("tool_use" if called else "end_turn")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tools": ["weather"]}, id="no-objects"),
        pytest.param({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "clock"}}, id="unknown-name"),
        pytest.param({"tools": [WEATHER], "tool_choice": "any"}, id="choice-no-object"),
    ],
)
def test_tools_that_cannot_be_are_the_requests_fault(
    provider: SimulatorServer, http: httpx2.Client, changes: dict[str, Any]
) -> None:
    response = ask(http, provider.simulator.issue_access_token(ALICE), **changes)
    assert error_of(response) == (400, "invalid_request_error")
    assert response.json()["error"]["message"].startswith("tool")


@pytest.mark.parametrize("stream", [False, True])
def test_the_official_client_calls_a_tool_and_hands_back_its_result(provider: SimulatorServer, stream: bool) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(chunk_bytes=5)
    place = 'Århus, 50 °N, \\ and "quotes"'
    turns: list[anthropic.types.MessageParam] = [{"role": "user", "content": place}]
    with anthropic.Anthropic(base_url=provider.url, credentials=StaticToken(token), max_retries=0) as client:

        def turn() -> anthropic.types.Message:
            with client.messages.stream(
                model=MODEL, max_tokens=100, messages=turns, tools=[WEATHER], tool_choice={"type": "any"}
            ) as streamed:
                if stream:
                    return streamed.get_final_message()
            return client.messages.create(
                model=MODEL, max_tokens=100, messages=turns, tools=[WEATHER], tool_choice={"type": "any"}
            )

        called = turn()
        text, block = called.content
        assert (text.type, block.type, called.stop_reason) == ("text", "tool_use", "tool_use")
        assert block.type == "tool_use"
        assert (block.name, block.input) == ("weather", {"place": place})
        turns += [
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}]},
        ]
        answered = turn()
    (last,) = answered.content
    assert last.type == "text"
    assert (last.text, answered.stop_reason) == (f"Served by {ALICE}: sunny", "end_turn")


def test_the_input_of_a_tool_comes_in_pieces(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    response = ask(http, token, stream=True, tools=[WEATHER], tool_choice={"type": "any"})
    events = [_event(block) for block in response.text.split("\n\n")[:-1]]
    (start,) = [event for event in events if event["type"] == "content_block_start" and event["index"] == 1]
    assert (start["content_block"]["type"], start["content_block"]["input"]) == ("tool_use", {})
    pieces = [
        event["delta"]["partial_json"] for event in events if event.get("delta", {}).get("partial_json") is not None
    ]
    assert pieces[0] == ""
    assert len(pieces) > 2
    assert json.loads("".join(pieces)) == {"place": "hello"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_the_usage_of_a_stream_is_cumulative(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(cache_creation_tokens=101, cache_read_tokens=2000)
    events = [_event(block) for block in ask(http, token, stream=True).text.split("\n\n")[:-1]]
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    at_start = tuple(events[0]["message"]["usage"][name] for name in names)
    in_all = tuple(events[-2]["usage"][name] for name in names)
    whole = ask(http, token).json()["usage"]
    assert in_all == tuple(whole[name] for name in names)
    assert at_start[1:] == (50, 1000, 1)
    assert in_all[1:3] == (101, 2000)


def _event(block: str) -> dict[str, Any]:
    """One event, whose name must be its data's type."""
    name, data = block.split("\n")
    document: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {document['type']}"
    return document


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        pytest.param({"authorization": None}, 401, "x-api-key header is required", id="no-credentials"),
        pytest.param({"authorization": "Bearer made-up"}, 401, "Invalid bearer token", id="unknown-token"),
        pytest.param({"anthropic_beta": None}, 401, "not supported", id="no-beta"),
        pytest.param({"anthropic_beta": f"{OAUTH_BETA}b"}, 401, "not supported", id="similar-beta"),
        pytest.param({"anthropic_version": None}, 400, "anthropic-version", id="no-version"),
        pytest.param({"anthropic_version": "latest"}, 400, "anthropic-version", id="bad-version"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models"])
def test_the_api_demands_token_beta_and_version(
    provider: SimulatorServer,
    http: httpx2.Client,
    path: str,
    changes: dict[str, str | None],
    status: int,
    text: str,
) -> None:
    headers = api_headers(provider.simulator.issue_access_token(ALICE), **changes)
    response = (
        http.get(path, headers=headers) if path == "/v1/models" else http.post(path, headers=headers, json=question())
    )
    assert error_of(response) == (status, "authentication_error" if status == 401 else "invalid_request_error")
    assert text in response.json()["error"]["message"]


def test_beta_values_may_come_in_several_headers(provider: SimulatorServer, http: httpx2.Client) -> None:
    headers = list(api_headers(provider.simulator.issue_access_token(ALICE), anthropic_beta="one,two").items())
    headers.append(("anthropic-beta", f"three, {OAUTH_BETA}"))
    assert http.post("/v1/messages", headers=headers, json=question()).status_code == 200


def test_a_token_expires_when_its_time_is_over(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE, expires_in=60)
    provider.simulator.clock.advance(59)
    assert ask(http, token).status_code == 200
    provider.simulator.clock.advance(1)
    response = ask(http, token)
    assert error_of(response) == (401, "authentication_error")
    expected = "OAuth token has expired. Please obtain a new token or refresh your existing token."
    assert response.json()["error"]["message"] == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"model": None}, "model", id="no-model"),
        pytest.param({"max_tokens": None}, "max_tokens", id="no-max-tokens"),
        pytest.param({"messages": []}, "messages", id="no-messages"),
        pytest.param({"messages": ["hi"]}, "messages", id="no-objects"),
    ],
)
def test_a_wrong_body_is_the_requests_fault(
    provider: SimulatorServer, http: httpx2.Client, changes: dict[str, Any], named: str
) -> None:
    response = ask(http, provider.simulator.issue_access_token(ALICE), **changes)
    assert error_of(response) == (400, "invalid_request_error")
    assert response.json()["error"]["message"].startswith(named)


def test_unknown_paths_and_methods_get_the_envelope(http: httpx2.Client) -> None:
    assert error_of(http.get("/v1/nothing")) == (404, "not_found_error")
    assert error_of(http.get("/v1/messages/")) == (404, "not_found_error")
    assert error_of(http.get("/v1/messages")) == (405, "invalid_request_error")
    assert http.get("/_simulator/nothing").status_code == 404


# --- limits ----------------------------------------------------------------------------------------------------

UNIFIED = "anthropic-ratelimit-unified"


def unified(response: httpx2.Response) -> dict[str, str]:
    return {
        name.removeprefix(f"{UNIFIED}-"): value for name, value in response.headers.items() if name.startswith(UNIFIED)
    }


def test_a_healthy_account_says_how_its_limits_stand(provider: SimulatorServer, http: httpx2.Client) -> None:
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert unified(response) == {
        "status": "allowed",
        "reset": str(int(NOW) + 5 * 3600),
        "representative-claim": "five_hour",
        "5h-status": "allowed",
        "5h-reset": str(int(NOW) + 5 * 3600),
        "5h-utilization": "0.0",
        "7d-status": "allowed",
        "7d-reset": str(int(NOW) + 7 * 86_400),
        "7d-utilization": "0.0",
    }
    provider.simulator.limits.set_utilization(ALICE, "7d", 0.93)
    warned = unified(ask(http, provider.simulator.issue_access_token(ALICE)))
    assert warned["status"] == warned["7d-status"] == "allowed_warning"
    assert warned["representative-claim"] == "seven_day"


@pytest.mark.parametrize(("window", "claim"), [("5h", "five_hour"), ("7d", "seven_day")])
def test_an_exhausted_account_answers_429_until_its_reset(
    provider: SimulatorServer, http: httpx2.Client, window: str, claim: str
) -> None:
    token, other = (provider.simulator.issue_access_token(subject) for subject in (ALICE, BOB))
    provider.simulator.exhaust(ALICE, window, reset_in=100)
    for stream in (False, True):
        response = ask(http, token, stream=stream)
        assert error_of(response) == (429, "rate_limit_error")
        expected = "This request would exceed your account's rate limit. Please try again later."
        assert response.json()["error"]["message"] == expected
        assert response.headers["retry-after"] == "100"
        headers = unified(response)
        assert headers["status"] == headers[f"{window}-status"] == "rejected"
        assert headers["reset"] == headers[f"{window}-reset"] == str(int(NOW) + 100)
        assert headers["representative-claim"] == claim
        assert float(headers[f"{window}-utilization"]) >= 1
    assert ask(http, other).status_code == 200
    # not a message, so not a matter of its limits
    assert http.get("/v1/models", headers=api_headers(token)).status_code == 200

    provider.simulator.clock.advance(100)
    again = ask(http, token)
    assert (again.status_code, unified(again)[f"{window}-status"]) == (200, "allowed")


def test_with_two_windows_exhausted_the_later_reset_counts(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.exhaust(ALICE, "5h", reset_in=100)
    provider.simulator.exhaust(ALICE, "7d", reset_in=5000)
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert response.headers["retry-after"] == "5000"
    assert unified(response)["representative-claim"] == "seven_day"
    provider.simulator.recover(ALICE)
    assert ask(http, provider.simulator.issue_access_token(ALICE)).status_code == 200


def test_7d_oi_limits_a_model_and_not_the_account(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.exhaust(ALICE, "7d_oi", reset_in=100)
    token = provider.simulator.issue_access_token(ALICE)
    refused = ask(http, token, model="claude-simulated-opus")
    assert refused.status_code == 429
    assert unified(refused)["representative-claim"] == "seven_day_overage_included"
    served = ask(http, token)
    assert served.status_code == 200
    assert (unified(served)["status"], unified(served)["7d_oi-status"]) == ("allowed", "rejected")


def test_use_can_add_up_to_exhaustion(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(ALICE, utilization_per_request=0.5)
    token = provider.simulator.issue_access_token(ALICE)
    assert [ask(http, token).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("shape", "present", "absent"),
    [
        ("aggregate", {f"{UNIFIED}-status", "retry-after"}, {f"{UNIFIED}-5h-status"}),
        ("windows", {f"{UNIFIED}-5h-status", "retry-after"}, {f"{UNIFIED}-status"}),
        ("none", set[str](), {f"{UNIFIED}-status", f"{UNIFIED}-5h-status", "retry-after"}),
    ],
)
def test_limit_headers_can_be_incomplete(
    provider: SimulatorServer, http: httpx2.Client, shape: str, present: set[str], absent: set[str]
) -> None:
    provider.simulator.switches.set(limit_headers=shape)
    provider.simulator.exhaust(ALICE)
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert response.status_code == 429
    assert present <= set(response.headers)
    assert not absent & set(response.headers)


def test_a_rate_limit_names_no_window_and_an_rfc_3339_reset(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(ALICE, rate_limited=30)
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert error_of(response) == (429, "rate_limit_error")
    assert response.headers["retry-after"] == "30"
    assert not unified(response)
    reset = datetime.fromisoformat(response.headers["anthropic-ratelimit-requests-reset"])
    assert reset == datetime.fromtimestamp(NOW + 30, UTC)
    assert response.headers["anthropic-ratelimit-requests-remaining"] == "0"


def test_overage_and_fallback_headers_are_extras(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    plain = unified(ask(http, token))
    provider.simulator.switches.set(overage_status="rejected", fallback_percentage=0.5)
    response = ask(http, token)
    extras = {name: value for name, value in unified(response).items() if name not in plain}
    assert response.status_code == 200
    assert extras == {
        "fallback-percentage": "0.5",
        "overage-status": "rejected",
        "overage-reset": str(int(NOW) + 7 * 86_400),
        "overage-disabled-reason": "out_of_credits",
    }
    provider.simulator.switches.set(overage_status="allowed", limit_headers="none")
    provider.simulator.exhaust(ALICE)
    refused = ask(http, token)
    assert refused.status_code == 429
    assert set(unified(refused)) == {"fallback-percentage", "overage-status", "overage-reset", "overage-utilization"}


# --- switches --------------------------------------------------------------------------------------------------


def test_access_tokens_die_early(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(access_token_dies_after=10)
    answer = log_in(provider, http)
    assert answer["expires_in"] == 28_800
    assert ask(http, answer["access_token"]).status_code == 200
    provider.simulator.clock.advance(10)
    assert error_of(ask(http, answer["access_token"])) == (401, "authentication_error")


def test_access_tokens_die_on_command(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer, other = log_in(provider, http), log_in(provider, http, BOB)
    provider.simulator.expire_access_tokens(ALICE)
    assert error_of(ask(http, answer["access_token"])) == (401, "authentication_error")
    assert ask(http, other["access_token"]).status_code == 200
    assert ask(http, refresh(http, answer["refresh_token"]).json()["access_token"]).status_code == 200


def test_expires_in_can_be_set(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(expires_in=60)
    answer = log_in(provider, http)
    assert answer["expires_in"] == 60
    provider.simulator.clock.advance(60)
    assert ask(http, answer["access_token"]).status_code == 401


def test_the_token_endpoint_fails_a_number_of_times(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer, other = log_in(provider, http), log_in(provider, http, BOB)
    provider.simulator.switches.set(ALICE, token_failures=2, token_failure_status=429, token_failure_retry_after=17)
    for _ in range(2):
        response = refresh(http, answer["refresh_token"])
        assert (response.status_code, response.headers["retry-after"]) == (429, "17")
        assert refresh(http, other["refresh_token"]).status_code in (200, 400)
    # the failures came before anything was redeemed
    second = refresh(http, answer["refresh_token"])
    assert second.status_code == 200
    provider.simulator.switches.set(token_failures=1, token_failure_status=500)
    provider.simulator.switches.reset(ALICE)
    assert refresh(http, second.json()["refresh_token"]).status_code == 500
    assert refresh(http, second.json()["refresh_token"]).status_code == 200


@pytest.mark.parametrize(
    ("status", "word", "begins"),
    [(403, "", "<html>"), (200, "bad_refresh_token", '{"error":"bad_refresh_token"'), (408, None, '{"error":')],
)
def test_the_token_endpoint_fails_in_any_words(
    provider: SimulatorServer, http: httpx2.Client, status: int, word: str | None, begins: str
) -> None:
    answer = log_in(provider, http)
    provider.simulator.switches.set(token_failures=1, token_failure_status=status, token_failure_error=word)
    response = refresh(http, answer["refresh_token"])
    assert (response.status_code, response.text.startswith(begins)) == (status, True)
    assert refresh(http, answer["refresh_token"]).status_code == 200


def test_an_answer_with_tokens_can_be_odd(provider: SimulatorServer, http: httpx2.Client) -> None:
    odd = {"token_status": 201, "token_type": "mac", "granted_scope": "less", "id_token": True}
    provider.simulator.switches.set(login_without_refresh_token=True)
    assert "refresh_token" not in log_in(provider, http)
    provider.simulator.switches.set(login_without_refresh_token=False)
    answer = log_in(provider, http)
    provider.simulator.switches.set(**odd)
    response = refresh(http, answer["refresh_token"])
    changed = response.json()
    assert (response.status_code, changed["token_type"], changed["scope"]) == (201, "mac", "less")
    payload = changed["id_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (claims["email"], claims["aud"], "account" in changed) == (ALICE, "client-1", False)


def test_a_confidential_client_has_to_prove_itself() -> None:
    secret = "client secret+"
    with SimulatorServer(settings(client_secret=secret)) as server, httpx2.Client(base_url=server.url) as http:
        issued = server.simulator.issue_tokens(ALICE)
        body = {"grant_type": "refresh_token", "refresh_token": issued.refresh_token, "client_id": "client-1"}
        assert http.post("/v1/oauth/token", json=body).json()["error"] == "invalid_client"
        assert http.post("/v1/oauth/token", json=body | {"client_secret": "x"}).status_code == 401
        assert http.post("/v1/oauth/token", json=body, auth=("client-1", quote_plus(secret))).status_code == 200


def test_the_token_endpoint_can_fail_after_redeeming(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer = log_in(provider, http)
    provider.simulator.switches.set(token_failures=1, token_failure_after_redeem=True)
    assert refresh(http, answer["refresh_token"]).status_code == 500
    assert is_dead(refresh(http, answer["refresh_token"]))


@pytest.mark.parametrize("redeemed", [False, True])
def test_the_connection_is_dropped_before_or_after_redeeming(
    provider: SimulatorServer, http: httpx2.Client, redeemed: bool
) -> None:
    answer = log_in(provider, http)
    name = "token_drops_after_redeem" if redeemed else "token_drops_before_redeem"
    provider.simulator.switches.set(**{name: 1})
    with pytest.raises(httpx2.RemoteProtocolError):
        refresh(http, answer["refresh_token"])
    record = provider.simulator.requests("/v1/oauth/token")[-1]
    assert (record.outcome, record.status) == (Outcome.DROPPED, None)
    assert is_dead(refresh(http, answer["refresh_token"])) is redeemed


def test_a_slow_token_endpoint_redeems_nothing_for_a_client_that_left(
    provider: SimulatorServer, http: httpx2.Client
) -> None:
    answer = log_in(provider, http)
    provider.simulator.switches.set(token_delay=60)
    with pytest.raises(httpx2.ReadTimeout):
        http.post(
            "/v1/oauth/token",
            json={"grant_type": "refresh_token", "refresh_token": answer["refresh_token"], "client_id": "client-1"},
            timeout=httpx2.Timeout(10, read=0.1),
        )
    record = provider.simulator.requests("/v1/oauth/token")[-1]
    eventually(lambda: record.outcome is Outcome.CLIENT_DISCONNECTED)
    provider.simulator.switches.set(token_delay=0)
    assert refresh(http, answer["refresh_token"]).status_code == 200


def test_a_revoked_account_is_forbidden(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer = log_in(provider, http)
    provider.simulator.switches.set(ALICE, revoked=True)
    response = ask(http, answer["access_token"])
    assert error_of(response) == (403, "permission_error")
    assert response.json()["error"]["message"] == "OAuth token has been revoked. Please obtain a new token."
    # only the API says so: the grant is alive
    assert refresh(http, answer["refresh_token"]).status_code == 200


def test_revoked_grants_are_dead_everywhere(provider: SimulatorServer, http: httpx2.Client) -> None:
    answer = log_in(provider, http)
    provider.simulator.revoke_grants(ALICE)
    assert error_of(ask(http, answer["access_token"])) == (403, "permission_error")
    assert is_dead(refresh(http, answer["refresh_token"]))
    assert ask(http, log_in(provider, http)["access_token"]).status_code == 200


def test_a_missing_scope_is_forbidden_without_the_word_revoked(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(scope_missing=True)
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert error_of(response) == (403, "permission_error")
    assert "revoked" not in response.json()["error"]["message"]


def test_the_api_fails_a_number_of_times(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(api_failures=1, api_failure_retry_after=3)
    overloaded = ask(http, token)
    assert error_of(overloaded) == (529, "overloaded_error")
    assert overloaded.headers["retry-after"] == "3"
    assert ask(http, token).status_code == 200
    provider.simulator.switches.set(api_failures=1, api_failure_status=500, api_failure_retry_after=None)
    failed = ask(http, token)
    assert error_of(failed) == (500, "api_error")
    assert "retry-after" not in failed.headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("retry_after", [None, 7])
def test_every_failure_is_had_on_demand(
    provider: SimulatorServer, http: httpx2.Client, status: int, kind: str, retry_after: int | None
) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(
        api_failures=2, api_failure_status=status, api_failure_retry_after=retry_after, api_failure_message="words"
    )
    for response in (ask(http, token), http.get("/v1/models", headers=api_headers(token))):
        assert error_of(response) == (status, kind)
        assert response.json()["error"]["message"] == "words"
        assert response.headers.get("retry-after") == (None if retry_after is None else "7")
    provider.simulator.switches.set(api_failures=1, api_failure_message=None)
    assert ask(http, token).json()["error"]["message"] not in ("", "words")


@pytest.mark.parametrize("status", [413, 502, 529])
def test_a_failure_may_come_from_the_edge(provider: SimulatorServer, http: httpx2.Client, status: int) -> None:
    provider.simulator.switches.set(api_failures=1, api_failure_status=status, errors_from_edge=True)
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert response.text.startswith(f"<html>\n<head><title>{status} ")
    assert response.headers["request-id"].startswith("req_")


def test_a_model_can_be_forbidden_without_the_word_revoked(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(ALICE, forbidden_model=MODEL)
    token = provider.simulator.issue_access_token(ALICE)
    response = ask(http, token)
    assert error_of(response) == (403, "permission_error")
    assert "revoked" not in response.json()["error"]["message"]
    assert ask(http, token, model="claude-simulated-haiku").status_code == 200
    assert ask(http, provider.simulator.issue_access_token(BOB)).status_code == 200


@pytest.mark.parametrize("status", [301, 307])
def test_an_answer_can_be_a_redirect(provider: SimulatorServer, http: httpx2.Client, status: int) -> None:
    provider.simulator.switches.set(redirect_location="https://elsewhere.invalid/v1", redirect_status=status)
    response = ask(http, provider.simulator.issue_access_token(ALICE))
    assert (response.status_code, response.headers["location"]) == (status, "https://elsewhere.invalid/v1")
    assert response.headers["request-id"].startswith("req_")


def test_a_body_beyond_the_limit_is_too_large(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(max_body_bytes=1000)
    response = ask(http, provider.simulator.issue_access_token(ALICE), text="x" * 1000)
    assert error_of(response) == (413, "request_too_large")
    assert len(provider.simulator.requests("/v1/messages")[0].body) == 1000
    provider.simulator.switches.set(errors_from_edge=True)
    from_edge = ask(http, provider.simulator.issue_access_token(ALICE), text="x" * 1000)
    assert (from_edge.status_code, from_edge.text.startswith("<html>")) == (413, True)
    assert ask(http, provider.simulator.issue_access_token(ALICE)).status_code == 200


def test_slow_headers_end_when_the_client_leaves(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(headers_delay=60)
    with pytest.raises(httpx2.ReadTimeout):
        http.post(
            "/v1/messages",
            headers=api_headers(token),
            json=question(),
            timeout=httpx2.Timeout(10, read=0.1),
        )
    record = provider.simulator.requests("/v1/messages")[0]
    eventually(lambda: record.outcome is Outcome.CLIENT_DISCONNECTED)
    assert record.status is None


def test_a_short_delay_only_delays(provider: SimulatorServer, http: httpx2.Client) -> None:
    provider.simulator.switches.set(headers_delay=0.01, event_delay=0.001, token_delay=0.01)
    answer = log_in(provider, http)
    assert ask(http, answer["access_token"], stream=True).text.endswith('data: {"type": "message_stop"}\n\n')


def test_a_stream_that_is_cut_looks_cut(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_cut_after=4)
    received = b""
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        http.stream("POST", "/v1/messages", headers=api_headers(token), json=question(stream=True)) as response,
    ):
        for chunk in response.iter_raw():
            received += chunk
    assert received.count(b"event: ") == 4
    assert provider.simulator.requests("/v1/messages")[0].outcome is Outcome.DROPPED


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/models"])
def test_a_json_answer_that_is_cut_looks_cut(
    provider: SimulatorServer, http: httpx2.Client, path: str, compressed: bool
) -> None:
    headers = api_headers(provider.simulator.issue_access_token(ALICE))
    provider.simulator.switches.set(json_cut_after=9, gzip=compressed)
    received = b""
    method, body = ("GET", None) if path == "/v1/models" else ("POST", question())
    with (
        pytest.raises(httpx2.RemoteProtocolError, match="received 9 bytes"),
        http.stream(method, path, headers=headers, json=body) as response,
    ):
        assert int(response.headers["content-length"]) > 9
        for chunk in response.iter_raw():
            received += chunk
    assert len(received) == 9
    assert provider.simulator.requests(path)[0].outcome is Outcome.DROPPED


def test_a_json_answer_may_come_without_a_length(provider: SimulatorServer, http: httpx2.Client) -> None:
    headers = api_headers(provider.simulator.issue_access_token(ALICE))
    provider.simulator.switches.set(json_chunked=True)
    whole = http.post("/v1/messages", headers=headers, json=question())
    assert "content-length" not in whole.headers
    assert whole.json()["content"][0]["text"] == f"Served by {ALICE}: hello"
    provider.simulator.switches.set(json_cut_after=9)
    with pytest.raises(httpx2.RemoteProtocolError, match="incomplete chunked read"):
        http.post("/v1/messages", headers=headers, json=question())


@pytest.mark.parametrize(
    ("position", "sent"),
    [("message_start", 1), ("content_block_delta", 4), ("content_block_stop", 7), ("message_delta", 8), (4, 4)],
)
def test_a_position_in_a_stream_is_a_number_or_a_type(
    provider: SimulatorServer, http: httpx2.Client, position: int | str, sent: int
) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_end_after=position, reply="one two three")
    response = ask(http, token, stream=True)
    events = [_event(block) for block in response.text.split("\n\n")[:-1]]
    assert len(events) == sent
    assert events[-1]["type"] == ("content_block_delta" if position == 4 else position)
    assert provider.simulator.requests("/v1/messages")[0].outcome is Outcome.COMPLETE


def test_a_position_that_does_not_come_is_never_reached(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_end_after="content_block_delta", stream_cut_after=99, reply="")
    assert "message_stop" in ask(http, token, stream=True).text


def test_a_stream_can_end_early_as_if_it_were_complete(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_end_after=4)
    response = ask(http, token, stream=True)
    assert response.text.count("event: ") == 4
    assert "message_stop" not in response.text
    assert provider.simulator.requests("/v1/messages")[0].outcome is Outcome.COMPLETE


@pytest.mark.parametrize("kind", ["api_error", "overloaded_error", "rate_limit_error"])
@pytest.mark.parametrize("position", [0, 3])
def test_a_stream_can_carry_an_error_event(
    provider: SimulatorServer, http: httpx2.Client, position: int, kind: str
) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_error_after=position, stream_error_type=kind)
    response = ask(http, token, stream=True)
    assert response.status_code == 200
    events = [_event(block) for block in response.text.split("\n\n")[:-1]]
    assert len(events) == position + 1
    assert (events[-1]["type"], events[-1]["error"]["type"]) == ("error", kind)
    assert events[-1]["error"]["message"]
    assert events[-1]["request_id"] == response.headers["request-id"]


def test_a_stalled_stream_ends_when_the_client_leaves(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_stall_after=1)
    with http.stream("POST", "/v1/messages", headers=api_headers(token), json=question(stream=True)) as response:
        # kept: an iterator that nobody holds closes the connection
        chunks = response.iter_raw()
        assert next(chunks).startswith(b"event: message_start\n")
        record = provider.simulator.requests("/v1/messages")[0]
        assert record.outcome is Outcome.PENDING
    eventually(lambda: record.outcome is Outcome.CLIENT_DISCONNECTED)
    assert record.status == 200
    assert record.bytes_sent > 0


def test_a_stall_can_be_short(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_stall_after=1, stream_stall_seconds=0.01)
    assert "message_stop" in ask(http, token, stream=True).text


def test_a_stream_may_be_nothing_but_pings(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(stream_pings_only=True, event_delay=0.001)
    with http.stream("POST", "/v1/messages", headers=api_headers(token), json=question(stream=True)) as response:
        lines = response.iter_lines()
        assert {next(lines) for _ in range(9)} == {"event: ping", 'data: {"type": "ping"}', ""}


def test_chunks_split_anywhere_and_lose_nothing(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(reply="añ o", chunk_bytes=1)
    with http.stream("POST", "/v1/messages", headers=api_headers(token), json=question(stream=True)) as response:
        chunks = list(response.iter_raw())
    assert "ñ" in b"".join(chunks).decode()
    assert provider.simulator.requests("/v1/messages")[0].bytes_sent == len(b"".join(chunks))


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_compressed_for_clients_that_accept_it(
    provider: SimulatorServer, http: httpx2.Client, stream: bool
) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    provider.simulator.switches.set(gzip=True, reply="compressed")
    raw = httpx2.Headers({**api_headers(token), "accept-encoding": "br, gzip"})
    with http.stream("POST", "/v1/messages", headers=raw, json=question(stream=stream)) as response:
        body = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert b"compressed" in gzip.decompress(body)
    models = http.get("/v1/models", headers=raw)
    assert (models.headers["content-encoding"], len(models.json()["data"])) == ("gzip", 3)
    plain = {**api_headers(token), "accept-encoding": "identity"}
    response = http.post("/v1/messages", headers=plain, json=question(stream=stream))
    assert "content-encoding" not in response.headers
    assert "compressed" in response.text


def test_what_is_set_for_one_account_wins_for_that_account(provider: SimulatorServer, http: httpx2.Client) -> None:
    switches = provider.simulator.switches
    switches.set(reply="for all")
    switches.set(ALICE, reply="for alice")
    alice, bob = (provider.simulator.issue_access_token(subject) for subject in (ALICE, BOB))

    def text(token: str) -> str:
        document = ask(http, token).json()
        return str(document["content"][0]["text"])

    assert (text(alice), text(bob)) == ("for alice", "for all")
    switches.set(ALICE, reply=None)
    assert text(alice) == "for all"
    switches.reset()
    assert text(alice) == f"Served by {ALICE}: hello"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"rotatoin": False}, "rotation", id="misspelt"),
        pytest.param({"rotation": "no"}, "Expected `bool`", id="wrong-type"),
        pytest.param({"token_delay": -1}, ">= 0", id="negative"),
        pytest.param({"chunk_bytes": 0}, ">= 1", id="no-progress"),
        pytest.param({"token_failure_status": 204}, "Invalid enum value", id="no-failure"),
        pytest.param({"stream_cut_after": "message_stop"}, "Invalid enum value", id="no-position"),
    ],
)
def test_a_switch_that_cannot_be_changes_nothing(
    provider: SimulatorServer, http: httpx2.Client, changes: dict[str, Any], said: str
) -> None:
    before = http.get("/_simulator/switches").json()
    for path in ("/_simulator/switches", f"/_simulator/accounts/{ALICE}"):
        response = http.patch(path, json={"reply": "changed", **changes})
        assert response.status_code == 400
        assert said in response.json()["error"]
    with pytest.raises(SwitchError):
        provider.simulator.switches.set(**changes)
    assert http.get("/_simulator/switches").json() == before
    assert provider.simulator.switches.overrides(ALICE) == {}


# --- the control API -------------------------------------------------------------------------------------------


def test_switches_are_set_over_http(provider: SimulatorServer, http: httpx2.Client) -> None:
    assert set(http.get("/_simulator/switches").json()) == set(NAMES)
    assert http.patch("/_simulator/switches", json={"rotation": False}).json()["rotation"] is False
    assert provider.simulator.switches.get(ALICE).rotation is False
    assert http.patch("/_simulator/switches", json={"rotation": None}).json()["rotation"] is True
    changed = http.patch(f"/_simulator/accounts/{ALICE}", json={"revoked": True}).json()
    assert changed["switches"] == {"revoked": True}
    assert provider.simulator.switches.get(ALICE).revoked is True
    assert provider.simulator.switches.get(BOB).revoked is False
    http.delete("/_simulator/switches")
    assert provider.simulator.switches.get(ALICE).revoked is False


def test_accounts_are_commanded_over_http(provider: SimulatorServer, http: httpx2.Client) -> None:
    account = f"/_simulator/accounts/{ALICE}"
    issued = http.post(f"{account}/issue-tokens", json={"expires_in": 60}).json()
    assert issued["expires_in"] == 60
    exhausted = http.post(f"{account}/exhaust", json={"window": "7d", "reset_in": 60}).json()
    assert exhausted["windows"]["7d"] == {"status": "rejected", "utilization": 1.0, "resets_at": NOW + 60}
    assert ask(http, issued["access_token"]).status_code == 429
    http.post(f"{account}/recover")
    assert ask(http, issued["access_token"]).status_code == 200
    http.post(f"{account}/utilization", json={"utilization": 0.95})
    assert unified(ask(http, issued["access_token"]))["5h-status"] == "allowed_warning"
    http.post(f"{account}/expire-access-tokens")
    assert ask(http, issued["access_token"]).status_code == 401
    refreshed = refresh(http, issued["refresh_token"]).json()
    assert http.post(f"{account}/revoke-grants").json()["revoked_grants"] == 1
    assert is_dead(refresh(http, refreshed["refresh_token"]))

    listed = {entry["subject"]: entry for entry in http.get("/_simulator/accounts").json()["accounts"]}
    assert (listed[ALICE]["access_tokens"], listed[ALICE]["refreshes"]) == (2, 1)
    assert listed[BOB]["access_tokens"] == 0
    assert "sim-" not in json.dumps(list(listed.values()))


@pytest.mark.parametrize(
    ("command", "body", "said"),
    [
        ("explode", {}, "revoke-grants"),
        ("exhaust", {"window": "1m"}, "7d_oi"),
        ("exhaust", {"windows": "5h"}, "windows"),
        ("recover", {"now": True}, "now"),
    ],
)
def test_a_command_that_cannot_be_is_answered_in_words(
    http: httpx2.Client, command: str, body: dict[str, Any], said: str
) -> None:
    response = http.post(f"/_simulator/accounts/{ALICE}/{command}", json=body)
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_a_bad_approval_is_answered_in_words(provider: SimulatorServer, http: httpx2.Client) -> None:
    for url in (Login(provider.url).url(code_challenge=None), f"{provider.url}/elsewhere", "http://[bad"):
        response = http.post("/_simulator/approve", json={"authorization_url": url, "subject": ALICE})
        assert response.status_code == 400
        assert response.json()["error"]
    assert http.post("/_simulator/approve", content=b"{").status_code == 400
    assert http.post("/_simulator/approve", json={"authorization_url": "x", "subject": 1}).status_code == 400


def test_the_clock_is_moved_over_http(provider: SimulatorServer, http: httpx2.Client) -> None:
    assert http.get("/_simulator/clock").json() == {"now": NOW}
    assert http.post("/_simulator/clock", json={"advance": 5}).json() == {"now": NOW + 5}
    assert provider.simulator.clock.now() == NOW + 5
    # a clock that is behind shows in what it says, too
    http.post("/_simulator/clock", json={"advance": -3605})
    said = http.get("/v1/models", headers=api_headers(provider.simulator.issue_access_token(ALICE))).headers["date"]
    assert parsedate_to_datetime(said) == datetime.fromtimestamp(NOW - 3600, UTC)


# --- recording -------------------------------------------------------------------------------------------------


def test_requests_are_recorded_as_they_came(provider: SimulatorServer, http: httpx2.Client) -> None:
    token = provider.simulator.issue_access_token(ALICE)
    address = urlsplit(provider.url)
    body = json.dumps(question()).encode()
    head = (
        "POST /v1/messages?beta=true&x=%2F HTTP/1.1\r\nHost: simulator\r\nX-Order: 1\r\n"
        f"Authorization: Bearer {token}\r\nanthropic-beta: {OAUTH_BETA}\r\nanthropic-version: 2023-06-01\r\n"
        f"X-Order: 2\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    (record,) = provider.simulator.requests("/v1/messages")
    assert (record.method, record.path, record.query) == ("POST", "/v1/messages", "beta=true&x=%2F")
    assert [name for name, _ in record.headers][:3] == ["host", "x-order", "authorization"]
    assert record.header("X-Order") == "1, 2"
    assert record.body == body
    assert (record.subject, record.status, record.outcome) == (ALICE, 200, Outcome.COMPLETE)
    assert record.received_at == NOW
    assert f"request-id: {record.request_id}".encode() in answer
    assert answer.endswith(answer[-record.bytes_sent :])


def test_paths_are_never_normalised(provider: SimulatorServer) -> None:
    address = urlsplit(provider.url)
    for path in ("//v1/models", "/v1/../v1/models", "/v1/models/", "/v1/%6dodels"):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: simulator\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 4")
        assert provider.simulator.requests()[-1].path == path


def test_records_are_read_and_forgotten_over_http(provider: SimulatorServer, http: httpx2.Client) -> None:
    ask(http, provider.simulator.issue_access_token(ALICE))
    ask(http, provider.simulator.issue_access_token(BOB))
    http.post("/v1/oauth/token", content=b"\xff\x00")
    recorded = http.get("/_simulator/requests").json()["requests"]
    assert [entry["path"] for entry in recorded] == ["/v1/messages", "/v1/messages", "/v1/oauth/token"]
    assert json.loads(recorded[0]["body"]) == question()
    assert base64.b64decode(recorded[2]["body_base64"]) == b"\xff\x00"
    (of_bob,) = http.get("/_simulator/requests", params={"path": "/v1/messages", "subject": BOB}).json()["requests"]
    assert (of_bob["status"], of_bob["outcome"]) == (200, "complete")
    http.delete("/_simulator/requests")
    assert provider.simulator.requests() == []


def test_an_upload_that_is_broken_off_is_recorded(provider: SimulatorServer) -> None:
    address = urlsplit(provider.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: simulator\r\nContent-Length: 100\r\n\r\nhalf")
        eventually(lambda: len(provider.simulator.requests()) == 1)
    (record,) = provider.simulator.requests()
    eventually(lambda: record.outcome is Outcome.CLIENT_DISCONNECTED)
    assert record.body == b"half"


def test_the_oldest_records_make_room() -> None:
    recorder = Recorder(max_requests=3, max_bytes=10)
    for number in range(4):
        record = recorder.begin(
            request_id=f"req_{number}", now=0, method="POST", path=f"/{number}", query="", headers=[]
        )
        recorder.keep_body(record, b"12345")
    assert [record.path for record in recorder.requests()] == ["/2", "/3"]
    recorder.clear()
    recorder.keep_body(record, b"12345")
    assert recorder.requests() == []


def test_every_secret_is_listed(federation: SimulatorServer, issuer: Issuer) -> None:
    with httpx2.Client(base_url=federation.url) as http:
        login = Login(federation.url)
        code = federation.simulator.approve(login.url(), ALICE).partition("#")[0]
        first = http.post("/v1/oauth/token", json=login.exchange_body(code)).json()
        second = refresh(http, first["refresh_token"]).json()
        ask(http, "sent-but-never-issued")
        refresh(http, "also-never-issued")
        assertion = issuer.token()
        workload = present(federation, assertion).json()
        direct = federation.simulator.issue_tokens(BOB)
        device_code = open_device_login(http)["device_code"]
        listed = http.get("/_simulator/secrets").json()
    assert listed == federation.simulator.secrets()
    assert {kind: set(values) for kind, values in listed.items()} == {
        "access_token": {
            first["access_token"],
            second["access_token"],
            workload["access_token"],
            direct.access_token,
            "sent-but-never-issued",
        },
        "refresh_token": {
            first["refresh_token"],
            second["refresh_token"],
            direct.refresh_token,
            "also-never-issued",
        },
        "code": {code},
        "device_code": {device_code},
        "code_verifier": {login.verifier},
        "state": {login.state},
        "assertion": {assertion},
    }


def test_nothing_secret_is_in_a_log_line_or_a_repr(
    provider: SimulatorServer, http: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    # the tests' own client logs the URLs that it asks for
    caplog.set_level(logging.WARNING, "httpx2")
    caplog.set_level(logging.WARNING, "httpcore2")
    # last, because the handler takes the level that is set last
    caplog.set_level(logging.DEBUG)
    login = Login(provider.url)
    http.get(login.url())
    approval = provider.simulator.authorize(login.url(), ALICE)
    answer = http.post("/v1/oauth/token", json=login.exchange_body(approval.code)).json()
    refresh(http, answer["refresh_token"])
    ask(http, answer["access_token"])
    issued = provider.simulator.issue_tokens(ALICE)
    token = provider.simulator.grants.access_token(issued.access_token)
    shown = f"{approval!r} {issued!r} {token!r} {provider.simulator.requests()!r}"

    eventually(lambda: "POST /v1/messages 200 account=alice@example.com" in caplog.text)
    for kind, values in provider.simulator.secrets().items():
        for value in values:
            assert value not in caplog.text, kind
            assert value not in shown, kind


# --- the server ------------------------------------------------------------------------------------------------


def test_stopping_does_not_wait_for_a_stalled_stream() -> None:
    with (
        SimulatorServer(settings()) as provider,
        httpx2.Client(base_url=provider.url) as http,
    ):
        provider.simulator.switches.set(stream_stall_after=1)
        headers = api_headers(provider.simulator.issue_access_token(ALICE))
        with http.stream("POST", "/v1/messages", headers=headers, json=question(stream=True)) as response:
            chunks = response.iter_raw()
            next(chunks)
            provider.stop()
            with pytest.raises(httpx2.RemoteProtocolError):
                next(chunks)
        with pytest.raises(httpx2.ConnectError):
            http.get("/_simulator/health")


def test_a_port_that_is_taken_is_an_error(provider: SimulatorServer) -> None:
    taken = SimulatorServer(port=urlsplit(provider.url).port or 0)
    with pytest.raises(OSError, match="in use"):
        taken.start()
    taken.stop()


def test_it_speaks_tls_with_a_certificate(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with SimulatorServer(settings(), certificate_file=certificate_file, key_file=key_file) as provider:
        assert provider.url.startswith("https://")
        url = provider.url.replace("127.0.0.1", "localhost")
        trusting = ssl.create_default_context(cafile=certificate_file)
        assert httpx2.get(f"{url}/_simulator/health", verify=trusting).json() == {"status": "ok"}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_as_a_process_and_ends_cleanly(stop: signal.Signals) -> None:
    command = [sys.executable, "-W", "error", "-m", "simulator", "--client-id", "client-1"]
    command += ["--redirect-uri", REDIRECT_URI, "--scope", "user:inference", "--switch", "reply=started this way"]
    command += ["--federation-rule", f"id=fdrl_x,organization={ORGANIZATION},subject=*"]
    tests = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with httpx2.Client(base_url=url) as http:
                login = Login(url)
                body = {"authorization_url": login.url(), "subject": ALICE}
                code = http.post("/_simulator/approve", json=body).json()["code"]
                answer = http.post("/v1/oauth/token", json=login.exchange_body(code)).json()
                assert ask(http, answer["access_token"]).json()["content"][0]["text"] == "started this way"
                known = http.get("/_simulator/secrets").json()
            process.send_signal(stop)
            output, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert output == ""
    assert "POST /v1/messages 200 account=alice@example.com outcome=complete" in log
    assert "Traceback" not in log
    assert not [value for values in known.values() for value in values if value in log]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--switch", "rotatoin=false"], "unknown switch 'rotatoin'"),
        (["--federation-rule", "id=rule"], "needs organization, subject"),
    ],
)
def test_a_bad_command_line_is_refused_in_words(arguments: list[str], said: str) -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "simulator", *arguments]
    ended = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_the_help_names_every_switch_route_and_command(provider: SimulatorServer) -> None:
    command = [sys.executable, "-m", "tests.simulator", "--help"]
    shown = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in shown.splitlines()]
    described = {words[0] for words in lines if len(words) > 2}
    assert set(NAMES) <= described
    control = Control(provider.simulator)
    assert set(control.commands) <= described
    documented = {(words[0], words[1]) for words in lines if len(words) > 2}
    for route in control.routes():
        path = re.sub(r"{(\w+)}", lambda name: name[1].upper(), route.path.removeprefix("/_simulator/"))
        methods = (route.methods or set()) - {"HEAD"}
        assert {(method, path) for method in methods} <= documented
