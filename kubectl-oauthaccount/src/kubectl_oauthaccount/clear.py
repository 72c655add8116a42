"""`clear`: ends the cooldown of accounts early, and waits until the operator has done so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.names import CLEAR
from kubectl_oauthaccount.options import ClusterOptions, Selection, command, output, selection, session, timeout
from kubectl_oauthaccount.requests import ask

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView

EXAMPLES = """\
kubectl oauthaccount clear claude-1
kubectl oauthaccount clear --all
kubectl oauthaccount clear -l tier=gold -A"""


@command("clear", "end the cooldown of accounts early", EXAMPLES)
@selection("every account that is cooling down")
@timeout("15s", "how long to wait for the operator")
@output
def clear(options: ClusterOptions, which: Selection, timeout: float, output: str | None) -> None:
    from kubectl_oauthaccount.table import rows

    with session(options) as (cluster, terminal):
        accounts = which.accounts(cluster)
        if not which.names:
            accounts = [account for account in accounts if is_cooling_down(account)]
        cleared = ask(cluster, terminal, accounts, CLEAR, timeout) if accounts else []
        if output == "json":
            terminal.show_json(json.dumps(rows(cleared, datetime.now(UTC)), indent=2))
        elif not accounts:
            terminal.show("no account is cooling down")
        else:
            for before, after in zip(accounts, cleared, strict=True):
                what = "cooldown ended" if is_cooling_down(before) else "was not cooling down"
                terminal.show(f"{after.name}: {what}; it is {after.status_word}")


def is_cooling_down(account: AccountView) -> bool:
    return account.cooldown_until is not None or account.status_word in (c.COOLING_DOWN, c.BILLING, c.FORBIDDEN)
