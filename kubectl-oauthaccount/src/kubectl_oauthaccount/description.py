"""Everything about one account, for printing: spec, status, and history in chronological order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.account import AccountView, windows_in
from kubectl_oauthaccount.display import Gauge, age, clock, countdown, status_text
from kubectl_oauthaccount.instants import instant, rfc3339

if TYPE_CHECKING:
    from kubectl_oauthaccount.cluster import Body

ABNORMAL = (c.LOGIN_REQUIRED, c.RECONCILING, c.STALLED)  # True is the unpleasant status of these


@dataclass(frozen=True)
class Happening:
    """One line of the history."""

    time: datetime
    source: str  # Event or Condition
    what: str
    message: str
    is_bad: bool


def history(account: AccountView, events: list[Body]) -> list[Happening]:
    """The Events that are still kept, and the last change of each condition (whose messages are of today), oldest first."""
    happened = [happening for event in events if (happening := _of_event(event)) is not None]
    for condition in account.conditions:
        if (time := instant(condition.get("lastTransitionTime"))) is not None:
            what = f"{condition['type']}={condition['status']} {condition['reason']}"
            happened.append(Happening(time, "Condition", what, "", _is_bad(condition)))
    return sorted(happened, key=lambda happening: happening.time)


def _of_event(event: Body) -> Happening | None:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    time = next((found for text in times if (found := instant(text)) is not None), None)
    if time is None:
        return None
    count = int(series.get("count") or event.get("deprecatedCount") or 1)
    what = f"{event.get('reason', '')}{f' (x{count})' if count > 1 else ''}"
    return Happening(time, "Event", what, str(event.get("note", "")), event.get("type") == "Warning")


def _is_bad(condition: dict[str, Any]) -> bool:
    return bool((condition["status"] == "True") == (condition["type"] in ABNORMAL))


def picture(account: AccountView, happened: list[Happening], now: datetime) -> RenderableType:
    """The sections that have something to say."""
    sections: list[tuple[str, RenderableType | None]] = [
        ("", _summary(account, now)),
        ("Login", _login(account, now)),
        ("Quota", _quota(account, now)),
        ("Conditions", _conditions(account, now)),
        ("Reports", _reports(account, now)),
        ("History", _history(happened, now)),
    ]
    parts: list[RenderableType] = []
    for title, content in sections:
        if content is not None:
            parts += [Text(f"\n{title}", "bold"), Padding(content, (0, 0, 0, 2))] if title else [content]
    return Group(*parts)


def _summary(account: AccountView, now: datetime) -> Table:
    table = _grid()
    spec, token = account.spec, account.status.get("token") or {}
    table.add_row("Name", Text(account.name, "bold"))
    table.add_row("Namespace", account.namespace)
    table.add_row("Age", age(account.created, now))
    table.add_row("Status", status_text(account.status_word))
    if account.message:
        table.add_row("Message", Text(account.message))
    table.add_row("Provider", Text(f"{spec.get('provider', '')}, grant {account.grant}"))
    if workload := spec.get("workloadIdentity"):
        table.add_row("Workload", Text(f"ServiceAccount {workload.get('serviceAccountName', '')}"))
    if subject := account.status.get("subject"):
        table.add_row("Subject", Text(subject))
    limit = (
        f"at most {most} requests at a time" if (most := spec.get("maxConcurrentRequests")) else "no limit of requests"
    )
    table.add_row("Use", f"tier {spec.get('priority', 0)}, weight {spec.get('weight', 1)}, {limit}")
    table.add_row("Suspended", "yes" if account.is_suspended else "no")
    if token:
        table.add_row(
            "Token",
            f"generation {account.token_generation}, expires in {countdown(account.token_expires, now, 'the past')}, "
            f"refreshed in {countdown(instant(token.get('nextRefreshTime')), now, 'no time')}",
        )
    if account.cooldown_until is not None:
        reason = (account.status.get("cooldown") or {}).get("reason", "")
        table.add_row("Cooldown", Text(f"{reason}, ends in {countdown(account.cooldown_until, now, 'no time')}"))
    return table


def _login(account: AccountView, now: datetime) -> Table | None:
    if account.login is None:
        return None
    table = _grid()
    table.add_row("URL", Text(account.login.url, overflow="fold"))
    if account.login.user_code is not None:
        table.add_row("Code", Text(account.login.user_code, "bold"))
    table.add_row("Ends in", countdown(account.login.expires, now, "no time"))
    table.add_row("To do", f"kubectl oauthaccount login {account.name}")
    return table


def _quota(account: AccountView, now: datetime) -> Table | None:
    if not account.windows:
        return None
    table = _grid()
    for window in account.windows:
        resets = f"resets in {countdown(window.reset_time, now, 'no time')}" if window.reset_time else ""
        table.add_row(window.name, Gauge(window.utilization, 10), Text(window.status or ""), resets)
    table.add_row("seen", f"{age(account.quota_seen, now)} ago")
    return table


def _conditions(account: AccountView, now: datetime) -> Table | None:
    if not account.conditions:
        return None
    table = _grid("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE")
    for condition in account.conditions:
        style = "red" if _is_bad(condition) else "green"
        since = age(instant(condition.get("lastTransitionTime")), now)
        table.add_row(
            condition["type"], Text(condition["status"], style), condition["reason"], since, Text(condition["message"])
        )
    return table


def _reports(account: AccountView, now: datetime) -> Table | None:
    if not account.reports:
        return None
    table = _grid("PROXY", "SEEN", "REASON", "UNTIL", "REQ/MIN", "WINDOWS")
    for report in account.reports:
        windows = ", ".join(f"{w.name} {w.utilization or 0:.0%}" for w in windows_in(report))
        table.add_row(
            Text(str(report.get("reporter", ""))),
            f"{age(instant(report.get('observedTime')), now)} ago",
            Text(str(report.get("reason", "-"))),
            countdown(instant(report.get("untilTime")), now, "over"),
            str(report.get("requestsPerMinute", "-")),
            Text(windows),
        )
    return table


def _history(happened: list[Happening], now: datetime) -> Table | None:
    if not happened:
        return None
    table = _grid("TIME", "AGE", "SOURCE", "WHAT", "MESSAGE")
    for one in happened:
        what = Text(one.what, "yellow" if one.is_bad else "")
        table.add_row(clock(one.time), age(one.time, now), one.source, what, Text(one.message))
    return table


def as_json(account: AccountView, happened: list[Happening]) -> dict[str, Any]:
    """Without the metadata: a pasted code may be among the annotations."""
    lines = [
        {"time": rfc3339(one.time), "source": one.source, "what": one.what, "message": one.message} for one in happened
    ]
    return {"name": account.name, "spec": account.spec, "status": account.status, "history": lines}


def _grid(*columns: str) -> Table:
    """A table without lines, of names and values if it has no column names."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(columns), header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in ("MESSAGE", "WINDOWS"))
    if not columns:
        table.add_column(style="dim", no_wrap=True)
    return table
