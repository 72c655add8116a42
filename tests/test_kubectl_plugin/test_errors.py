"""What a person reads when something is in the way: one line that says what to do. All answers are a real API server's."""

import base64
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from urllib3.util.ssl_ import create_urllib3_context

from kubectl_oauthaccount import cluster, kubeconfig
from kubectl_oauthaccount.cli import cli
from kubectl_oauthaccount.options import ClusterOptions
from tests.support.control_plane import ControlPlane, wait_until
from tests.test_kubectl_plugin.conftest import Objects, Plugin


def edited(plugin: Plugin, folder: Path, **changes: str) -> Path:
    """The plugin's kubeconfig with another server, CA or token."""
    config = yaml.safe_load(plugin.kubeconfig.read_text())
    where = {"server": config["clusters"][0]["cluster"], "certificate-authority-data": config["clusters"][0]["cluster"]}
    for name, value in changes.items():
        where.get(name.replace("_", "-"), config["users"][0]["user"])[name.replace("_", "-")] = value
    path = folder / "edited"
    path.write_text(yaml.safe_dump(config))
    return path


def test_no_kubeconfig(plugin: Plugin, tmp_path: Path) -> None:
    plugin.kubeconfig = tmp_path / "none"
    outcome = plugin("top")
    assert outcome.code == 1
    assert outcome.err == f"error: no kubeconfig at {tmp_path}/none: name one with --kubeconfig or KUBECONFIG\n"


def test_a_kubeconfig_that_is_none(plugin: Plugin, tmp_path: Path) -> None:
    plugin.kubeconfig = tmp_path / "bad"
    for text in ("{", "apiVersion: v1", "", "[1]"):
        plugin.kubeconfig.write_text(text)
        outcome = plugin("top")
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: the kubeconfig {tmp_path}/bad cannot be used: "), outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_a_context_that_is_not_there(plugin: Plugin) -> None:
    outcome = plugin("top", "--context", "production")
    assert (outcome.code, "has no context 'production'; there are: control-plane" in outcome.err) == (1, True)


def test_the_namespace_is_the_context_s_unless_named(control_plane: ControlPlane, objects: Objects) -> None:
    objects.create("alice")
    command = [str(Path(sys.executable).with_name("kubectl-oauthaccount")), "top"]
    for options, expected in (
        ((), "default  0 accounts"),
        (("-n", objects.namespace), f"{objects.namespace}  1 account"),
    ):
        environment = {"KUBECONFIG": str(control_plane.kubeconfig)}
        printed = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True)
        assert printed.stdout.startswith(expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("alice", "bob"), "no account 'alcie' in namespace {}; did you mean alice?"),
        (("bob", "carol"), "no account 'alcie' in namespace {}; there are: bob, carol"),
        ((), "no account 'alcie' in namespace {}, which has none at all: -n names another namespace"),
    ],
    ids=["near", "others", "none"],
)
def test_no_such_account(objects: Objects, plugin: Plugin, names: tuple[str, ...], expected: str) -> None:
    for name in names:
        objects.create(name)
    outcome = plugin("describe", "alcie")
    assert (outcome.code, outcome.err) == (1, f"error: {expected.format(plugin.namespace)}\n")


