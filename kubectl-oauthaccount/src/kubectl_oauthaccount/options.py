"""What the commands' options have in common, and what every command needs before it starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kubectl_oauthaccount.instants import parse_duration
from kubectl_oauthaccount.terminal import Terminal

if TYPE_CHECKING:
    from kubectl_oauthaccount.cluster import Cluster

Commands = argparse._SubParsersAction  # what `add_subparsers` gives has no public name
Run = Callable[[argparse.Namespace], int]


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """As kubectl names them. Without defaults, so that they may stand before the command as well as after it."""
    group = parser.add_argument_group("cluster")
    missing = argparse.SUPPRESS
    group.add_argument("-n", "--namespace", default=missing, help="the accounts' namespace (default: the context's)")
    group.add_argument("--context", default=missing, help="the kubeconfig's context to use")
    group.add_argument("--kubeconfig", default=missing, help="the kubeconfig (default: KUBECONFIG, ~/.kube/config)")


def add_command(
    commands: Commands[argparse.ArgumentParser], name: str, help_text: str, example: str, run: Run
) -> argparse.ArgumentParser:
    """A command with its help, an example and the options of all."""
    parser = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=f"examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_cluster_options(parser)
    parser.set_defaults(run=run)
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=["json"], help="print the result for a program")


def add_timeout(parser: argparse.ArgumentParser, default: str, help_text: str) -> None:
    parser.add_argument(
        "--timeout", type=_seconds, default=default, metavar="DURATION", help=f"{help_text} (default {default})"
    )


def add_names_or_all(parser: argparse.ArgumentParser, all_of: str) -> None:
    """NAME… or --all, and exactly one of them."""
    parser.add_argument("names", metavar="NAME", nargs="*", default=[], help="the accounts")
    parser.add_argument("--all", action="store_true", help=all_of)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@contextmanager
def session(options: argparse.Namespace) -> Iterator[tuple[Cluster, Terminal]]:
    """The cluster that the options name, and the terminal."""
    from kubectl_oauthaccount.kubeconfig import (
        connect,  # half a second, which --help and completion should not take
    )

    cluster = connect(options.kubeconfig, options.context, options.namespace)
    with cluster.client:
        yield cluster, Terminal()
