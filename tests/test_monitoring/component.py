"""What k8s/components/monitoring has and makes of an overlay, and what its alerts and panels ask Prometheus."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.test_manifests.manifests import K8S, Manifest, variant

COMPONENT = K8S / "components" / "monitoring"
NAMESPACE = "anthropic-oauth-proxy"
WORDS = frozenset(
    (
        *("sum", "min", "max", "count", "by", "and", "or", "unless", "on", "ignoring", "group_left", "group_right"),
        *("rate", "increase", "max_over_time", "histogram_quantile", "time", "vector", "bool"),
    )
)
"""What PromQL itself says in our queries. Whatever is no word of it is a metric or a label."""


@cache
def overlay_with_monitoring(name: str) -> list[Manifest]:
    with TemporaryDirectory() as folder:
        content = {"namespace": NAMESPACE, "components": [os.path.relpath(COMPONENT, folder)]}
        return variant(Path(folder), content, of=name)


@cache
def rule_file() -> Manifest:
    """The rules as Prometheus reads them."""
    spec: Manifest = yaml.safe_load((COMPONENT / "alerts.yaml").read_text())["spec"]
    return spec


def alerts() -> list[Manifest]:
    return [rule for group in rule_file()["groups"] for rule in group["rules"]]


@cache
def dashboard() -> Manifest:
    document: Manifest = json.loads((COMPONENT / "dashboard.json").read_text())
    return document


def panels() -> list[Manifest]:
    """Those that show something; rows are headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Who asks, and what, for all alerts and panels; variables have the values that somebody may choose."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], filled_in(target["expr"])


def filled_in(query: str, namespace: str = NAMESPACE, rate_interval: str = "2m") -> str:
    """A panel's query as Grafana asks it; with the scrape interval of our PodMonitors it looks at two minutes."""
    return query.replace("$namespace", namespace).replace("$__rate_interval", rate_interval)


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def selects(self, metric: str, labels: dict[str, str]) -> bool:
        return metric == self.metric and all(
            (value == labels.get(name, "") if "~" not in operator else bool(re.fullmatch(value, labels.get(name, ""))))
            is (operator in ("=", "=~"))
            for name, operator, value in self.matchers
        )


def selectors(query: str) -> list[Selector]:
    """Every metric of a query, with its matchers."""
    return [
        Selector(metric, tuple(re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers)))
        for metric, matchers in re.findall(r"\b((?:proxy|pool|process)_\w+)(?:\{([^}]*)\})?", query)
    ]


def grouping_labels(query: str) -> set[str]:
    """Every label of a query that no matcher is about."""
    without_matchers = re.sub(r"\{[^}]*\}", "", query)
    names = set(re.findall(r"\b[a-z_]\w*", without_matchers)) - WORDS
    return names - {selector.metric for selector in selectors(query)}
