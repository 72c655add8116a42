"""What a Prometheus answers to each panel of the dashboard, as Grafana asks and names it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Any

from tests.support.prometheus_server import Answer, PrometheusServer
from tests.test_manifests.manifests import Manifest
from tests.test_monitoring.component import filled_in

IN_BRACES = re.compile(r"\{\{\s*(\w+)\s*\}\}")
RATE_INTERVAL = "10s"
"""In place of the two minutes of a cluster, where scrapes are half a minute apart and not a second."""


@dataclass(frozen=True)
class Line:
    """One series of a panel. `missing` are labels that its legend names and the series lacks."""

    reference: str
    name: str
    missing: tuple[str, ...]
    answer: Answer

    @property
    def has_values(self) -> bool:
        return any(not isnan(value) for _, value in self.answer.points)


def lines(
    prometheus: PrometheusServer, panel: Manifest, namespace: str, start: float, end: float, step: float = 1
) -> Iterator[Line]:
    """Of the whole panel, between two instants (Unix time), in steps of so many seconds; a table is about the later one."""
    for target in panel["targets"]:
        query = filled_in(target["expr"], namespace, RATE_INTERVAL)
        is_table = target.get("instant", False)
        for answer in (
            prometheus.query(query, end) if is_table else prometheus.query_range(query, start, end, step)
        ):  # fmt: skip
            yield _line(target, answer)


def _line(target: dict[str, Any], answer: Answer) -> Line:
    legend = target["legendFormat"]
    name = IN_BRACES.sub(lambda label: answer.labels.get(label[1], ""), legend)
    missing = tuple(label for label in IN_BRACES.findall(legend) if not answer.labels.get(label))
    return Line(target["refId"], name, missing, answer)
