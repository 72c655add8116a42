"""The alerts: that Prometheus takes them, what fires when, and that each tells a person what to do."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus_programs import run
from tests.test_manifests.manifests import ROOT, Manifest
from tests.test_monitoring.component import alerts, rule_file

CASES = Path(__file__).with_name("alerts.test.yaml")
THE_OLD_ONES = {
    "ProxyUpstreamErrors": "rate(proxy_upstream_errors_total[5m]) > 0.1",
    "ProxySlowAnswers": "histogram_quantile(0.99, sum by (le) (rate(proxy_request_duration_seconds_bucket[5m]))) > 30",
    "PoolNoAccountAvailable": 'sum(pool_account_status{status="available"}) == 0',
    "PoolFailovers": "rate(pool_failovers_total[5m]) > 0.05",
}
"""Those of the service that this project replaces, word for word."""

every_alert = pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "alerts.yaml"
    file.write_text(yaml.safe_dump(rule_file()))
    return file


def test_prometheus_takes_the_rules(promtool: Path, rules: Path) -> None:
    checked = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", rules)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


def test_what_fires_when(promtool: Path, rules: Path) -> None:
    shutil.copy(CASES, rules.parent)
    tested = run(promtool, "test", "rules", rules.parent / CASES.name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@every_alert
def test_there_is_a_case_in_which_it_fires_and_one_in_which_it_does_not(rule: Manifest) -> None:
    tests = [test for group in yaml.safe_load(CASES.read_text())["tests"] for test in group["alert_rule_test"]]
    outcomes = [bool(test["exp_alerts"]) for test in tests if test["alertname"] == rule["alert"]]
    assert set(outcomes) == {True, False}


@every_alert
def test_it_says_how_bad_it_is_whom_it_is_about_and_where_to_read_on(rule: Manifest) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert re.fullmatch(r"\d+m", rule["for"])
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"RUNBOOK.md#{rule['alert'].lower()}"
    text = annotations["summary"] + annotations["description"]
    assert "$labels.namespace" in text
    if "namespace" in (about := _grouped_by(rule["expr"])):
        # whatever else the alert is told apart by
        assert {name for name in about if f"$labels.{name}" in text} == about
    else:
        assert "$labels.pod" in text


def _grouped_by(query: str) -> set[str]:
    """The labels of the outermost aggregation; none if the alert has those of the series."""
    if not (
        found := re.match(r"(?:sum|min|max|count) by \(([^)]*)\)|histogram_quantile\(0\.99, sum by \((.*?)\)", query)
    ):
        return set()
    return {name.strip() for name in (found[1] or found[2]).split(",")} - {"le"}


def test_the_old_services_alerts_are_still_there_for_each_namespace() -> None:
    now = {rule["alert"]: rule["expr"] for rule in alerts()}
    for name, before in THE_OLD_ONES.items():
        for_each_namespace = before.replace("sum by (le)", "sum by (namespace, le)").replace(
            "sum(", "sum by (namespace) ("
        )
        # but nobody is woken for what comes back by itself
        assert now[name].partition("\nunless ")[0] == for_each_namespace


def test_the_documentation_has_every_alert_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(\.\./RUNBOOK\.md#(\w+)\) \| (\w+) \| ", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (rule["alert"], rule["alert"].lower(), rule["labels"]["severity"]) for rule in alerts()
    )
