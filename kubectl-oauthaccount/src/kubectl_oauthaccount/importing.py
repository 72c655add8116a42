"""`import`: hands an existing credential to the operator, which alone may store it.

It is read here and goes through exec into the standard input of `oauth-pool-operator import` in the operator's pod. What
that prints, and its exit code, are this command's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kubectl_oauthaccount.errors import UsageError
from kubectl_oauthaccount.names import OPERATOR_CONTAINER, OPERATOR_PROGRAM
from kubectl_oauthaccount.options import Commands, add_command, session

LARGEST_BYTES = 1024 * 1024

EXAMPLE = """\
  kubectl oauthaccount import claude-1 -f ~/.config/anthropic/credentials/default.json
  kubectl oauthaccount import claude-1 --entry main -f credentials.json   # one of several in the file
  kubectl oauthaccount import --all -f - < credentials.json               # each into the account of its name
  kubectl oauthaccount import --all --create --provider anthropic -f credentials.json | kubectl apply -f -"""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "import", "hand an existing credential to the operator", EXAMPLE, run)
    parser.add_argument("name", metavar="NAME", nargs="?", help="the account")
    parser.add_argument("--all", action="store_true", help="every entry of the file, into the account of its name")
    parser.add_argument("-f", "--file", default="-", metavar="FILE", help="the file (default -, standard input)")
    parser.add_argument("--entry", metavar="ID", help="which entry of a file that has several")
    parser.add_argument("--replace", action="store_true", help="with --all: also for accounts that are Ready")
    parser.add_argument(
        "--create", action="store_true", help="with --all: print manifests of accounts that are missing"
    )
    parser.add_argument("--provider", metavar="P", help="with --create: their provider")
    parser.add_argument("--pod", help="the operator's pod (default: found by its label)")


def run(options: argparse.Namespace) -> int:
    if (options.name is not None) == options.all:
        raise UsageError("name one account, or give --all")
    if options.all and options.entry is not None:
        raise UsageError("--entry is for one account, not for --all")
    if options.create is not (options.provider is not None) or (options.create and not options.all):
        raise UsageError("--all, --create and --provider go together")
    given = _read(options.file)
    from kubectl_oauthaccount.operator_pod import find_pod, run_in_pod

    with session(options) as (cluster, _):
        if options.name is not None:
            cluster.account(options.name)  # for its message, should the name be wrong
        pod = options.pod or find_pod(cluster)
        return run_in_pod(
            cluster, pod, OPERATOR_CONTAINER, command_for(options), given, out=sys.stdout.buffer, err=sys.stderr.buffer
        )


def command_for(options: argparse.Namespace) -> list[str]:
    """What runs in the pod. No part of the credential is in it."""
    command = [OPERATOR_PROGRAM, "import", "--all" if options.all else options.name]
    if options.entry is not None:
        command += ["--entry", options.entry]
    if options.replace:
        command.append("--replace")
    if options.create:
        command += ["--create", "--provider", options.provider]
    return command


def _read(file: str) -> bytes:
    if file == "-" and sys.stdin.isatty():
        raise UsageError("standard input is a terminal: name the file with -f, or pipe it in")
    try:
        if file == "-":
            given = sys.stdin.buffer.read(LARGEST_BYTES + 1)
        else:
            with Path(file).expanduser().open("rb") as opened:
                given = opened.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if not given.strip():
        raise UsageError("there is no credential: what was given is empty")
    if len(given) > LARGEST_BYTES:
        raise UsageError("that is no credential: it is larger than 1 MiB")
    return given
