"""The options that kubectl has, too: the same names, the same meaning. All answers are a real API server's."""

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_oauthaccount.instants import parse_seconds
from tests.support.control_plane import ControlPlane, wait_until
from tests.test_kubectl_plugin.conftest import Objects, Plugin
from tests.test_kubectl_plugin.exec_server import exec_server


def kubeconfig(plugin: Plugin, folder: Path, **changes: Any) -> Path:
    """The plugin's kubeconfig, with a cluster that nobody serves and a user whom nobody knows, and with these changes."""
    config = yaml.safe_load(plugin.kubeconfig.read_text())
    config["clusters"].append({"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}})
    config["users"].append({"name": "nobody", "user": {"token": "not-a-token"}})
    path = folder / "edited"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def context_of(name: str, cluster: str, user: str) -> dict[str, Any]:
    return {"name": name, "context": {"cluster": cluster, "user": user}}


@pytest.fixture
def names(plugin: Plugin) -> tuple[str, str]:
    """How the kubeconfig calls the cluster that is there, and the admin."""
    config = yaml.safe_load(plugin.kubeconfig.read_text())
    return config["clusters"][0]["name"], config["users"][0]["name"]


def test_all_namespaces_and_labels_say_which_accounts(control_plane: ControlPlane, plugin: Plugin) -> None:
    here, there = Objects(control_plane, plugin.namespace), Objects(control_plane, control_plane.namespace())
    here.create("alice")
    here.create("bob")
    there.create("alice")
    for objects in (here, there):
        objects.set_metadata("alice", {"labels": {"tier": "gold"}})
    assert [row["name"] for row in plugin("top", "--once", "-o", "json", "-l", "tier=gold").json] == ["alice"]
    found = plugin("top", "--once", "-o", "json", "--selector", "tier=gold", "--all-namespaces").json
    assert {(row["namespace"], row["name"]) for row in found} >= {
        (plugin.namespace, "alice"),
        (there.namespace, "alice"),
    }
    # of all accounts there are, the table may be too wide for whole names of namespaces
    assert there.namespace in plugin("top", "--once", "-A", "-l", "tier=gold").out


def test_who_may_not_look_at_all_namespaces_is_told_what_to_ask_for(plugin: Plugin) -> None:
    outcome = plugin("top", "-A", "--as", "eve")
    expected = (
        "you may not list oauthaccounts.oauthpool.dev in all namespaces as eve: ask for a ClusterRole with that verb"
    )
    assert (outcome.code, outcome.err) == (1, f"error: {expected}\n")


def test_somebody_else_s_permissions_can_be_tried_with_as_and_as_group(
    control_plane: ControlPlane, objects: Objects, plugin: Plugin
) -> None:
    objects.create("alice")
    outcome = plugin("top", "--as", "eve")
    resource = f"oauthaccounts.oauthpool.dev in namespace {plugin.namespace}"
    assert (outcome.code, f"you may not list {resource} as eve" in outcome.err) == (1, True)
    create = ("-n", plugin.namespace, "create")
    control_plane.kubectl(*create, "role", "look", "--verb=get,list", "--resource=oauthaccounts.oauthpool.dev")
    control_plane.kubectl(*create, "rolebinding", "look", "--role=look", "--group=on-call")
    # of the second group: every one is sent
    wait_until(
        lambda: plugin("top", "--as=eve", "--as-group=staff", "--as-group=on-call").code == 0, "the Role to be in force"
    )
    assert plugin("suspend", "alice", "--as=eve", "--as-group=on-call").code == 1
    assert objects.get("alice")["spec"]["suspend"] is False


def test_whom_the_kubeconfig_s_user_acts_as_is_kept_to(plugin: Plugin, tmp_path: Path, names: tuple[str, str]) -> None:
    config = yaml.safe_load(plugin.kubeconfig.read_text())
    config["users"][0]["user"] |= {"as": "eve", "as-groups": ["staff"]}
    plugin.kubeconfig = tmp_path / "acting"
    plugin.kubeconfig.write_text(yaml.safe_dump(config))
    assert "as eve" in plugin("top").err
    assert "as mallory" in plugin("top", "--as", "mallory").err


def test_a_group_without_a_user_is_refused(plugin: Plugin) -> None:
    outcome = plugin("top", "--as-group", "staff")
    assert (outcome.code, outcome.err) == (2, "error: --as-group goes with --as: name the user, too\n")


def test_nothing_is_run_in_a_pod_as_oneself_where_somebody_else_was_named(plugin: Plugin, tmp_path: Path) -> None:
    with exec_server("cat") as server:
        plugin.kubeconfig = server.kubeconfig(tmp_path)
        outcome = plugin("import", "alice", "--as", "eve", stdin="{}")
    assert (outcome.code, server.commands) == (1, [])
    assert "kubectl --as=… -n" in outcome.err and "oauth-pool-operator import alice < FILE" in outcome.err


def test_cluster_user_and_context_are_chosen_one_by_one(plugin: Plugin, tmp_path: Path, names: tuple[str, str]) -> None:
    cluster, user = names
    contexts = [context_of("lost", "nowhere", "nobody"), context_of("unknown", cluster, "nobody")]
    plugin.kubeconfig = kubeconfig(plugin, tmp_path, contexts=contexts, **{"current-context": "lost"})
    assert "https://127.0.0.1:1 cannot be reached" in plugin("top").err
    assert "(401)" in plugin("top", "--cluster", cluster).err
    assert "(401)" in plugin("top", "--context", "unknown").err
    assert plugin("top", "--cluster", cluster, "--user", user).code == 0
    assert plugin("top", "--context", "unknown", "--user", user).code == 0


def test_the_server_s_address_can_be_given(
    control_plane: ControlPlane, plugin: Plugin, tmp_path: Path, names: tuple[str, str]
) -> None:
    assert "https://127.0.0.1:1 cannot be reached" in plugin("top", "-s", "https://127.0.0.1:1").err
    config = yaml.safe_load(plugin.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    plugin.kubeconfig = tmp_path / "moved"
    plugin.kubeconfig.write_text(yaml.safe_dump(config))
    assert plugin("top", "--server", control_plane.server).code == 0


def test_a_cluster_or_user_that_is_not_there_is_named_with_those_that_are(
    plugin: Plugin, names: tuple[str, str]
) -> None:
    for option, there in (("cluster", names[0]), ("user", names[1])):
        outcome = plugin("top", f"--{option}", "production")
        assert (outcome.code, f"has no {option} 'production'; there are: {there}" in outcome.err) == (1, True)


def test_the_options_leave_the_kubeconfig_as_it_is(plugin: Plugin, names: tuple[str, str]) -> None:
    before = plugin.kubeconfig.read_text()
    plugin("top", "--user", names[1], "--cluster", names[0], "--server", "https://127.0.0.1:1")
    assert plugin.kubeconfig.read_text() == before


def test_options_stand_before_the_command_or_after_it_and_the_last_counts(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    assert "1 account" in plugin("top").out  # the fixture gives -n before it
    assert "0 accounts" in plugin("top", "-n", "default").out


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_the_person_says(plugin: Plugin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        outcome = plugin("top", "--server", server, "--request-timeout", "250ms")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: the API server {server} did not answer in 0.25 s: ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("600", 600), ("0", 0), ("0.5", 0.5)),
        *(("250ms", 0.25), ("1h0m1s", 3601)),
    ],
)
def test_durations_are_those_of_kubectl_and_plain_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 m", "m", "-1s", "1d", "1h-30m", "1e3"])
def test_what_is_no_duration_is_refused_with_an_example(plugin: Plugin, text: str) -> None:
    outcome = plugin("clear", "alice", f"--timeout={text}")
    assert outcome.code == 2
    assert "is not a duration such as 90s, 10m or 1h30m" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="nothing"),
        pytest.param(("alice", "--all"), id="names and all"),
        pytest.param(("alice", "-l", "a=b"), id="names and labels"),
        pytest.param(("--all", "-l", "a=b"), id="all and labels"),
        pytest.param(("alice", "-A"), id="a name in all namespaces"),
        pytest.param(("-A",), id="namespaces alone"),
    ],
)
@pytest.mark.parametrize("command", ["clear", "refresh", "suspend", "resume"])
def test_accounts_are_named_or_all_or_by_label(plugin: Plugin, command: str, arguments: tuple[str, ...]) -> None:
    outcome = plugin(command, *arguments)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)


def test_accounts_of_all_namespaces_are_changed_by_label(control_plane: ControlPlane, plugin: Plugin) -> None:
    here, there = Objects(control_plane, plugin.namespace), Objects(control_plane, control_plane.namespace())
    for objects in (here, there):
        objects.create("alice")
        objects.create("bob")
        objects.set_metadata("alice", {"labels": {"team": plugin.namespace}})
    assert plugin("suspend", "-l", f"team={plugin.namespace}", "-A").out == "alice suspended\nalice suspended\n"
    for objects in (here, there):
        assert [objects.get(name)["spec"]["suspend"] for name in ("alice", "bob")] == [True, False]
    assert plugin("suspend", "--all").out == "alice is suspended already\nbob suspended\n"
    assert there.get("bob")["spec"]["suspend"] is False
    assert plugin("resume", "-l", "team=nobody").out == "there are no such accounts\n"
