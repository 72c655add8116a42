"""The pool as a table, one row per account: what `top` shows, and the line that other commands end with. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.account import AccountView, Window, count_by_status
from kubectl_oauthaccount.display import NOTHING, Gauge, age, countdown, status_style, status_text, urgency
from kubectl_oauthaccount.instants import rfc3339

USUAL_WINDOWS = ("5h", "7d")
HEADER_LINES = 4  # the summary, an empty line, the column names, and the line that says what is left out


def picture(
    accounts: Sequence[AccountView],
    now: datetime,
    *,
    namespace: str | None,
    width: int,
    height: int | None = None,
    trouble: str = "",
) -> RenderableType:
    """All of `top`: a summary, and as many rows as the height allows, the most urgent first.

    Without a `namespace` they are of all, and each row says of which.
    """
    ordered = by_urgency(accounts)
    room = len(ordered) if height is None else max(1, height - HEADER_LINES - bool(trouble))
    parts: list[RenderableType] = [summary(ordered, now, namespace)]
    if trouble:
        parts.append(Text(trouble, "bold red", overflow="ellipsis", no_wrap=True))
    parts += [Text(), pool_table(ordered[:room], now, width, shows_namespace=namespace is None)]
    if len(ordered) > room:
        parts.append(Text(f"… and {len(ordered) - room} more", "dim"))
    return Group(*parts)


def by_urgency(accounts: Sequence[AccountView]) -> list[AccountView]:
    """By status, what a person should look at first; then by name."""
    return sorted(
        accounts,
        key=lambda account: (urgency(account.status_word), account.status_word, account.namespace, account.name),
    )


def summary(accounts: Sequence[AccountView], now: datetime, namespace: str | None) -> Text:
    """One line of counts."""
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(namespace or "all namespaces", "bold").append(
        f"  {len(accounts)} account{'' if len(accounts) == 1 else 's'}"
    )
    for number, (word, count) in enumerate(count_by_status(accounts).items()):
        text.append(": " if number == 0 else ", ").append(f"{count} {word}", status_style(word))
    rates = [rate for account in accounts if (rate := account.requests_per_minute(now)) is not None]
    if rates:
        text.append(f"  {sum(rates)} requests/min")
    return text.append(f"  {now:%H:%M:%S}Z", "dim")


def pool_table(accounts: Sequence[AccountView], now: datetime, width: int, *, shows_namespace: bool = False) -> Table:
    """The rows, in the order given; narrow terminals get short bars or none."""
    bar = 10 if width >= 130 else 5 if width >= 105 else 0
    has_tier, has_age = width >= 95, width >= 80
    names = window_names(accounts)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    if shows_namespace:
        table.add_column("NAMESPACE", no_wrap=True)
    table.add_column("NAME", no_wrap=True, min_width=8)
    table.add_column("STATUS", no_wrap=True)
    for name in names:
        table.add_column(name.upper(), no_wrap=True)
    if has_age:
        table.add_column("SEEN", justify="right", no_wrap=True)
    table.add_column("RESETS", justify="right", no_wrap=True)
    table.add_column("TOKEN", justify="right", no_wrap=True)
    if has_tier:
        table.add_column("TIER/WEIGHT", justify="right", no_wrap=True)
    table.add_column("REQ/MIN", justify="right", no_wrap=True)
    table.add_column("MESSAGE")  # the one that gives way
    for account in accounts:
        windows = {window.name: window for window in account.windows}
        rate = account.requests_per_minute(now)
        table.add_row(
            *([Text(account.namespace)] if shows_namespace else []),
            Text(account.name),
            status_text(account.status_word),
            *(Gauge(use_of(windows.get(name)), bar) for name in names),
            *([age(account.quota_seen, now)] if has_age else []),
            countdown(account.resets(now), now, over="now"),
            _token(account, now),
            *([f"{account.spec.get('priority', 0)}/{account.spec.get('weight', 1)}"] if has_tier else []),
            NOTHING if rate is None else str(rate),
            Text(_advice(account, shows_namespace), no_wrap=True, overflow="ellipsis"),
        )
    return table


def rows(accounts: Sequence[AccountView], now: datetime) -> list[dict[str, Any]]:
    """The same, for a program."""
    return [
        {
            "namespace": account.namespace,
            "name": account.name,
            "status": account.status_word,
            "suspend": account.is_suspended,
            "message": account.message,
            "windows": [
                {"name": window.name, "utilization": window.utilization, "resetTime": _rfc3339(window.reset_time)}
                for window in account.windows
            ],
            "quotaObservedTime": _rfc3339(account.quota_seen),
            "resetTime": _rfc3339(account.resets(now)),
            "tokenExpirationTime": _rfc3339(account.token_expires),
            "priority": account.spec.get("priority", 0),
            "weight": account.spec.get("weight", 1),
            "requestsPerMinute": account.requests_per_minute(now),
        }
        for account in accounts
    ]


def window_names(accounts: Sequence[AccountView]) -> list[str]:
    """The usual windows, and every other one that some account has."""
    others = {window.name for account in accounts for window in account.windows}
    return [*USUAL_WINDOWS, *sorted(others.difference(USUAL_WINDOWS))]


def use_of(window: Window | None) -> float | None:
    return window.utilization if window is not None else None


def _advice(account: AccountView, names_namespace: bool) -> str:
    """The message; for an account that waits for a person, what that person types."""
    if account.is_true(c.LOGIN_REQUIRED):
        where = f" -n {account.namespace}" if names_namespace else ""
        return f"kubectl oauthaccount login{where} {account.name} ({account.condition(c.LOGIN_REQUIRED).get('reason')})"
    return account.message


def _token(account: AccountView, now: datetime) -> Text:
    text = countdown(account.token_expires, now, over="expired")
    return Text(text, "red" if text == "expired" else "")


def _rfc3339(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
