"""`login` where a test is the operator, or nobody is: what cannot be had from the operator and simulator at will."""

import json
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.kubeconfig import connect
from kubectl_oauthaccount.login import judge
from tests.support.control_plane import wait_until
from tests.test_kubectl_plugin.conftest import Objects, Plugin, condition

CODE = "a-code-of-a-person#a-state"


@contextmanager
def in_background(work: Any) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


def awaiting(session: str, **more: object) -> dict[str, Any]:
    return {
        "login": {"sessionID": session, "authorizationURL": f"https://provider.example/?s={session}"},
        "conditions": [condition("LoginRequired", "True", "AwaitingAuthorizationCode")],
        **more,
    }


def test_without_an_operator_the_wait_ends_and_says_what_is_missing(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    outcome = plugin("login", "alice", "--timeout", "1s")
    assert outcome.code == 3
    assert f"no operator runs in namespace {plugin.namespace}" in outcome.err


def test_an_account_that_is_deleted_meanwhile_ends_the_wait(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")

    def delete() -> None:
        wait_until(lambda: objects.annotation("alice", "login-requested"), "the request")
        objects.delete("alice")

    with in_background(delete):
        outcome = plugin("login", "alice")
    assert (outcome.code, outcome.out) == (1, "")
    assert "alice" in outcome.err.splitlines()[-1]


NEW_TOKEN = {"generation": 2}
PROBLEM = [condition("LoginRequired", "True", "CodeRejected", "of another login")]
ALIVE_BUT_REFUSED = [condition("LoginRequired", "False", "NotRequired", "the code was refused")]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(awaiting("1"), None, id="nothing has happened"),
        pytest.param(awaiting("1", token=NEW_TOKEN), None, id="a refresh of the old grant is no login"),
        pytest.param({"token": NEW_TOKEN}, "", id="a new token and no login: done"),
        pytest.param(awaiting("1") | {"conditions": PROBLEM}, "of another login", id="refused, same login"),
        pytest.param(
            awaiting("2") | {"conditions": ALIVE_BUT_REFUSED}, "the code was refused", id="refused, new login"
        ),
        pytest.param(
            {"conditions": [condition("LoginRequired", "True", "LoginExpired", "too late")]}, "too late", id="expired"
        ),
        pytest.param(
            {"token": NEW_TOKEN, "conditions": [condition("Ready", "False", "CoolingDown")]},
            "",
            id="done, cooling down",
        ),
        pytest.param(
            awaiting("1") | {"conditions": [condition("Stalled", "True", "StorageUnavailable", "disk full")]},
            None,
            id="a full disk is waited for",
        ),
    ],
)
def test_how_a_login_ended(after: dict[str, Any], expected: str | None) -> None:
    before = AccountView({"status": awaiting("1", token={"generation": 1})})
    verdict = judge(before, AccountView({"status": after}))
    assert (verdict.problem if verdict else None) == expected


class Quoting(BaseHTTPRequestHandler):
    """An API server (or a webhook behind it) that quotes in its refusal what it was sent."""

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_PATCH(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"])).decode()
        body = json.dumps({"kind": "Status", "reason": "Invalid", "message": f"cannot take {sent}"}).encode()
        self.send_response(422)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_refusal_that_quotes_the_code_does_not_repeat_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quoting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": "a-token"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    cluster = connect(str(tmp_path / "kubeconfig"), None, "here")
    with cluster.client, pytest.raises(Exception) as caught:
        cluster.hand_over_code("alice", CODE)
    server.shutdown()
    server.server_close()
    printed = capfd.readouterr()
    told = "".join(traceback.format_exception(caught.value)) + printed.out + printed.err + caplog.text
    assert "422" in told
    assert "a-code-of-a-person" not in told
    assert "a-code-of-a-person" not in repr(caught.value)
