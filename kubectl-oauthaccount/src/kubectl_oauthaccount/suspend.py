"""`suspend` and `resume`: takes accounts out of use, and back. Both write `spec.suspend`, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubectl_oauthaccount.options import ClusterOptions, Selection, command, output, selection, session

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView
    from kubectl_oauthaccount.cluster import Cluster
    from kubectl_oauthaccount.terminal import Terminal

TRACKING_ANNOTATION = "argocd.argoproj.io/tracking-id"
INSTANCE_LABEL = (
    "app.kubernetes.io/instance"  # Helm sets it as well, so it counts only with ArgoCD's hand on the object
)

EXAMPLES = """\
kubectl oauthaccount {word} claude-1 claude-2
kubectl oauthaccount {word} --all
kubectl oauthaccount {word} -l team=research -A"""


@command("suspend", "take accounts out of use: no traffic, no refresh", EXAMPLES.format(word="suspend"))
@selection("every account")
@output
def suspend(options: ClusterOptions, which: Selection, output: str | None) -> None:
    _set_all(options, which, output, suspend=True)


@command("resume", "put suspended accounts back into use", EXAMPLES.format(word="resume"))
@selection("every account")
@output
def resume(options: ClusterOptions, which: Selection, output: str | None) -> None:
    _set_all(options, which, output, suspend=False)


def _set_all(options: ClusterOptions, which: Selection, output: str | None, *, suspend: bool) -> None:
    from kubectl_oauthaccount.table import rows

    with session(options) as (cluster, terminal):
        found = which.accounts(cluster)
        changed = [_set(cluster, terminal, account, suspend, quiet=output == "json") for account in found]
        if output == "json":
            terminal.show_json(json.dumps(rows(changed, datetime.now(UTC)), indent=2))
        elif not found:
            terminal.show("there are no such accounts")


def _set(cluster: Cluster, terminal: Terminal, account: AccountView, suspend: bool, *, quiet: bool) -> AccountView:
    """The account as it is then, which it says unless it is to be quiet."""
    if account.is_suspended == suspend:
        said, changed = "is suspended already" if suspend else "is not suspended", account
    else:
        said, changed = "suspended" if suspend else "resumed", cluster.set_suspend(account, suspend)
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
