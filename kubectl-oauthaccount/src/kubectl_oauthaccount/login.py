"""`login`: asks the operator for a login, takes the person through it, and waits until the account works."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.errors import PluginError
from kubectl_oauthaccount.options import ClusterOptions, command, name, output, session, timeout

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView
    from kubectl_oauthaccount.terminal import Terminal

EXAMPLES = """\
kubectl oauthaccount login claude-1
kubectl oauthaccount login claude-1 --no-browser       # open the URL somewhere else
read-the-code | kubectl oauthaccount login claude-1    # the code from a program"""


@command("login", "log an account in", EXAMPLES)
@name
@click.option("--no-browser", is_flag=True, help="only print the URL")
@click.option("--paste", is_flag=True, help="ask for the code, even if the browser would come back to this machine")
@click.option("--force", is_flag=True, help="log in again although the account works")
@timeout("10m", "how long to wait for the whole login")
@output
def login(
    options: ClusterOptions, name: str, no_browser: bool, paste: bool, force: bool, timeout: float, output: str | None
) -> None:
    from kubectl_oauthaccount.dialogue import Dialogue

    with session(options) as (cluster, terminal):
        account = cluster.account(name)
        if account.grant == "WorkloadIdentity":
            _say_that_none_is_needed(account, terminal)
        else:
            _refuse_what_is_in_vain(account, terminal, force=force)
            dialogue = Dialogue(cluster, terminal, account, timeout, opens_browser=not no_browser, takes_paste=paste)
            account = dialogue.run()
        _show(account, terminal, output)


def _refuse_what_is_in_vain(account: AccountView, terminal: Terminal, *, force: bool) -> None:
    if account.is_suspended:
        raise PluginError(f"{account.name} is suspended: kubectl oauthaccount resume {account.name}")
    works = account.is_true(c.READY) or account.status_word in (c.COOLING_DOWN, c.BILLING, c.FORBIDDEN)
    if works and not force and not account.is_true(c.LOGIN_REQUIRED):
        _show(account, terminal, None)
        raise PluginError(f"{account.name} is logged in already: --force logs in again")


def _say_that_none_is_needed(account: AccountView, terminal: Terminal) -> None:
    ready = account.condition(c.READY)
    terminal.say(f"{account.name} needs no login: with grant WorkloadIdentity the operator gets its tokens on its own")
    terminal.say(f"Ready is {ready.get('status', 'Unknown')} ({account.status_word}): {ready.get('message', '')}")


def _show(account: AccountView, terminal: Terminal, output: str | None) -> None:
    from kubectl_oauthaccount.table import pool_table, rows

    now = datetime.now(UTC)
    if output == "json":
        terminal.show_json(json.dumps(rows([account], now)[0], indent=2))
    else:
        terminal.show(pool_table([account], now, terminal.out.width))
