"""The commands `import` and `adopt`, as processes beside a running operator: real API server, real volumes, real provider."""

import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic.lib.credentials import CredentialsFile

from tests.support.api_relay import ApiRelay, Fault
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import CLIENT_ID, Stack, running_stack

ALICE, BOB = "alice@example.com", "bob@example.com"


@pytest.fixture(scope="module")
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    with running_stack(control_plane, with_proxy=False) as stack:
        yield stack


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    yield
    if "operator" not in stack.processes:
        stack.start_operator()
    stack.kubectl("delete", "oauthaccounts", "--all", "--timeout=30s")
    stack.simulator.reset()


def entry(tokens: dict[str, Any], *, expires_in: float | None = None) -> dict[str, Any]:
    """As the service that this project replaces has it in credentials.json."""
    seconds = tokens["expires_in"] if expires_in is None else expires_in
    return {
        "type": "oauth",
        "refresh": tokens["refresh_token"],
        "access": tokens["access_token"],
        "expires": int((time.time() + seconds) * 1000),
    }


def document(**entries: Any) -> bytes:
    return json.dumps({name.replace("_", "-"): value for name, value in entries.items()}).encode()


def folder(stack: Stack, name: str) -> Path:
    return stack.state_dir / str(stack.get(name)["metadata"]["uid"])


def stored(stack: Stack, name: str) -> dict[str, Any]:
    credential: dict[str, Any] = json.loads((folder(stack, name) / "credential.json").read_text())
    return credential


# --- import NAME -----------------------------------------------------------------------------------------------------


def test_a_credential_is_imported_by_name(stack: Stack) -> None:
    tokens = stack.simulator.issue_tokens(ALICE)
    stack.apply(stack.account("alice"))
    ended = stack.command("import", "alice", stdin=document(alice=entry(tokens), bob={"type": "broken"}))
    assert (ended.returncode, ended.stdout.count("\n")) == (0, 1), ended.stderr
    assert ended.stdout.startswith("alice: Available: access token valid until")
    assert "waiting for the operator" in ended.stderr
    assert stored(stack, "alice")["refresh_token"] == tokens["refresh_token"]
    assert not (folder(stack, "alice") / "import.json").exists()
    account = stack.get("alice")
    assert "oauthpool.dev/import-requested" not in account["metadata"].get("annotations", {})
    assert (account["status"]["token"]["generation"], "login" in account["status"]) == (1, False)
    for secret in (tokens["refresh_token"], tokens["access_token"]):
        assert secret not in ended.stdout + ended.stderr + json.dumps(account) + stack.operator.output


def test_one_that_is_about_to_expire_is_refreshed_at_once(stack: Stack) -> None:
    tokens = stack.simulator.issue_tokens(ALICE)
    stack.apply(stack.account("alice"))
    ended = stack.command("import", "alice", stdin=document(main=entry(tokens, expires_in=60)))  # the only one
    assert ended.returncode == 0, ended.stderr
    assert stored(stack, "alice")["previous_refresh_token"] == tokens["refresh_token"]
    assert stack.get("alice")["status"]["subject"] == ALICE


def test_one_of_several_is_chosen_by_its_id(stack: Stack) -> None:
    main, other = stack.simulator.issue_tokens(ALICE), stack.simulator.issue_tokens(BOB)
    given = document(main=entry(main), other=entry(other))
    stack.apply(stack.account("alice"))
    ended = stack.command("import", "alice", stdin=given)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "there is no entry alice; there are main, other: say which with --entry" in ended.stderr
    assert stack.command("import", "alice", "--entry", "other", stdin=given).returncode == 0
    assert stored(stack, "alice")["refresh_token"] == other["refresh_token"]


