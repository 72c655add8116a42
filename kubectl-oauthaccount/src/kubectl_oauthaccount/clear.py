"""`clear`: ends the cooldown of accounts before its time, and waits until the operator has done so."""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.errors import TimedOut, UsageError
from kubectl_oauthaccount.instants import rfc3339
from kubectl_oauthaccount.names import CLEAR
from kubectl_oauthaccount.options import (
    Commands,
    add_command,
    add_names_or_all,
    add_output,
    add_timeout,
    session,
)
from kubectl_oauthaccount.table import rows
from kubectl_oauthaccount.terminal import Terminal

if TYPE_CHECKING:
    from kubectl_oauthaccount.cluster import Cluster

EXAMPLE = """\
  kubectl oauthaccount clear claude-1
  kubectl oauthaccount clear --all"""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "clear", "end the cooldown of accounts before its time", EXAMPLE, run)
    add_names_or_all(parser, "every account that is cooling down")
    add_timeout(parser, "15s", "how long to wait for the operator")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    if bool(options.names) == options.all:
        raise UsageError("name accounts, or give --all")
    with session(options) as (cluster, terminal):
        if options.all:
            accounts = [account for account in cluster.accounts() if is_cooling_down(account)]
        else:
            accounts = [cluster.account(name) for name in options.names]
        cleared = _cleared(cluster, terminal, accounts, options.timeout) if accounts else []
        if options.output == "json":
            terminal.show_json(json.dumps(rows(cleared, datetime.now(UTC)), indent=2))
        elif not accounts:
            terminal.show("no account is cooling down")
        else:
            for before, after in zip(accounts, cleared, strict=True):
                what = "cooldown ended" if is_cooling_down(before) else "was not cooling down"
                terminal.show(f"{after.name}: {what}; it is {after.status_word}")
    return 0


def _cleared(
    cluster: Cluster, terminal: Terminal, accounts: Sequence[AccountView], seconds: float
) -> list[AccountView]:
    """The accounts as they are when the operator has answered for each."""
    request = f"{rfc3339(datetime.now(UTC))}-{secrets.token_hex(4)}"
    for account in accounts:
        cluster.annotate(account.name, CLEAR.annotation, request)
    deadline = time.monotonic() + seconds
    with terminal.waiting("the operator"):
        return [_answered(cluster, account.name, request, deadline) for account in accounts]


def is_cooling_down(account: AccountView) -> bool:
    return account.cooldown_until is not None or account.status_word == c.COOLING_DOWN


def _answered(cluster: Cluster, name: str, request: str, deadline: float) -> AccountView:
    for account in cluster.follow(name, max(0.0, deadline - time.monotonic())):
        if account.status.get(CLEAR.answer) == request:
            return account
    from kubectl_oauthaccount.operator_pod import why_silent

    raise TimedOut(f"the operator did not answer for {name}: {why_silent(cluster)}")
