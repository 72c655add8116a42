"""`import` and `adopt` give an account an existing credential; `orphans` lists those that `adopt` can take.

Each runs the operator's command of that name in its pod, through exec: only the operator may read and store credentials. That
command's output and exit code are this command's. A credential is read here and goes into its standard input.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kubectl_oauthaccount.errors import UsageError
from kubectl_oauthaccount.names import OPERATOR_CONTAINER, OPERATOR_PROGRAM
from kubectl_oauthaccount.options import ClusterOptions, command, name, name_completion, pod, session, timeout

LARGEST_MIB = 4  # the operator takes no more
LARGEST_BYTES = LARGEST_MIB * 1024 * 1024

IMPORT_EXAMPLES = """\
kubectl oauthaccount import claude-1 -f ~/.config/anthropic/credentials/default.json
kubectl oauthaccount import claude-1 --entry main -f credentials.json   # one of several in the file
kubectl oauthaccount import --all -f - < credentials.json               # each into the account of its name
kubectl oauthaccount import --all --create --provider anthropic -f credentials.json | kubectl apply -f -"""

ADOPT_EXAMPLES = """\
kubectl oauthaccount adopt claude-1
kubectl oauthaccount adopt claude-1 --from 6f1c1c9e-…   # one of several of that name"""

ORPHANS_EXAMPLES = """\
kubectl oauthaccount orphans"""


@command("import", "hand an existing credential to the operator", IMPORT_EXAMPLES)
@click.argument("name", metavar="[NAME]", required=False, shell_complete=name_completion, help="the account")
@click.option("--all", "everything", is_flag=True, help="every entry of the file, into the account of its name")
@click.option("-f", "--file", type=click.Path(), default="-", help="the file (default -, standard input)")
@click.option("--entry", metavar="ID", help="which entry of a file that has several")
@click.option("--replace", is_flag=True, help="with --all: also for accounts that are Ready")
@click.option("--create", is_flag=True, help="with --all: print manifests of accounts that are missing")
@click.option("--provider", metavar="P", help="with --create: their provider")
@timeout(None, "how long to wait for the accounts to be in use (default: the operator's, 60s)")
@pod
def import_(
    options: ClusterOptions,
    name: str | None,
    everything: bool,
    file: str,
    entry: str | None,
    replace: bool,
    create: bool,
    provider: str | None,
    timeout: float | None,
    pod: str | None,
) -> int:
    if (name is not None) == everything:
        raise UsageError("name one account, or give --all")
    if everything and entry is not None:
        raise UsageError("--entry is for one account, not for --all")
    if create is not (provider is not None) or (create and not everything):
        raise UsageError("--all, --create and --provider go together")
    words = ["import", "--all" if name is None else name]
    words += ["--entry", entry] if entry is not None else []
    words += ["--replace"] if replace else []
    words += ["--create", "--provider", provider] if provider is not None else []
    return _run(options, name, words, timeout, pod, _read(file))


@command("adopt", "give an account the credential of a deleted one", ADOPT_EXAMPLES)
@name
@click.option("--from", "uid", metavar="UID", help="the deleted one's UID (default: the only one there is)")
@timeout(None, "how long to wait for the account to be in use (default: the operator's, 60s)")
@pod
def adopt(options: ClusterOptions, name: str, uid: str | None, timeout: float | None, pod: str | None) -> int:
    words = ["adopt", name, *(["--from", uid] if uid is not None else [])]
    return _run(options, name, words, timeout, pod, b"")


@command("orphans", "list the credentials of deleted accounts, for adopt", ORPHANS_EXAMPLES)
@pod
def orphans(options: ClusterOptions, pod: str | None) -> int:
    return _run(options, None, ["orphans"], None, pod, b"")


def _run(
    options: ClusterOptions, name: str | None, words: list[str], timeout: float | None, pod: str | None, given: bytes
) -> int:
    """The operator's command in its pod. No part of a credential is in its words."""
    command = [OPERATOR_PROGRAM, *words, *(["--timeout", f"{timeout:g}"] if timeout is not None else [])]
    with session(options) as (cluster, _):
        from kubectl_oauthaccount.operator_pod import find_pod, run_in_pod

        if name is not None:
            cluster.account(name)  # for its message, should the name be wrong
        out, err = sys.stdout.buffer, sys.stderr.buffer
        return run_in_pod(cluster, pod or find_pod(cluster), OPERATOR_CONTAINER, command, given, out=out, err=err)


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
        raise UsageError("there is no credential: the input is empty")
    if len(given) > LARGEST_BYTES:
        raise UsageError(f"this is not a credential: it is larger than {LARGEST_MIB} MiB")
    return given
