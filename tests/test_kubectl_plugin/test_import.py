"""`import`, `adopt` and `orphans`: how a credential gets into the operator's pod, and what is left behind there.

There is no kubelet here. The WebSocket part runs against a server that speaks the exec subprotocol, which runs the
operator's real command where that matters; what the API server itself answers is from a real one. That the two work
together, only a cluster can show.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubectl_oauthaccount import handover
from kubectl_oauthaccount.cli import main
from oauth_pool_operator.handover import commands
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack
from tests.test_kubectl_plugin.conftest import Objects, Outcome, Plugin
from tests.test_kubectl_plugin.exec_server import POD, ExecServer, exec_server
from tests.test_operator.handover.test_handover_on_api_server import document, entry

ECHO = (sys.executable, "-c", "import sys; d = sys.stdin.read(); print(len(d)); print('did it', file=sys.stderr)")
# every byte, and more than one frame of them
CREDENTIAL = "".join(map(chr, range(1, 128))) * 1000


def run(
    kubeconfig: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    *arguments: str,
    stdin: str = CREDENTIAL,
    command: str = "import",
) -> Outcome:
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    try:
        code = main(["--kubeconfig", str(kubeconfig), command, *arguments])
    finally:
        sys.stdin = before
    printed = capfdbinary.readouterr()
    return Outcome(code, printed.out.decode(), printed.err.decode())


def test_what_is_piped_in_reaches_the_command_and_its_output_comes_back(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with exec_server(*ECHO) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "claude-1", "--entry", "main", "--replace")
    assert outcome == Outcome(0, f"{len(CREDENTIAL)}\n", "did it\n")
    assert server.received.decode() == CREDENTIAL
    assert server.commands == [["oauth-pool-operator", "import", "claude-1", "--entry", "main", "--replace"]]
    assert server.containers == ["operator"]


def test_a_file_is_read_and_all_of_it_imported(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "credentials.json").write_text("{}")
    with exec_server(*ECHO) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "--all", "-f", str(tmp_path / "credentials.json"))
    assert outcome.code == 0
    assert (server.received, server.commands) == (b"{}", [["oauth-pool-operator", "import", "--all"]])


def test_the_exit_code_is_the_command_s(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with exec_server(sys.executable, "-c", "import sys; sys.exit('no entry of that name')") as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "claude-1")
    assert outcome == Outcome(1, "", "no entry of that name\n")
    with exec_server(sys.executable, "-c", "raise SystemExit(7)") as server:
        assert run(server.kubeconfig(tmp_path), capfdbinary, "claude-1").code == 7


def test_a_server_that_cannot_end_the_input_gets_nothing(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with exec_server(*ECHO, protocols=("v4.channel.k8s.io",)) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "claude-1")
    assert outcome.code == 1
    assert f"kubectl -n default exec -i {POD} -c operator -- oauth-pool-operator import claude-1" in outcome.err
    assert server.received == b""


def test_a_connection_that_breaks_off_is_not_taken_for_success(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with exec_server(*ECHO, breaks_off=True) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "claude-1")
    assert outcome.code == 1
    assert outcome.err.startswith("error: the connection")


@contextmanager
def operator_pod(stack: Stack) -> Iterator[ExecServer]:
    """Runs the operator's command as it would run in its pod: beside the operator, with its volumes and its rights."""
    environment = os.environ | stack.as_operator()
    with exec_server(*stack.operator_command, passes_arguments=True, environment=environment) as server:
        yield server


def test_a_credential_gets_from_a_file_to_the_account(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    tokens = stack.simulator.issue_tokens("nina@example.com")
    stack.apply(stack.account("nina"))
    with operator_pod(stack) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "nina", stdin=document(main=entry(tokens)).decode())
    assert (outcome.code, outcome.out.startswith("nina: Available: access token valid until")) == (0, True), outcome
    assert "nina: handed over; waiting for the operator" in outcome.err
    assert stack.get("nina")["status"]["token"]["generation"] == 1
    for secret in (tokens["refresh_token"], tokens["access_token"]):
        assert secret not in outcome.out + outcome.err + str(server.commands)


