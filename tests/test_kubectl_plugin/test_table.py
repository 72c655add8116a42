"""The table that `top` shows, from objects as the API has them. Pure."""

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.display import Gauge, span
from kubectl_oauthaccount.table import by_urgency, picture, rows
from tests.test_kubectl_plugin.conftest import condition
from tests.test_kubectl_plugin.picture import FILE, draw

NOW = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


def account(name: str, word: str = "Available", *, conditions: tuple[Any, ...] = (), **status: Any) -> AccountView:
    ready = condition("Ready", "True" if word == "Available" else "False", word, f"{word}, it says")
    return AccountView({"metadata": {"name": name}, "status": {"conditions": [ready, *conditions], **status}})


def quota(**used: float) -> dict[str, Any]:
    return {"windows": [{"name": name.strip("_"), "utilization": value} for name, value in used.items()]}


def report(rate: int | None, *, seconds_ago: int = 0, reporter: str = "proxy-0") -> dict[str, Any]:
    observed = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    return {"reporter": reporter, "observedTime": observed} | ({} if rate is None else {"requestsPerMinute": rate})


def drawn(*accounts: AccountView, width: int = 160, height: int | None = None, trouble: str = "") -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(picture(accounts, NOW, namespace="pool", width=width, height=height, trouble=trouble))
    return captured.get()


def cells(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(name)).split()


def test_what_a_person_should_look_at_comes_first() -> None:
    words = [
        *("Suspended", "Available", "New", "CoolingDown", "LoginRequired", "Forbidden", "Billing", "Disabled"),
        "StorageUnavailable",
    ]
    ordered = by_urgency([account(word, word) for word in words] + [account("Another", "Available")])
    assert [one.name for one in ordered] == [
        *("StorageUnavailable", "Disabled", "Billing", "Forbidden", "LoginRequired", "CoolingDown", "New"),
        *("Another", "Available", "Suspended"),
    ]


def test_a_row_says_what_the_object_says() -> None:
    text = drawn(
        account(
            "alice",
            "CoolingDown",
            quota=quota(_5h=1.08, _7d=0.61, _7d_opus=0.1),
            cooldown={"untilTime": "2026-11-20T19:30:00Z"},
            token={"expirationTime": "2026-11-20T17:59:00Z"},
            reports=[report(40), report(2, reporter="proxy-1")],
        )
    )
    assert text.splitlines()[0].startswith("pool  1 account: 1 CoolingDown  42 requests/min")
    assert text.splitlines()[2].split() == [
        *("NAME", "STATUS", "5H", "7D", "7D_OPUS", "SEEN", "RESETS", "TOKEN", "TIER/WEIGHT", "REQ/MIN", "MESSAGE")
    ]
    row = cells(text, "alice")
    assert row[1:] == [
        *("CoolingDown", "██████████", "108%", "██████░░░░", "61%", "█░░░░░░░░░", "10%"),
        *("-", "1h30m", "expired", "0/1", "42", "CoolingDown,", "it", "says"),
    ]


def test_an_old_reading_of_the_quota_shows_its_age() -> None:
    """An account that was idle for a day is not 28 % used: that is what was seen a day ago."""
    yesterday = (NOW - timedelta(days=1)).isoformat()
    idle = account("alice", quota=quota(_5h=0.28) | {"observedTime": yesterday})
    heads, row = (cells(drawn(idle, width=100), start) for start in ("NAME", "alice"))
    assert row[heads.index("SEEN")] == "1d"
    assert rows([idle], NOW)[0]["quotaObservedTime"] == "2026-11-19T18:00:00Z"


