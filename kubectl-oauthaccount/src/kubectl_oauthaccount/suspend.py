"""`suspend` and `resume`: takes accounts out of use, and back. Both write `spec.suspend`, and nothing else."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.options import Commands, add_command, add_output, session
from kubectl_oauthaccount.table import rows
from kubectl_oauthaccount.terminal import Terminal

if TYPE_CHECKING:
    from kubectl_oauthaccount.cluster import Cluster


TRACKING_ANNOTATION = "argocd.argoproj.io/tracking-id"
INSTANCE_LABEL = (
    "app.kubernetes.io/instance"  # Helm sets it as well, so it counts only with ArgoCD's hand on the object
)


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    for word, help_text, suspend in (
        ("suspend", "take accounts out of use: no traffic, no refresh", True),
        ("resume", "put suspended accounts to use again", False),
    ):
        example = f"  kubectl oauthaccount {word} claude-1 claude-2"
        parser = add_command(commands, word, help_text, example, partial(run, suspend=suspend))
        parser.add_argument("names", metavar="NAME", nargs="+", help="the accounts")
        add_output(parser)


def run(options: argparse.Namespace, *, suspend: bool) -> int:
    with session(options) as (cluster, terminal):
        # all are looked up before any is changed: a mistyped name changes nothing
        found = [cluster.account(name) for name in options.names]
        changed = [_set(cluster, terminal, account, suspend, quiet=options.output == "json") for account in found]
        if options.output == "json":
            terminal.show_json(json.dumps(rows(changed, datetime.now(UTC)), indent=2))
    return 0


def _set(cluster: Cluster, terminal: Terminal, account: AccountView, suspend: bool, *, quiet: bool) -> AccountView:
    """The account as it is then, which it says unless it is to be quiet."""
    if account.is_suspended == suspend:
        said, changed = "is suspended already" if suspend else "is not suspended", account
    else:
        said, changed = "suspended" if suspend else "resumed", cluster.set_suspend(account.name, suspend)
    if not quiet:
        terminal.show(f"{account.name} {said}")
    if changed is not account and is_managed_by_argocd(account):
        terminal.warn(f"ArgoCD manages {account.name}; self-heal will undo this: change spec.suspend in Git")
    return changed


def is_managed_by_argocd(account: AccountView) -> bool:
    """By either way in which ArgoCD tracks objects: its annotation, or a label that others use, too."""
    if TRACKING_ANNOTATION in account.annotations:
        return True
    has_its_hand = any(manager.startswith("argocd") for manager in account.field_managers)
    return INSTANCE_LABEL in account.labels and has_its_hand