def test_manifests_of_missing_accounts_come_on_standard_output_and_can_be_applied(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    given = document(peter=entry(stack.simulator.issue_tokens("peter@example.com"))).decode()
    with operator_pod(stack) as server:
        arguments = ("--all", "--create", "--provider", "simulator")
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, *arguments, stdin=given)
        assert outcome.code == 0, outcome.err
        stack.kubectl("apply", "-f", "-", stdin=outcome.out)
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "--all", stdin=given)
    assert (outcome.code, outcome.out.startswith("peter: Available")) == (0, True), outcome


def test_an_account_adopts_what_a_deleted_one_left(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stack.apply(stack.account("ruth", deletionPolicy="Retain"))
    stack.log_in("ruth", "ruth@example.com")
    uid = stack.get("ruth")["metadata"]["uid"]
    stack.kubectl("delete", "oauthaccount", "ruth", "--timeout=20s")
    stack.apply(stack.account("ruth"))
    with operator_pod(stack) as server:
        outcome = run(
            server.kubeconfig(tmp_path), capfdbinary, "ruth", "--from", uid, "--timeout", "1m", command="adopt"
        )
    assert (outcome.code, outcome.out.startswith("ruth: Available")) == (0, True), outcome
    assert server.commands == [["oauth-pool-operator", "adopt", "ruth", "--from", uid, "--timeout", "60"]]
    assert stack.get("ruth")["status"]["subject"] == "ruth@example.com"


def test_what_deleted_accounts_left_is_listed_for_adopt(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stack.apply(stack.account("walter", deletionPolicy="Retain"))
    stack.log_in("walter", "walter@example.com")
    uid = stack.get("walter")["metadata"]["uid"]
    stack.kubectl("delete", "oauthaccount", "walter", "--timeout=20s")
    with operator_pod(stack) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, command="orphans")
    assert (outcome.code, f"{uid}: {stack.namespace}/walter, provider simulator" in outcome.out) == (0, True), outcome
    assert server.commands == [["oauth-pool-operator", "orphans"]]


def test_what_cannot_be_adopted_is_told_in_the_operator_s_words(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stack.apply(stack.account("sybil"))
    with operator_pod(stack) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "sybil", command="adopt")
    assert (outcome.code, "nothing was left behind by an account sybil" in outcome.err) == (1, True)


def test_claude_code_s_own_login_is_called_by_its_name_and_not_taken(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stack.apply(stack.account("oscar"))
    given = document(claudeAiOauth={"accessToken": "secret-a", "refreshToken": "secret-b", "expiresAt": 1}).decode()
    with operator_pod(stack) as server:
        outcome = run(server.kubeconfig(tmp_path), capfdbinary, "oscar", stdin=given)
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "it is Claude Code's own login (claudeAiOauth), which cannot be imported" in outcome.err
    assert "secret" not in outcome.err


@pytest.mark.parametrize(("given", "passed"), [("10m", "600"), ("90", "90"), ("1.5s", "1.5")])
def test_the_operator_waits_as_long_as_the_person_says(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], given: str, passed: str
) -> None:
    with exec_server(*ECHO) as server:
        assert run(server.kubeconfig(tmp_path), capfdbinary, "claude-1", "--timeout", given).code == 0
    assert server.commands == [["oauth-pool-operator", "import", "claude-1", "--timeout", passed]]


def test_both_sides_take_files_of_the_same_size() -> None:
    assert handover.LARGEST_BYTES == commands.LARGEST_FILE


def test_what_the_operator_does_not_take_is_told_and_is_no_success(
    stack: Stack, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stack.apply(stack.account("oscar"))
    given = document(one={"type": "broken"}, other={"type": "oauth"}).decode()
    with operator_pod(stack) as server:
        kubeconfig = server.kubeconfig(tmp_path)
        assert run(kubeconfig, capfdbinary, "oscar", "--entry", "one", stdin=given).err.endswith(
            "entry one: its type is not oauth\n"
        )
        assert run(kubeconfig, capfdbinary, "--all", "--replace", stdin=given).code == 1
        assert run(kubeconfig, capfdbinary, "oscar", stdin="not JSON").code == 1
    assert "token" not in stack.get("oscar")["status"]


def pod(plane: ControlPlane, namespace: str, name: str, status: dict[str, Any]) -> None:
    """A pod of the operator in that state; no kubelet will contradict."""
    body = {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "oauth-pool-operator"}},
        "spec": {"containers": [{"name": "operator", "image": "none"}]},
    }
    pods = f"/api/v1/namespaces/{namespace}/pods"
    assert plane.api.post(pods, json=body).is_success
    headers = {"content-type": "application/merge-patch+json"}
    answer = plane.api.patch(f"{pods}/{name}/status", json={"status": status}, headers=headers)
    assert answer.is_success, answer.text


