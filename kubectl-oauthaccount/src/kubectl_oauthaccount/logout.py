"""`logout`: has the operator revoke the grants of accounts, which stay and wait for another login."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from kubectl_oauthaccount.errors import PluginError
from kubectl_oauthaccount.names import LOGOUT
from kubectl_oauthaccount.options import ClusterOptions, command, names, output, session, timeout
from kubectl_oauthaccount.requests import ask

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView

EXAMPLES = """\
kubectl oauthaccount logout claude-1
kubectl oauthaccount logout claude-1 claude-2 --yes"""


@command("logout", "revoke the logins of accounts, which stay", EXAMPLES)
@names
@click.option("-y", "--yes", is_flag=True, help="do not ask first")
@timeout("60s", "how long to wait for the operator")
@output
def logout(options: ClusterOptions, names: Sequence[str], yes: bool, timeout: float, output: str | None) -> int:
    from kubectl_oauthaccount.table import rows

    with session(options) as (cluster, terminal):
        accounts = [cluster.account(name) for name in dict.fromkeys(names)]
        _refuse_what_is_in_vain(accounts)
        listed = ", ".join(account.name for account in accounts)
        if not yes and not terminal.confirms(
            f"Revoke the login of {listed}? Each serves nobody until it is logged in again."
        ):
            raise PluginError("nothing was done")
        gone = ask(cluster, terminal, accounts, LOGOUT, timeout)
        if output == "json":
            terminal.show_json(json.dumps(rows(gone, datetime.now(UTC)), indent=2))
        else:
            for account in gone:
                terminal.show(f"{account.name}: logged out; it is {account.status_word}")
    return 0


def _refuse_what_is_in_vain(accounts: Sequence[AccountView]) -> None:
    for account in accounts:
        if account.grant == "WorkloadIdentity":
            raise PluginError(
                f"{account.name} has no login to revoke: with grant WorkloadIdentity, suspend or delete it"
            )
