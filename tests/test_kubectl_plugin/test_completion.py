"""Completion, as the shells see it: through kubectl itself, and through the scripts for bash, zsh and fish.

The test of a shell that is not there is left out.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubectl_oauthaccount.cli import cli
from kubectl_oauthaccount.completion import for_kubectl, suggest
from tests.support.pseudo_terminal import on_terminal
from tests.support.tools import program
from tests.test_kubectl_plugin.conftest import Objects, Plugin, condition

BIN = Path(sys.executable).parent


def words_of(plugin: Plugin, *words: str) -> list[str]:
    found = suggest(cli, ["--kubeconfig", str(plugin.kubeconfig), "-n", plugin.namespace, *words])
    return [str(item.value) for item in found]


@pytest.fixture
def environment(plugin: Plugin) -> dict[str, str]:
    return os.environ | {"KUBECONFIG": str(plugin.kubeconfig), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def test_kubectl_completes_the_names_of_accounts(objects: Objects, plugin: Plugin, environment: dict[str, str]) -> None:
    objects.create("alice", {"conditions": [condition("Ready", "False", "LoginRequired")]})
    objects.create("bob")
    kubectl = str(objects.plane.kubectl_path)
    command = [kubectl, "__complete", "oauthaccount", "-n", plugin.namespace, "login", "a"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout == "alice\tLoginRequired\n:4\n"


def test_bash_completes_with_the_script(objects: Objects, plugin: Plugin, environment: dict[str, str]) -> None:
    objects.create("alice")
    script = (
        f"source <({BIN}/kubectl-oauthaccount completion bash)\n"
        f"COMP_WORDS=(kubectl-oauthaccount -n {plugin.namespace} describe al) COMP_CWORD=4\n"
        "_kubectl_oauthaccount_completion kubectl-oauthaccount 2>/dev/null\n"  # compopt complains outside of a real completion
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
        "complete -p kubectl-oauthaccount\n"
    )
    printed = subprocess.run(
        [program("bash"), "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines() == [
        "alice",
        "complete -o nosort -F _kubectl_oauthaccount_completion kubectl-oauthaccount",
    ]


def test_zsh_completes_with_the_script(
    objects: Objects, plugin: Plugin, environment: dict[str, str], tmp_path: Path
) -> None:
    objects.create("alice", {"conditions": [condition("Ready", "False", "LoginRequired")]})
    objects.create("alex")
    environment |= {"HOME": str(tmp_path), "PS1": "> "}
    with on_terminal(program("zsh"), "-f", "-i", environment=environment) as terminal:
        terminal.type("autoload -U compinit; compinit -u -D; source <(kubectl-oauthaccount completion zsh)\n")
        # completed like the plugin, and shows what became of the line
        terminal.type('show() { echo "<$*>" }; compdef _kubectl_oauthaccount_completion show\n')
        terminal.type(f"show -n {plugin.namespace} describe al\t")
        terminal.wait_for("-- LoginRequired")  # two, with what they are
        terminal.type("i\t\n")
        terminal.wait_for(f"<-n {plugin.namespace} describe alice>")
        (tmp_path / "a-file").touch()
        terminal.type("cd\n")
        terminal.type("show import alice -f a-f\t\n")
        terminal.wait_for("<import alice -f a-file>")


def test_fish_completes_with_the_script(
    objects: Objects, plugin: Plugin, environment: dict[str, str], tmp_path: Path
) -> None:
    objects.create("alice", {"conditions": [condition("Ready", "False", "LoginRequired")]})
    (tmp_path / "a-file").touch()
    script = (
        "kubectl-oauthaccount completion fish | source\n"
        f'complete -C "kubectl-oauthaccount -n {plugin.namespace} describe al"\n'
        'complete -C "kubectl-oauthaccount import alice -f a-f"\n'
        'complete -C "kubectl-oauthaccount import alice a-f"\n'  # no file is wanted here
    )
    printed = subprocess.run(
        [program("fish"), "-c", script],
        env=environment | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.splitlines() == ["alice\tLoginRequired", "a-file"]


def test_commands_options_and_values_are_suggested(objects: Objects, plugin: Plugin) -> None:
    for name in ("alice", "bob"):
        objects.create(name)
    assert words_of(plugin, "s") == ["suspend"]
    assert words_of(plugin, "log") == ["login", "logout"]
    assert words_of(plugin, "login", "--no") == ["--no-browser"]
    assert words_of(plugin, "top", "--once", "-o", "") == ["json"]
    assert words_of(plugin, "completion", "") == ["bash", "fish", "zsh"]
    assert words_of(plugin, "top", "--context", "") == ["control-plane"]
    assert words_of(plugin, "top", "--cluster", "con") == ["control-plane"]
    assert words_of(plugin, "--user", "") == ["control-plane"]
    # several names, none of them twice; one where there can be only one
    assert words_of(plugin, "suspend", "bob", "") == ["alice"]
    assert words_of(plugin, "login", "--timeout", "5m", "") == ["alice", "bob"]
    assert words_of(plugin, "login", "bob", "") == []


def test_files_are_completed_where_a_file_is_wanted() -> None:
    assert for_kubectl(cli, ["import", "alice", "-f", ""]) == ":0\n"
    assert for_kubectl(cli, ["import", "alice", "--entry", ""]) == ":4\n"


def test_without_a_cluster_there_is_nothing_to_suggest(tmp_path: Path) -> None:
    program = str(BIN / "kubectl_complete-oauthaccount")
    environment = {"KUBECONFIG": str(tmp_path / "none")}
    printed = subprocess.run([program, "login", ""], env=environment, capture_output=True, text=True, check=True)
    assert (printed.stdout, printed.stderr) == (":4\n", "")