def test_the_api_server_s_own_refusal_is_told(control_plane: ControlPlane, objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    pod(control_plane, plugin.namespace, "operator-of-before", {"phase": "Failed"})
    pod(control_plane, plugin.namespace, "operator-0", ready)
    outcome = plugin("import", "alice", stdin="{}")
    assert outcome.code == 1
    # the one that is ready was found, and it runs nowhere
    assert "operator-0 does not have a host assigned" in outcome.err


def test_a_pod_that_is_not_there_or_not_ready_is_named(
    control_plane: ControlPlane, objects: Objects, plugin: Plugin
) -> None:
    objects.create("alice")
    assert "no operator runs in namespace" in plugin("import", "alice", stdin="{}").err
    waiting = {"name": "operator", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
    waiting["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
    pod(control_plane, plugin.namespace, "operator-0", {"phase": "Pending", "containerStatuses": [waiting]})
    assert "operator-0 is not ready: ImagePullBackOff" in plugin("import", "alice", stdin="{}").err
    assert 'pods "other" not found' in plugin("import", "alice", "--pod", "other", stdin="{}").err


def test_who_may_not_exec_is_told_so(control_plane: ControlPlane, objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    for kind, name, more in (
        ("role", "reader", ("--verb=get", "--resource=oauthaccounts.oauthpool.dev")),
        ("rolebinding", "reader", ("--role=reader", f"--serviceaccount={plugin.namespace}:default")),
    ):
        control_plane.kubectl("-n", plugin.namespace, "create", kind, name, *more)
    plugin.kubeconfig = control_plane.kubeconfig_for(plugin.namespace, "default")
    wait_until(lambda: "pods/exec" in plugin("import", "alice", "--pod", "operator-0", stdin="{}").err, "the Role")
    outcome = plugin("import", "alice", "--pod", "operator-0", stdin="{}")
    assert outcome.err == (
        f"error: you may not create pods/exec in namespace {plugin.namespace}: ask for a Role with that verb\n"
    )
    assert "you may not list pods in" in plugin("import", "alice", stdin="{}").err


@pytest.mark.parametrize(
    ("arguments", "stdin", "problem"),
    [
        pytest.param((), "{}", "name one account, or give --all", id="neither"),
        pytest.param(("alice", "--all"), "{}", "name one account, or give --all", id="both"),
        pytest.param(("--all", "--entry", "x"), "{}", "--entry is for one account", id="entry of all"),
        pytest.param(("--all", "--create"), "{}", "--all, --create and --provider go together", id="of which provider"),
        pytest.param(("--all", "--provider", "p"), "{}", "go together", id="a provider for nothing"),
        pytest.param(("alice", "--create", "--provider", "p"), "{}", "go together", id="one to create"),
        pytest.param(("alice",), " \n", "is empty", id="nothing given"),
        pytest.param(("alice",), "x" * (4 * 1024 * 1024 + 1), "larger than 4 MiB", id="too large"),
        pytest.param(("alice", "-f", "/nowhere"), "", "/nowhere cannot be read", id="no such file"),
    ],
)
def test_wrong_usage(plugin: Plugin, arguments: tuple[str, ...], stdin: str, problem: str) -> None:
    outcome = plugin("import", *arguments, stdin=stdin)
    assert outcome.code == 2
    assert problem in outcome.err
