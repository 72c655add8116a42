"""What a Prometheus would get of real processes, and what its alerts would make of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.prometheus_programs import run
from tests.test_monitoring.component import NAMESPACE, rule_file

TARGET_LABELS = frozenset(("namespace", "pod"))
"""Those that a PodMonitor gives to every series, and that alerts and panels use."""


@dataclass(frozen=True)
class Series:
    metric: str
    labels: dict[str, str]
    value: float

    def __str__(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.metric}{{{labels}}}"


def scrape(**urls: str) -> list[Series]:
    """All series of these pods, whose /metrics are there."""
    return [series for pod, url in urls.items() for series in _scraped(pod, httpx2.get(f"{url}/metrics").text)]


def _scraped(pod: str, text: str) -> Iterator[Series]:
    target = {"namespace": NAMESPACE, "pod": pod}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert not target.keys() & sample.labels.keys(), f"{sample.name} has a label of its target"
            yield Series(sample.name, {**target, **sample.labels}, sample.value)


def assert_firing(promtool: Path, folder: Path, series: list[Series], expected: set[tuple[str, str]]) -> None:
    """These alerts fire, each with its account if it is about one, and no other, when all stays as it is."""
    samples = [
        {"labels": f'{{alertname="{alert}"{f",account_id={account!r}" if account else ""}}}', "value": 1}
        for alert, account in sorted(expected)
    ]
    test = {
        "interval": "1m",
        "input_series": [{"series": str(one), "values": f"{one.value:f}x90"} for one in series],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, account_id) (ALERTS{alertstate="firing"})',
                "eval_time": "80m",
                "exp_samples": samples,
            }
        ],
    }
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rule_file()))
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["alerts.yaml"], "tests": [test]}))
    tested = run(promtool, "test", "rules", folder / "test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