def test_of_all_namespaces_each_row_names_its_own() -> None:
    waiting = condition("LoginRequired", "True", "GrantRevoked")
    body = {"metadata": {"name": "alice", "namespace": "pool-b"}, "status": {"conditions": [waiting]}}
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(picture([AccountView(body)], NOW, namespace=None, width=200))
    lines = captured.get().splitlines()
    assert lines[0].startswith("all namespaces  1 account")
    assert lines[2].split()[:2] == ["NAMESPACE", "NAME"]
    assert lines[3].split()[:2] == ["pool-b", "alice"]
    assert "kubectl oauthaccount login -n pool-b alice (GrantRevoked)" in lines[3]


def test_who_waits_for_a_person_gets_the_command() -> None:
    waiting = condition("LoginRequired", "True", "GrantRevoked", "a long text")
    text = drawn(account("alice", "Disabled", conditions=(waiting,)))
    assert "kubectl oauthaccount login alice (GrantRevoked)" in text


def test_trouble_of_an_account_that_works_is_shown() -> None:
    stalled = condition("Stalled", "True", "StorageUnavailable", "the volume is full")
    assert "the volume is full" in drawn(account("alice", conditions=(stalled,)))
    assert "it says" not in drawn(account("alice"))


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([], None, id="nobody reports"),
        pytest.param([report(None)], None, id="nobody says"),
        pytest.param([report(0)], 0, id="idle"),
        pytest.param([report(3), report(4), report(None)], 7, id="the sum"),
        pytest.param([report(3), report(4, seconds_ago=600)], 3, id="a proxy that is gone does not count"),
    ],
)
def test_requests_per_minute(reports: list[Any], expected: int | None) -> None:
    assert account("alice", reports=reports).requests_per_minute(NOW) == expected
    assert cells(drawn(account("alice", reports=reports)), "alice")[-1] == ("-" if expected is None else str(expected))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200])
def test_names_and_states_are_whole_at_every_width(width: int) -> None:
    text = drawn(account("claude-1", "CoolingDown", quota=quota(_5h=0.5, _7d=1)), width=width)
    assert cells(text, "claude-1")[1] == "CoolingDown"
    assert "50%" in text and "100%" in text
    assert max(map(len, text.splitlines())) <= width


def test_more_accounts_than_lines_are_counted() -> None:
    accounts = [account(f"account-{number:02}") for number in range(30)]
    lines = drawn(*accounts, height=10).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "… and 24 more"
    assert len(drawn(*accounts, height=10, trouble="the API server cannot be reached").splitlines()) == 10


def test_a_program_gets_numbers() -> None:
    (row,) = rows([account("alice", quota=quota(_5h=0.25), reports=[report(5)])], NOW)
    assert row["windows"] == [{"name": "5h", "utilization": 0.25, "resetTime": None}]
    assert (row["requestsPerMinute"], row["priority"], row["weight"], row["resetTime"]) == (5, 0, 1, None)


@pytest.mark.parametrize(("used", "colour"), [(0.74, "green"), (0.75, "yellow"), (1.0, "red"), (3.0, "red")])
def test_the_colour_of_a_gauge_warns(used: float, colour: str) -> None:
    console = Console(width=80)
    bar = next(iter(console.render(Gauge(used, 10))))
    assert bar.style is not None
    assert bar.style.color is not None
    assert bar.style.color.name == colour


def test_a_terminal_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80)
    options = console.options.update()
    options.encoding = "ascii"
    assert "".join(part.text for part in console.render(Gauge(0.5, 4), options)) == "##..  50%"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0s"),
        (59, "59s"),
        (60, "1m"),
        (250, "4m10s"),
        (2520, "42m"),
        (11520, "3h12m"),
        (190800, "2d5h"),
        (1e6, "11d"),
    ],
)
def test_spans_have_two_units_at_most(seconds: float, expected: str) -> None:
    assert span(timedelta(seconds=seconds)) == expected


def test_the_picture_in_the_documentation_is_what_top_draws() -> None:
    """When it is not: `make picture`."""
    assert draw() == FILE.read_text()
    assert "http" not in re.sub(r'<!--.*?-->|xmlns="[^"]*"', "", draw())
