"""`refresh`: has the operator refresh tokens now, whatever it would have waited for, and waits for the new ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.errors import PluginError
from kubectl_oauthaccount.names import REFRESH
from kubectl_oauthaccount.options import ClusterOptions, Selection, command, output, selection, session, timeout
from kubectl_oauthaccount.requests import ask

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView

EXAMPLES = """\
kubectl oauthaccount refresh claude-1
kubectl oauthaccount refresh --all --timeout 5m"""


@command("refresh", "refresh the tokens of accounts now", EXAMPLES)
@selection("every account that is not suspended")
@timeout("90s", "how long to wait for the new tokens")
@output
def refresh(options: ClusterOptions, which: Selection, timeout: float, output: str | None) -> int:
    from kubectl_oauthaccount.table import rows

    with session(options) as (cluster, terminal):
        accounts = which.accounts(cluster)
        if which.names:
            _refuse_what_is_in_vain(accounts)
        accounts = [account for account in accounts if not account.is_suspended]
        refreshed = ask(cluster, terminal, accounts, REFRESH, timeout) if accounts else []
        problems = [_problem(before, after) for before, after in zip(accounts, refreshed, strict=True)]
        if output == "json":
            terminal.show_json(json.dumps(rows(refreshed, datetime.now(UTC)), indent=2))
        elif not accounts:
            terminal.show("there is no account to refresh")
        for after, problem in zip(refreshed, problems, strict=True):
            if problem:
                terminal.say(f"error: {after.name}: {problem}")
            elif output is None:
                terminal.show(f"{after.name}: refreshed; it is {after.status_word}")
    return 1 if any(problems) else 0


def _refuse_what_is_in_vain(accounts: list[AccountView]) -> None:
    for account in accounts:
        if account.is_suspended:
            raise PluginError(f"{account.name} is suspended: kubectl oauthaccount resume {account.name}")


def _problem(before: AccountView, after: AccountView) -> str:
    """Why there is no new token, if there is none: the operator answers when the refresh is over, however it ended."""
    if after.token_generation > before.token_generation:
        return ""
    failing, login = (after.condition(kind).get("message") for kind in (c.REFRESH_FAILING, c.LOGIN_REQUIRED))
    why = failing or after.message or login
    return f"not refreshed: {why or f'the operator gives no reason; it is {after.status_word}'}"
