"""`completion`, and the program that kubectl asks: what could come next on the command line.

kubectl completes a plugin's arguments by running `kubectl_complete-oauthaccount` with them, and reads one suggestion a
line and a directive at the end, as Cobra writes them. The shells' own scripts for `kubectl-oauthaccount` ask the same
program.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Sequence

from kubectl_oauthaccount.errors import PluginError
from kubectl_oauthaccount.options import Commands, add_cluster_options, add_command

NO_FILES, FILES = 4, 0  # Cobra's ShellCompDirectiveNoFileComp, ShellCompDirectiveDefault

EXAMPLE = """\
  source <(kubectl oauthaccount completion bash)

`kubectl oauthaccount` itself needs no script: with kubectl's own completion set up, it works when
kubectl_complete-oauthaccount is on the PATH. These scripts are for typing kubectl-oauthaccount."""

SCRIPTS = {
    "bash": r"""_kubectl_oauthaccount() {
    local line lines=() directive
    mapfile -t lines < <(kubectl_complete-oauthaccount "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [[ ${#lines[@]} -gt 0 ]] || return
    directive=${lines[-1]}
    unset 'lines[-1]'
    COMPREPLY=()
    for line in "${lines[@]}"; do
        COMPREPLY+=("${line%%$'\t'*}")
    done
    [[ $directive == :4 ]] && compopt +o default
}
complete -o default -F _kubectl_oauthaccount kubectl-oauthaccount
""",
    "zsh": r"""#compdef kubectl-oauthaccount
_kubectl_oauthaccount() {
    local -a lines found
    lines=("${(@f)$(kubectl_complete-oauthaccount "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=("${(@)lines[1,-2]//:/\\:}")
    found=("${(@)found/$'\t'/:}")
    _describe 'kubectl oauthaccount' found
    [[ ${lines[-1]} == :4 ]] || _files
}
compdef _kubectl_oauthaccount kubectl-oauthaccount
""",
    "fish": r"""function __kubectl_oauthaccount
    set -l words (commandline -opc) (commandline -ct)
    set -l lines (kubectl_complete-oauthaccount $words[2..-1] 2>/dev/null)
    string match -v -r '^:\d+$' -- $lines
    test "$lines[-1]" = :0; and __fish_complete_path (commandline -ct)
end
complete -c kubectl-oauthaccount -f -a '(__kubectl_oauthaccount)'
""",
}


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "completion", "print a completion script for a shell", EXAMPLE, run)
    parser.add_argument("shell", metavar="SHELL", choices=sorted(SCRIPTS), help="bash, fish or zsh")


def run(options: argparse.Namespace) -> int:
    sys.stdout.write(SCRIPTS[options.shell])
    return 0


def suggest(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], int]:
    """What could stand for the last of `words`, each perhaps with a tab and its meaning; and the directive."""
    *before, started = words or [""]
    commands = commands_of(parser)
    command = next((word for word in before if word in commands), None)
    current = commands[command] if command else parser
    option = _option_waiting_for_value(current, before)
    if option is not None:
        found, directive = _values_of(option, before)
    elif started.startswith("-"):
        found, directive = _options_of(current), NO_FILES
    elif command is None:
        found, directive = [f"{name}\t{_help_of(parser, name)}" for name in commands], NO_FILES
    else:
        found, directive = _arguments_of(current, before[before.index(command) + 1 :], before), NO_FILES
    return [one for one in found if one.startswith(started)], directive


def answer(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """What kubectl reads. A cluster that does not answer has nothing to suggest."""
    found: list[str] = []
    directive = NO_FILES
    with contextlib.suppress(PluginError):
        found, directive = suggest(parser, words)
    return "".join(f"{line}\n" for line in [*found, f":{directive}"])


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _help_of(parser: argparse.ArgumentParser, command: str) -> str:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == command:
                    return choice.help or ""
    return ""


def _option_waiting_for_value(parser: argparse.ArgumentParser, before: Sequence[str]) -> argparse.Action | None:
    action = parser._option_string_actions.get(before[-1]) if before else None
    return action if action is not None and action.nargs is None else None


def _values_of(option: argparse.Action, before: Sequence[str]) -> tuple[list[str], int]:
    if option.choices is not None:
        return [str(choice) for choice in option.choices], NO_FILES
    if option.dest == "context":
        from kubectl_oauthaccount.kubeconfig import contexts

        return contexts(_cluster_options(before[:-1]).kubeconfig), NO_FILES
    return [], FILES if option.dest in ("kubeconfig", "file") else NO_FILES


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    shown = [action for action in parser._actions if action.option_strings]
    return [f"{action.option_strings[-1]}\t{(action.help or '').replace('%%', '%')}" for action in shown]


def _arguments_of(parser: argparse.ArgumentParser, given: Sequence[str], words: Sequence[str]) -> list[str]:
    """Account names, for as many as the command takes; a choice, where there is one."""
    positional = next((action for action in parser._actions if not action.option_strings), None)
    if positional is None:
        return []
    named = _positionals_in(parser, given)
    if positional.choices is not None:
        return [] if named else [str(choice) for choice in positional.choices]
    if named and positional.nargs not in ("*", "+"):
        return []
    options = _cluster_options(words)
    from kubectl_oauthaccount.kubeconfig import connect

    cluster = connect(options.kubeconfig, options.context, options.namespace)
    return [f"{one.name}\t{one.status_word}" for one in cluster.accounts() if one.name not in named]


def _positionals_in(parser: argparse.ArgumentParser, given: Sequence[str]) -> list[str]:
    found = []
    is_value = False
    for word in given:
        if not is_value and not word.startswith("-"):
            found.append(word)
        is_value = not is_value and _option_waiting_for_value(parser, [word]) is not None
    return found


def _cluster_options(words: Iterable[str]) -> argparse.Namespace:
    """-n, --context and --kubeconfig, wherever they stand."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_cluster_options(parser)
    parser.set_defaults(namespace=None, context=None, kubeconfig=None)
    with contextlib.suppress(argparse.ArgumentError):
        return parser.parse_known_args(list(words))[0]
    return argparse.Namespace(namespace=None, context=None, kubeconfig=None)
