"""The commands for a running operator's pod, `import`, `adopt` and `orphans`: their arguments, standard input, exit codes.

Exit codes: 0 all done, 1 something was not, 2 wrong usage, 3 handed over, but not in use in time.
"""

import argparse
import sys

import httpx2

from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.errors import StoreFailed
from oauth_pool_operator.handover.credential_files import CredentialFileInvalid, parse, shown
from oauth_pool_operator.handover.handover import FAILED, Handover, NotDone, say

LARGEST_FILE = 4 * 1024 * 1024


def add_to(parser: argparse.ArgumentParser) -> None:
    """The commands' own arguments; without a command, the operator runs."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands for a running operator's pod")
    importing = commands.add_parser(
        "import",
        help="import credentials from standard input into accounts",
        description="Reads credentials on standard input: an entry or a whole credentials.json, or an SDK profile's file.",
    )
    importing.add_argument("name", metavar="NAME", nargs="?", help="the account")
    importing.add_argument("--entry", metavar="ID", help="which entry (default: the one of that name, or the only one)")
    importing.add_argument("--all", action="store_true", help="every entry, into the account of its name")
    importing.add_argument("--replace", action="store_true", help="with --all: also for accounts that are Ready")
    importing.add_argument(
        "--create", action="store_true", help="with --all: print manifests of accounts that are missing"
    )
    importing.add_argument("--provider", metavar="P", help="with --create: their provider")
    adopting = commands.add_parser(
        "adopt",
        help="give an account the credential of a deleted one",
        description="Gives an account the credential of a deleted one of the same name, provider and grant: kept by "
        "deletionPolicy Retain, orphaned, or restored from a backup.",
    )
    adopting.add_argument("name", metavar="NAME", help="the account")
    adopting.add_argument(
        "--from", dest="uid", metavar="UID", help="the deleted account's UID (default: the only one there is)"
    )
    orphans = commands.add_parser(
        "orphans",
        help="list the folders on the state volume that no account owns",
        description="Lists the folders on the state volume that no account owns, and says whose they were.",
    )
    orphans.set_defaults(name=None, timeout=60.0)
    for command in (importing, adopting):
        command.set_defaults(usage_error=command.error)
        command.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="default 60")


def check_usage(options: argparse.Namespace) -> None:
    """End with code 2 and a line that says why, when the arguments do not go together."""
    if options.command != "import":
        return
    if (options.name is None) is not options.all:
        options.usage_error("give NAME or --all, but not both")
    if options.all and options.entry is not None:
        options.usage_error("--entry goes with NAME, not with --all")
    if options.create and not (options.all and options.provider):
        options.usage_error("--create goes with --all and --provider")
    if options.provider and not options.create:
        options.usage_error("--provider goes with --create")


async def run(options: argparse.Namespace, handover: Handover) -> int:
    """The command; returns its exit code."""
    try:
        if options.command == "adopt":
            return await handover.adopt(options.name, options.uid)
        if options.command == "orphans":
            return await handover.orphans()
        found = parse(_standard_input())
        if options.all:
            for name, problem in found.problems.items():
                say(f"{shown(name) or 'the entry'}: not imported: {problem}")
            create_for = options.provider if options.create else None
            return await handover.import_all(found, replace=options.replace, create_for=create_for)
        return await handover.import_one(options.name, options.entry, found)
    except CredentialFileInvalid as error:
        say(f"standard input holds no credentials: {error}")
    except (NotDone, StoreFailed) as error:
        say(f"{options.name}: {error}" if options.name else str(error))
    except httpx2.HTTPError as error:
        say(describe(error))
    return FAILED


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise NotDone("give the credentials on standard input, such as: … import NAME < credentials.json")
    content = sys.stdin.buffer.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise NotDone(f"standard input holds more than {LARGEST_FILE // 1024 // 1024} MiB")
    return content