def test_what_one_may_not_do(control_plane: ControlPlane, objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    plugin.kubeconfig = control_plane.kubeconfig_for(plugin.namespace, "default")
    outcome = plugin("top")
    resource = f"oauthaccounts.oauthpool.dev in namespace {plugin.namespace}"
    assert (outcome.code, outcome.err) == (1, f"error: you may not list {resource}: ask for a Role with that verb\n")
    assert f"you may not get {resource}" in plugin("suspend", "alice").err


def test_one_may_look_but_not_watch(control_plane: ControlPlane, objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    kubectl = ("-n", plugin.namespace, "create")
    verbs = "--verb=get,list,patch"
    control_plane.kubectl(*kubectl, "role", "half", verbs, "--resource=oauthaccounts.oauthpool.dev")
    control_plane.kubectl(
        *kubectl, "rolebinding", "half", "--role=half", f"--serviceaccount={plugin.namespace}:default"
    )
    plugin.kubeconfig = control_plane.kubeconfig_for(plugin.namespace, "default")
    wait_until(lambda: plugin("top").code == 0, "the Role")
    outcome = plugin("clear", "alice")
    assert outcome.code == 1
    assert f"you may not watch oauthaccounts.oauthpool.dev in namespace {plugin.namespace}" in outcome.err


def test_no_crd(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "VERSION", "v9")
    outcome = plugin("top")
    assert outcome.code == 1
    assert "this cluster has no oauthaccounts.oauthpool.dev: install the CRD (kubectl apply -k crds/)" in outcome.err


def test_an_api_server_that_is_not_there(plugin: Plugin, tmp_path: Path) -> None:
    plugin.kubeconfig = edited(plugin, tmp_path, server="https://127.0.0.1:1")
    outcome = plugin("top")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: the API server https://127.0.0.1:1 cannot be reached")
    assert len(outcome.err.splitlines()) == 1


def test_credentials_that_are_not_accepted(plugin: Plugin, tmp_path: Path) -> None:
    plugin.kubeconfig = edited(plugin, tmp_path, token="an-old-token")
    outcome = plugin("top")
    assert (outcome.code, "does not accept your credentials (401)" in outcome.err) == (1, True)
    assert "an-old-token" not in outcome.err


def test_a_cluster_s_own_authority_is_trusted_as_kubectl_trusts_it(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_newer_python() -> ssl.SSLContext:
        context = create_urllib3_context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(kubeconfig, "create_urllib3_context", of_newer_python)
    connected = kubeconfig.connect(ClusterOptions(kubeconfig=str(plugin.kubeconfig), namespace=plugin.namespace))
    context = connected.client.rest_client.pool_manager.connection_pool_kw["ssl_context"]
    assert connected.accounts() == []
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_certificate_that_is_not_trusted(control_plane: ControlPlane, plugin: Plugin, tmp_path: Path) -> None:
    from tests.support.control_plane.certificates import write_certificates

    write_certificates(tmp_path)  # of another cluster
    other = base64.b64encode((tmp_path / "ca.crt").read_bytes()).decode()
    plugin.kubeconfig = edited(plugin, tmp_path, certificate_authority_data=other)
    outcome = plugin("top")
    assert outcome.code == 1
    assert (
        outcome.err
        == f"error: the certificate of {control_plane.server} is not one that this kubeconfig trusts: check its CA\n"
    )


@pytest.mark.parametrize("command", list(cli.commands))
def test_every_command_has_help_with_an_example(plugin: Plugin, command: str) -> None:
    outcome = plugin(command, "--help")
    assert outcome.code == 0
    assert f"kubectl oauthaccount {command}" in outcome.out[outcome.out.index("Examples:") :]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("dance",), "No such command 'dance': see kubectl oauthaccount --help", id="no such command"),
        pytest.param(("login",), "Missing argument 'NAME': see kubectl oauthaccount login --help", id="no name"),
        pytest.param(("login", "a", "--timeout", "soon"), "'--timeout': 'soon' is not a duration", id="no duration"),
        pytest.param(("top", "-o", "x"), "'--output': 'x' is not 'json'", id="no such output"),
        pytest.param(("top", "--nope"), "'--nope'", id="no such option"),
        pytest.param(("top", "alice"), "unexpected extra argument", id="one name too many"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line_that_says_where(
    plugin: Plugin, arguments: tuple[str, ...], says: str
) -> None:
    outcome = plugin(*arguments)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert outcome.err.startswith("error: ")
    assert says in outcome.err
    assert "--help" in outcome.err


def test_without_a_command_the_help_is_shown_and_it_is_wrong_usage(plugin: Plugin) -> None:
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("kubectl-oauthaccount"))], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Usage: kubectl oauthaccount")


def test_a_reader_that_has_enough_is_no_error(objects: Objects, plugin: Plugin) -> None:
    """`… | head -1`"""
    for number in range(3):
        objects.create(f"account-{number}")
    program = Path(sys.executable).with_name("kubectl-oauthaccount")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [str(program), "--kubeconfig", str(plugin.kubeconfig), "-n", plugin.namespace, "top"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")