def test_the_profile_of_the_provider_s_own_sdk_is_imported_as_it_writes_it(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = stack.simulator.issue_tokens(ALICE)
    config, credentials = tmp_path / "configs/default.json", tmp_path / "credentials/default.json"
    for path, content in (
        (config, {"base_url": stack.simulator.url, "authentication": {"type": "user_oauth", "client_id": CLIENT_ID}}),
        (credentials, {"access_token": "expired", "refresh_token": tokens["refresh_token"], "expires_at": 1}),
    ):
        path.parent.mkdir()
        path.write_text(json.dumps(content))
        path.chmod(0o600)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with closing(CredentialsFile("default")) as sdk:
        sdk()  # refreshes, and writes what it got
    written = json.loads(credentials.read_text())
    assert written["refresh_token"] != tokens["refresh_token"]

    stack.apply(stack.account("alice"))
    ended = stack.command("import", "alice", stdin=credentials.read_bytes())
    assert ended.returncode == 0, ended.stderr
    assert stored(stack, "alice")["refresh_token"] == written["refresh_token"]


def test_a_live_credential_is_replaced_by_name_and_never_by_one_that_was_spent(stack: Stack) -> None:
    first, second = stack.simulator.issue_tokens(ALICE), stack.simulator.issue_tokens(ALICE)
    stack.apply(stack.account("alice"))
    assert stack.command("import", "alice", stdin=document(alice=entry(first, expires_in=60))).returncode == 0
    before = stored(stack, "alice")
    ended = stack.command("import", "alice", stdin=document(alice=entry(first)))
    assert (ended.returncode, stored(stack, "alice")) == (1, before)
    assert "it has already used this refresh token" in ended.stderr

    assert stack.command("import", "alice", stdin=document(alice=entry(second))).returncode == 0
    assert stored(stack, "alice")["refresh_token"] == second["refresh_token"]
    again = stack.command("import", "alice", stdin=document(alice=entry(second)))
    assert (again.returncode, again.stdout) == (0, "alice: has this credential already\n")
    assert stored(stack, "alice")["generation"] == before["generation"] + 1


def test_a_credential_that_the_provider_does_not_take_is_said_to_be_so(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    unknown = {"refresh_token": "never-issued", "access_token": "never-issued-either", "expires_in": -60}
    ended = stack.command("import", "alice", stdin=document(alice=entry(unknown)))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "the provider does not accept it (Disabled: " in ended.stderr
    assert "never-issued" not in ended.stderr
    assert stack.condition("alice", "LoginRequired")["reason"] == "GrantRevoked"


def test_what_is_handed_over_while_the_operator_is_down_is_taken_when_it_starts(stack: Stack) -> None:
    tokens = stack.simulator.issue_tokens(ALICE)
    stack.apply(stack.account("alice"))
    stack.authorization_url("alice")
    assert stack.operator.stop() == 0
    del stack.processes["operator"]
    ended = stack.command("import", "alice", "--timeout", "2", stdin=document(alice=entry(tokens)))
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "handed over, but not in use after 2 s" in ended.stderr
    waiting = folder(stack, "alice") / "import.json"
    assert stat.S_IMODE(waiting.stat().st_mode) == 0o600
    assert not (folder(stack, "alice") / "credential.json").exists()  # which is the operator's
    stack.start_operator()
    stack.wait_for_reason("alice", "Ready", "Available")
    assert not waiting.exists()


def test_an_object_that_no_operator_has_seen_is_given_nothing(stack: Stack) -> None:
    assert stack.operator.stop() == 0
    del stack.processes["operator"]
    stack.apply(stack.account("alice"))
    tokens = stack.simulator.issue_tokens(ALICE)
    ended = stack.command("import", "alice", "--timeout", "1", stdin=document(alice=entry(tokens)))
    assert (ended.returncode, "the operator has not seen it yet" in ended.stderr) == (1, True)
    assert not folder(stack, "alice").exists()


@pytest.mark.parametrize(
    ("arguments", "given", "code", "says"),
    [
        pytest.param(["import"], b"", 2, "give NAME or --all, but not both", id="nothing named"),
        pytest.param(["import", "alice", "--all"], b"", 2, "give NAME or --all, but not both", id="both"),
        pytest.param(["import", "--all", "--entry", "a"], b"", 2, "--entry goes with NAME", id="entry of all"),
        pytest.param(["import", "a", "--create"], b"", 2, "--create goes with --all and --provider", id="create one"),
        pytest.param(["import", "a", "--provider", "p"], b"", 2, "--provider goes with --create", id="provider alone"),
        pytest.param(["import", "alice"], b"{", 1, "not valid JSON: line 1, column 2", id="no JSON"),
        pytest.param(
            ["import", "nobody"],
            document(nobody=entry({"refresh_token": "r", "access_token": "a", "expires_in": 9})),
            1,
            "nobody: not imported: there is no OAuthAccount nobody in namespace",
            id="no such object",
        ),
        pytest.param(
            ["import", "alice"],
            document(alice={"refresh": "secret", "access": "secret"}),
            1,
            "alice: not imported: entry alice: it has no type",
            id="bad entry",
        ),
        pytest.param(["adopt", "nobody"], b"", 1, "there is no OAuthAccount nobody", id="adopt for nobody"),
    ],
)
def test_what_is_wrong_is_said_and_the_code_tells(
    stack: Stack, arguments: list[str], given: bytes, code: int, says: str
) -> None:
    ended = stack.command(*arguments, stdin=given)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert says in ended.stderr
    assert "secret" not in ended.stderr and "Traceback" not in ended.stderr


def test_a_workload_takes_no_credential(stack: Stack) -> None:
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")
    tokens = stack.simulator.issue_tokens(ALICE)
    ended = stack.command("import", "workload", stdin=document(workload=entry(tokens)))
    assert ended.returncode == 1
    assert "workload: not imported: its grant is WorkloadIdentity, which stores no credential" in ended.stderr


# --- import --all ----------------------------------------------------------------------------------------------------


def test_a_whole_file_is_imported_and_what_is_not_is_named(stack: Stack) -> None:
    alice, bob, carol = (stack.simulator.issue_tokens(who) for who in (ALICE, BOB, "carol@example.com"))
    for name in ("alice", "bob"):
        stack.apply(stack.account(name))
    stack.log_in("bob", BOB)
    before = stored(stack, "bob")
    given = document(alice=entry(alice), bob=entry(bob), carol=entry(carol), dora={"refresh": "secret"})
    ended = stack.command("import", "--all", stdin=given)
    assert ended.returncode == 1
    assert ended.stdout.startswith("alice: Available")
    assert "bob: skipped, because it is Ready" in ended.stderr
    assert "carol: there is no OAuthAccount of this name" in ended.stderr
    assert "dora: not imported: it has no type" in ended.stderr
    assert "secret" not in ended.stderr
    assert (stored(stack, "alice")["refresh_token"], stored(stack, "bob")) == (alice["refresh_token"], before)

    both = document(alice=entry(alice), bob=entry(bob))
    assert stack.command("import", "--all", "--replace", stdin=both).returncode == 0
    assert stored(stack, "bob")["refresh_token"] == bob["refresh_token"]


def test_manifests_of_missing_accounts_are_printed_and_nothing_is_created(stack: Stack) -> None:
    tokens = [stack.simulator.issue_tokens(who) for who in (ALICE, BOB, "carol@example.com")]
    given = {"true": entry(tokens[0]), "claude_max_1": entry(tokens[1]), "bob": entry(tokens[2])}
    stack.apply(stack.account("bob"))
    command = ("import", "--all", "--create", "--provider", "simulator")
    ended = stack.command(*command, stdin=json.dumps(given).encode())
    assert ended.returncode == 1
    assert "claude_max_1: cannot be an object's name" in ended.stderr
    assert "bob: Available" in ended.stderr  # standard output is for kubectl
    assert stack.kubectl("get", "oauthaccounts", "-o", "name").splitlines() == ["oauthaccount.oauthpool.dev/bob"]
    for secret in (token for pair in tokens for token in (pair["refresh_token"], pair["access_token"])):
        assert secret not in ended.stdout + ended.stderr

    stack.control_plane.apply(ended.stdout)
    del given["claude_max_1"]
    again = stack.command("import", "--all", stdin=json.dumps(given).encode())
    assert again.returncode == 0, again.stderr
    assert stored(stack, "true")["refresh_token"] == tokens[0]["refresh_token"]
    assert stack.get("true")["spec"]["provider"] == "simulator"


def test_a_provider_that_cannot_be_used_gets_no_manifests(stack: Stack) -> None:
    given = document(alice=entry(stack.simulator.issue_tokens(ALICE)))
    ended = stack.command("import", "--all", "--create", "--provider", "broken", stdin=given)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no provider broken that can be used; it knows loopback, simulator" in ended.stderr


# --- adopt -----------------------------------------------------------------------------------------------------------


def retain(stack: Stack, name: str = "alice", uid: str | None = None, **changes: str) -> str:
    """Delete the account so that its files stay; returns its UID."""
    stack.apply(stack.account(name, deletionPolicy="Retain"))
    stack.log_in(name, f"{name}@example.com")
    old = str(stack.get(name)["metadata"]["uid"])
    stack.kubectl("delete", "oauthaccount", name, "--timeout=20s")
    note = {
        "name": name,
        "namespace": stack.namespace,
        "provider": "simulator",
        "grant": "AuthorizationCode",
        "since": "2026-11-20T12:00:00Z",
        **changes,
    }
    (stack.state_dir / old / "retained.json").write_text(json.dumps(note))
    return old


def test_a_new_account_adopts_what_the_one_before_it_left(stack: Stack) -> None:
    old = retain(stack)
    left = json.loads((stack.state_dir / old / "credential.json").read_text())
    stack.apply(stack.account("alice"))
    ended = stack.command("adopt", "alice")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("alice: Available")
    assert stored(stack, "alice")["refresh_token"] == left["refresh_token"]
    assert stack.get("alice")["status"]["subject"] == ALICE
    wait_until(lambda: not (stack.state_dir / old).exists(), "the old folder to go")


def test_of_several_one_has_to_be_chosen(stack: Stack) -> None:
    first = retain(stack)
    second = retain(stack, since="2026-11-21T12:00:00Z")
    stack.apply(stack.account("alice"))
    ended = stack.command("adopt", "alice")
    assert (ended.returncode, ended.stdout) == (1, "")
    listed = f"{first} (since 2026-11-20T12:00:00Z), {second} (since 2026-11-21T12:00:00Z)"
    assert f"there is more than one for alice; say which with --from: {listed}" in ended.stderr
    assert stack.command("adopt", "alice", "--from", second).returncode == 0
    assert (stack.state_dir / first).exists()
    again = stack.command("adopt", "alice")
    assert again.returncode == 1 and "it is Ready" in again.stderr
    assert stack.command("adopt", "alice", "--from", first).returncode == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"name": "bob"}, "belongs to another account", id="another name"),
        pytest.param({"provider": "other"}, "provider other", id="another provider"),
        pytest.param({"grant": "DeviceCode"}, "grant DeviceCode", id="another grant"),
    ],
)
def test_what_is_of_another_account_is_not_adopted(stack: Stack, changes: dict[str, str], says: str) -> None:
    old = retain(stack, **changes)
    stack.apply(stack.account("alice"))
    ended = stack.command("adopt", "alice", "--from", old)
    assert (ended.returncode, says in ended.stderr) == (1, True), ended.stderr
    assert "nothing was left behind by an account alice" in stack.command("adopt", "alice").stderr
    assert (stack.state_dir / old / "credential.json").exists()


