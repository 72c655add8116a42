"""Sends requests to the operator by annotation, and waits until it has answered in status."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubectl_oauthaccount.errors import TimedOut
from kubectl_oauthaccount.instants import rfc3339
from kubectl_oauthaccount.names import Request

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView
    from kubectl_oauthaccount.cluster import Cluster
    from kubectl_oauthaccount.terminal import Terminal


def new_value() -> str:
    """One that no request had before: an answer to an earlier one must not count."""
    return f"{rfc3339(datetime.now(UTC))}-{secrets.token_hex(4)}"


def ask(
    cluster: Cluster, terminal: Terminal, accounts: Sequence[AccountView], request: Request, seconds: float
) -> list[AccountView]:
    """The accounts as they are when the operator has answered for each; `TimedOut` when it has not."""
    value = new_value()
    for account in accounts:
        cluster.annotate(account, request.annotation, value)
    deadline = time.monotonic() + seconds
    with terminal.waiting(f"the operator to answer, for at most {seconds:g} s"):
        return [_answered(cluster, account, request, value, deadline) for account in accounts]


def _answered(cluster: Cluster, asked: AccountView, request: Request, value: str, deadline: float) -> AccountView:
    for account in cluster.follow(asked, max(0.0, deadline - time.monotonic())):
        if account.status.get(request.answer) == value:
            return account
    from kubectl_oauthaccount.operator_pod import why_silent

    raise TimedOut(f"the operator did not answer for {asked.name}: {why_silent(cluster, asked.namespace)}")
