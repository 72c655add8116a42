"""`login` where a test is the operator, or nobody is: what cannot be had from the operator and simulator at will."""

import json
import os
import sys
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
from kubectl_oauthaccount.dialogue import OPEN_SECONDS
from kubectl_oauthaccount.kubeconfig import connect
from kubectl_oauthaccount.options import ClusterOptions
from kubectl_oauthaccount.verdict import Obstacle, judge, obstacle
from tests.support.control_plane import wait_until
from tests.support.pseudo_terminal import on_terminal
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


def test_what_keeps_a_login_from_being_opened_is_told_while_it_is_waited_for(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", {"conditions": [condition("Ready", "False", "LoginRequired")]})
    command = (str(Path(sys.executable).with_name("kubectl-oauthaccount")), "-n", plugin.namespace, "login", "alice")
    environment = os.environ | {"KUBECONFIG": str(plugin.kubeconfig)}
    with on_terminal(*command, "--no-browser", environment=environment) as terminal:
        request = wait_until(lambda: objects.annotation("alice", "login-requested"), "the request")
        terminal.wait_for("waiting for the operator to open a login, for at most 90 s")
        slow = condition("LoginFailing", "True", "TokenEndpointUnavailable", "the provider does not answer")
        objects.set_status("alice", {"conditions": [slow]})
        terminal.wait_for("the operator says: the provider does not answer")
        objects.set_status("alice", awaiting("1", lastHandledLoginRequest=request))
        terminal.wait_for("https://provider.example/?s=1")  # the wait went on
        terminal.press_ctrl_c()
        assert terminal.wait() == 130


@pytest.mark.parametrize("also", [(), ("LoginFailing",)], ids=["in sum", "by its own condition"])
def test_a_login_that_the_provider_refuses_ends_at_once_with_what_it_said(
    objects: Objects, plugin: Plugin, also: tuple[str, ...]
) -> None:
    objects.create("alice", grant="DeviceCode")

    def operator() -> None:
        wait_until(lambda: objects.annotation("alice", "login-requested"), "the request")
        kinds = ("Stalled", *also)
        refused = [condition(kind, "True", "ExchangeRejected", "the client is unknown") for kind in kinds]
        objects.set_status("alice", {"conditions": refused})

    with in_background(operator):
        outcome = plugin("login", "alice")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        1,
        "error: alice cannot be logged in: the client is unknown",
    )


def test_a_login_that_is_never_opened_ends_with_what_the_operator_said_last(objects: Objects, plugin: Plugin) -> None:
    held = condition("ProviderHeld", "True", "AskedToWait", "provider simulator is held until noon")
    objects.create("alice", {"conditions": [held]})
    outcome = plugin("login", "alice", "--timeout", "1s")
    assert outcome.code == 3
    assert outcome.err.endswith(
        "error: the operator opened no login for alice in 1 s: provider simulator is held until noon\n"
    )


def test_the_operator_has_longer_than_it_waits_for_a_provider() -> None:
    """A provider may take a minute to open a login, and the operator waits for it so long."""
    assert OPEN_SECONDS > 60


REFUSED = condition("Stalled", "True", "ExchangeRejected", "the client is unknown")
OF_A_REFRESH = condition("RefreshFailing", "True", "ExchangeRejected", "the client is unknown")
NO_PROVIDER = condition("Stalled", "True", "UnknownProvider", "no such provider")
NO_ANSWER = condition("LoginRequired", "True", "AwaitingAuthorizationCode", "a login is about to be opened: timed out")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param([REFUSED], [REFUSED], Obstacle("the client is unknown", False), id="of before: tried again"),
        pytest.param([], [REFUSED], Obstacle("the client is unknown", True), id="new: the answer"),
        pytest.param([REFUSED, OF_A_REFRESH], [REFUSED, OF_A_REFRESH], None, id="a refresh holds no login"),
        pytest.param([], [REFUSED, OF_A_REFRESH], None, id="nor does a new one"),
        pytest.param([NO_PROVIDER], [NO_PROVIDER], Obstacle("no such provider", True), id="waiting is in vain"),
        pytest.param(
            [], [NO_ANSWER], Obstacle("a login is about to be opened: timed out", False), id="told to the person"
        ),
    ],
)
def test_what_is_in_the_way_of_a_login(before: list[Any], now: list[Any], expected: Obstacle | None) -> None:
    was, current = (AccountView({"status": {"conditions": conditions}}) for conditions in (before, now))
    assert obstacle(was, current) == expected


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
    cluster = connect(ClusterOptions(kubeconfig=str(tmp_path / "kubeconfig"), namespace="here"))
    with cluster.client, pytest.raises(Exception) as caught:
        cluster.hand_over_code(AccountView({"metadata": {"name": "alice"}}), CODE)
    server.shutdown()
    server.server_close()
    printed = capfd.readouterr()
    told = "".join(traceback.format_exception(caught.value)) + printed.out + printed.err + caplog.text
    assert "422" in told
    assert "a-code-of-a-person" not in told
    assert "a-code-of-a-person" not in repr(caught.value)