def test_the_folder_of_an_account_that_is_there_is_not_adopted(stack: Stack) -> None:
    stack.apply(stack.account("bob"))
    stack.log_in("bob", BOB)
    stack.apply(stack.account("alice"))
    for uid in (folder(stack, "bob").name, f"../{stack.state_dir.name}", os.sep):
        ended = stack.command("adopt", "alice", "--from", uid)
        assert (ended.returncode, f"no folder {uid} is without an account" in ended.stderr) == (1, True), ended.stderr
    assert stored(stack, "bob")["refresh_token"]


def test_a_dead_grant_is_not_adopted(stack: Stack) -> None:
    old = retain(stack)
    path = stack.state_dir / old / "credential.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dead": "GrantRevoked"}))
    stack.apply(stack.account("alice"))
    ended = stack.command("adopt", "alice")
    assert (ended.returncode, "its grant was dead (GrantRevoked)" in ended.stderr) == (1, True)


def orphan(stack: Stack, **changes: str) -> str:
    """Log alice in and take her finalizer off by hand while no operator runs, as a person does with a namespace that hangs."""
    stack.apply(stack.account("alice"))
    stack.log_in("alice", ALICE)
    uid = folder(stack, "alice").name
    assert stack.operator.stop() == 0
    del stack.processes["operator"]
    stack.kubectl("patch", "oauthaccount", "alice", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    stack.kubectl("delete", "oauthaccount", "alice", "--timeout=10s")
    path = stack.state_dir / uid / "account.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return uid


def test_a_folder_whose_account_is_gone_without_a_word_is_adopted(stack: Stack) -> None:
    old = orphan(stack)
    left = json.loads((stack.state_dir / old / "credential.json").read_text())
    assert not (stack.state_dir / old / "retained.json").exists()
    stack.start_operator()
    stack.apply(stack.account("alice"))
    ended = stack.command("adopt", "alice")
    assert ended.returncode == 0, ended.stderr
    assert stored(stack, "alice")["refresh_token"] == left["refresh_token"]
    wait_until(lambda: not (stack.state_dir / old).exists(), "the old folder to go")


def test_a_backup_that_was_restored_into_another_namespace_is_adopted_under_the_new_uid(stack: Stack) -> None:
    old = orphan(stack, namespace="where-it-was")
    stack.start_operator()
    stack.apply(stack.account("alice"))
    listed = stack.command("orphans")
    assert f"{old}: where-it-was/alice, provider simulator" in listed.stdout
    assert stack.command("adopt", "alice").returncode == 0
    assert old not in stack.command("orphans").stdout


def test_folders_that_nobody_owns_are_counted_listed_and_go_after_the_retention(stack: Stack) -> None:
    old, elsewhere = orphan(stack), "00000000-0000-4000-8000-00000000000e"
    (stack.state_dir / elsewhere).mkdir()
    theirs = {"name": "carol", "namespace": "other", "provider": "simulator", "grant": "AuthorizationCode"}
    (stack.state_dir / elsewhere / "account.json").write_text(json.dumps(theirs))
    note = stack.state_dir / old / "retained.json"
    listed = stack.command("orphans")
    assert listed.returncode == 0
    line = next(line for line in listed.stdout.splitlines() if old in line)
    assert f"{stack.namespace}/alice, provider simulator, grant AuthorizationCode; a credential; not noticed" in line

    stack.start_operator()
    stack.apply(stack.account("bob"))
    stack.log_in("bob", BOB)
    wait_until(note.exists, "the operator to note since when")
    assert f"folder {old}: no account owns it (it was alice's)" in stack.operator.output
    metrics = httpx2.get(f"{stack.metrics_url}/metrics").text
    assert float(metrics.partition("\npool_orphaned_folders ")[2].split()[0]) >= 2
    assert "kept since" in stack.command("orphans").stdout

    note.write_text(json.dumps(json.loads(note.read_text()) | {"since": "2026-01-01T00:00:00Z"}))
    (folder(stack, "bob") / "retained.json").write_text(note.read_text())  # as of an account that was restored
    assert stack.operator.stop() == 0
    stack.start_operator()
    wait_until(lambda: not (stack.state_dir / old).exists(), "the folder to go")
    assert stored(stack, "bob")["refresh_token"]
    assert not (folder(stack, "bob") / "retained.json").exists()
    assert (stack.state_dir / elsewhere).exists()  # another namespace's: perhaps it is the wrong volume
    assert not (stack.state_dir / elsewhere / "retained.json").exists()


def test_many_imports_ask_for_no_account_by_itself(control_plane: ControlPlane, stack: Stack, tmp_path: Path) -> None:
    names = [f"many-{number}" for number in range(6)]
    for name in names:
        stack.apply(stack.account(name))
    given = document(**{name: entry(stack.simulator.issue_tokens(f"{name}@example.com")) for name in names})
    with ApiRelay(control_plane.server, control_plane.tls).running() as relay:
        original = Path(stack.as_operator()["KUBECONFIG"])
        environment = {"KUBECONFIG": str(relay.kubeconfig(original, tmp_path / "kubeconfig"))}
        single = Fault(lambda request: request.method == "GET" and "/oauthaccounts/" in request.target)
        relay.faults = [single]
        ended = subprocess.run(
            [*stack.operator_command, "import", "--all"],
            input=given,
            capture_output=True,
            env=os.environ | environment,
            timeout=90,
            check=False,
        )
    assert (ended.returncode, ended.stdout.count(b": Available")) == (0, len(names)), ended.stderr
    assert single.met == []
