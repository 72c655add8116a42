"""`completion`, and the program that kubectl asks: what could come next on the command line.

kubectl completes a plugin's arguments by running `kubectl_complete-oauthaccount` with them, and reads one suggestion a
line and a directive at the end, as Cobra writes them. The scripts for shells are click's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from kubectl_oauthaccount.options import ClusterOptions, command

PROGRAM = "kubectl-oauthaccount"
COMPLETE_VARIABLE = "_KUBECTL_OAUTHACCOUNT_COMPLETE"
SHELLS = ("bash", "fish", "zsh")
NO_FILES, FILES = 4, 0  # Cobra's ShellCompDirectiveNoFileComp, ShellCompDirectiveDefault

EXAMPLES = """\
source <(kubectl oauthaccount completion bash)

`kubectl oauthaccount` itself needs no script: with kubectl's own completion set up, it works when
kubectl_complete-oauthaccount is on the PATH. These scripts are for typing kubectl-oauthaccount."""


@command("completion", "print a completion script for a shell", EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL", help="bash, fish or zsh")
@click.pass_context
def completion(ctx: click.Context, _: ClusterOptions, shell: str) -> None:
    writer = get_completion_class(shell)
    assert writer is not None
    sys.stdout.write(writer(ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source())


def suggest(cli: click.Command, words: Sequence[str]) -> list[CompletionItem]:
    """What could stand for the last of `words`. A cluster that does not answer has nothing to suggest."""
    *before, started = words or [""]
    return ShellComplete(cli, {}, PROGRAM, COMPLETE_VARIABLE).get_completions(before, started)


def for_kubectl(cli: click.Command, words: Sequence[str]) -> str:
    """What kubectl reads; files it completes by itself, where we say that one is wanted."""
    found = suggest(cli, words)
    directive = FILES if any(item.type == "file" for item in found) else NO_FILES
    lines = [f"{item.value}\t{item.help}" if item.help else item.value for item in found if item.type == "plain"]
    return "".join(f"{line}\n" for line in [*lines, f":{directive}"])
