"""What alerts and dashboard ask for is what the real processes have, and the alerts make of it what a person would."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.plane import free_port
from tests.support.declared_proxies import DeclaredProxy
from tests.support.stack import Stack, running_stack
from tests.test_manifests.manifests import ROOT
from tests.test_monitoring.component import alerts, dashboard, grouping_labels, queries, selectors
from tests.test_monitoring.scrapes import TARGET_LABELS, Series, assert_firing, scrape

PEOPLE = {"alice": "alice@example.com", "bob": "bob@example.com"}
TIMEOUT = 2
MONITORING = f"127.0.0.1:{free_port()}"
SETTINGS = f"""timeout_secs = {TIMEOUT}
attempts = 2
max_connections = 1
metrics_addr = "{MONITORING}"

[clients]
require = false
service_accounts = false
tailscale_listen_addr = "127.0.0.1:0"
"""


@pytest.fixture(scope="module")
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    with running_stack(control_plane, proxy_settings=SETTINGS, tokens="sealed") as stack:
        yield stack


@pytest.fixture(scope="module")
def healthy(stack: Stack) -> list[Series]:
    """Two accounts, each with an answer, and one that somebody has suspended."""
    for name, subject in PEOPLE.items():
        stack.apply(stack.account(name))
        stack.log_in(name, subject)
    stack.apply(stack.account("resting", suspend=True))
    stack.wait_for_reason("resting", "Ready", "Suspended")
    wait_until(lambda: available() == 2, "the proxy to have both accounts")
    assert [ask(stack, conversation=name) for name in PEOPLE] == [200, 200]
    return series_of(stack)


@pytest.fixture(scope="module")
def in_trouble(stack: Stack, healthy: list[Series]) -> list[Series]:
    """The same pool after everything that has a metric has happened, with every account out of use."""
    assert ask(stack, conversation="alice") == 200  # a conversation that goes on
    stack.simulator.set(headers_delay=TIMEOUT / 4)
    with ThreadPoolExecutor(2) as two:  # one of them waits for the other
        assert list(two.map(lambda _: ask(stack), range(2))) == [200, 200]
    with suppress(httpx2.ReadTimeout):
        ask(stack, patience=TIMEOUT / 8)
    stack.simulator.set(headers_delay=TIMEOUT * 1.5)
    assert ask(stack) == 504
    stack.simulator.set(headers_delay=0)

    stack.simulator.set(api_failures=2, api_failure_status=402)
    assert ask(stack) == 402
    for name in PEOPLE:
        stack.wait_for_reason(name, "Ready", "Billing")
        stack.kubectl("annotate", "oauthaccount", name, "oauthpool.dev/cooldown-cleared=settled")
    wait_until(lambda: available() == 2, "the proxy to hear that it is settled")

    stack.apply(stack.account("carol"))
    stack.apply(stack.account("broken", provider="broken"))
    rejected = stack.workload_account("rejected")
    rejected["spec"]["workloadIdentity"]["federationRuleID"] = "fdrl_unknown"
    stack.apply(rejected)
    for name, reason in (("carol", "LoginRequired"), ("broken", "InvalidProfile"), ("rejected", "ExchangeRejected")):
        stack.wait_for_reason(name, "Ready", reason)

    for subject in PEOPLE.values():
        stack.simulator.exhaust(subject, reset_in=1800)
    assert ask(stack) == 429
    for name in PEOPLE:
        stack.wait_for_reason(name, "Ready", "CoolingDown")
    wait_until(lambda: len(accounts()) == 5, "the proxy to have heard of every account of its provider")
    # `rejected` is tried again now and then, and not stalled meanwhile
    return wait_until(lambda: found if len(stalled(found := series_of(stack))) == 2 else None, "both to be stalled")


@pytest.fixture
def sealed(control_plane: ControlPlane) -> Iterator[list[Series]]:
    """Of an operator that seals tokens, and has."""
    with running_stack(control_plane, with_proxy=False, tokens="sealed") as stack:
        stack.kubectl("apply", "-f", "-", stdin=json.dumps(DeclaredProxy("proxy-0").manifest))
        stack.apply(stack.workload_account("alice"))

        def series() -> list[Series]:
            found = scrape(**{"operator-0": stack.metrics_url})
            return found if any(one.metric == "pool_tokens_bytes" for one in found) else []

        yield wait_until(series, "a token to be sealed")


def ask(stack: Stack, *, conversation: str = "", patience: float = 30) -> int:
    headers = {"X-Claude-Code-Session-Id": conversation} if conversation else {}
    body = {"model": "claude-test", "max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}
    url = f"{stack.proxy_url}/v1/messages"
    return httpx2.post(
        url, json=body, headers={"anthropic-version": "2023-06-01", **headers}, timeout=patience
    ).status_code


def accounts() -> list[dict[str, str]]:
    found: list[dict[str, str]] = httpx2.get(f"http://{MONITORING}/health").json()["pool"]["accounts"]
    return found


def available() -> int:
    return [account["status"] for account in accounts()].count("available")


def stalled(series: list[Series]) -> list[Series]:
    stalled = selectors('pool_account_condition{condition="Stalled"}')[0]
    return [one for one in series if stalled.selects(one.metric, one.labels) and one.value]


def series_of(stack: Stack) -> list[Series]:
    return scrape(**{"proxy-0": f"http://{MONITORING}", "operator-0": stack.metrics_url})


def test_a_healthy_pool_wakes_nobody(promtool: Path, tmp_path: Path, healthy: list[Series]) -> None:
    assert_firing(promtool, tmp_path, healthy, set())


def test_alerts_name_what_is_wrong_with_a_real_pool(promtool: Path, tmp_path: Path, in_trouble: list[Series]) -> None:
    expected = {
        ("PoolAllAccountsCoolingDown", ""),
        ("PoolLoginNeeded", "carol"),
        ("PoolAccountStalled", "broken"),
        ("PoolAccountStalled", "rejected"),
    }
    assert_firing(promtool, tmp_path, in_trouble, expected)


def test_every_alert_and_every_panel_asks_for_series_that_there_are(in_trouble: list[Series]) -> None:
    missing = [
        (who, selector)
        for who, query in queries()
        for selector in selectors(query)
        if not any(selector.selects(series.metric, series.labels) for series in in_trouble)
    ]
    assert missing == []


def test_every_query_puts_together_by_labels_that_its_series_have(in_trouble: list[Series]) -> None:
    labels: dict[str, set[str]] = {}
    for series in in_trouble:
        labels.setdefault(series.metric, set()).update(series.labels)
    unknown = [
        (who, name)
        for who, query in queries()
        for name in grouping_labels(query)
        if not any(name in labels[selector.metric] for selector in selectors(query))
    ]
    assert unknown == []


def test_the_documentation_has_every_metric_of_the_operator_with_its_labels(
    in_trouble: list[Series], sealed: list[Series]
) -> None:
    labels: dict[str, set[str]] = {}
    for series in (*in_trouble, *sealed):
        if series.labels["pod"] == "operator-0" and series.metric.startswith("pool_"):
            name = re.sub("_(bucket|sum|count|created)$", "", series.metric)
            labels.setdefault(name, set()).update(series.labels.keys() - TARGET_LABELS - {"le"})
    created = {name for name in labels if f"{name}_total" in labels}  # the library's own, beside each counter
    section = (ROOT / "docs" / "metrics.md").read_text().split("\n## Operator\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(pool_\w+)` \| \w+[^|]* \| ([^|]*)\|", section, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`(?=: |, `|\s*$)", cell)) for name, cell in rows}
    assert documented.keys() == labels.keys() - created
    assert {
        name: found for name, found in labels.items() if name not in created and not found <= documented[name]
    } == {}


def test_every_label_that_a_text_names_is_one_of_its_series(in_trouble: list[Series]) -> None:
    names = {name for series in in_trouble for name in series.labels}
    assert names >= TARGET_LABELS
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            assert set(words_in_braces(target["legendFormat"])) <= names
    for rule in alerts():
        text = " ".join(rule["annotations"].values())
        assert {word.removeprefix("$labels.") for word in words_in_braces(text) if "$labels." in word} <= names


def words_in_braces(text: str) -> list[str]:
    return [part.partition("}}")[0].strip() for part in text.split("{{")[1:]]
