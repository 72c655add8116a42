"""The component on top of overlays: what is scraped, and that the Prometheus operator's API takes it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, KubectlError, wait_until
from tests.support.prometheus_operator import definition
from tests.test_manifests.documentation import blocks, rendered
from tests.test_manifests.manifests import (
    OPERATOR,
    OVERLAYS,
    POOLS,
    PROXY,
    ROOT,
    WITH_KUSTOMIZE,
    Manifest,
    container,
    mappings,
    of_kind,
    one,
    overlay,
    pod_templates,
)
from tests.test_monitoring.component import NAMESPACE, dashboard, overlay_with_monitoring, rule_file

pytestmark = WITH_KUSTOMIZE

KINDS = {"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules"}
every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def monitoring_of(objects: list[Manifest]) -> list[Manifest]:
    return [found for kind in KINDS for found in of_kind(objects, kind)]


@every_overlay
def test_both_processes_are_scraped_where_they_say_so(name: str) -> None:
    objects = overlay_with_monitoring(name)
    for deployment, template in pod_templates(objects).items():
        monitor = one(objects, "PodMonitor", deployment)
        assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        ports = {port["name"]: str(port["containerPort"]) for port in container(template)["ports"]}
        annotated = pod_templates(overlay(name))[deployment]["metadata"]["annotations"]
        assert ports[endpoint["port"]] == annotated["prometheus.io/port"]
        assert endpoint["path"] == annotated["prometheus.io/path"]


@every_overlay
def test_nothing_is_scraped_twice(name: str) -> None:
    objects = overlay_with_monitoring(name)
    for template in pod_templates(objects).values():
        assert not [key for key in template["metadata"].get("annotations") or {} if key.startswith("prometheus.io/")]
    selected = [
        (monitor["metadata"]["name"], deployment)
        for monitor in of_kind(objects, "PodMonitor")
        for deployment, template in pod_templates(objects).items()
        if monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ]
    assert selected == [(deployment, deployment) for deployment in sorted(pod_templates(objects))]


@every_overlay
def test_beside_that_it_changes_nothing(name: str) -> None:
    def without_annotations(objects: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        found = {(entry["kind"], entry["metadata"]["name"]): entry for entry in json.loads(json.dumps(objects))}
        for template in pod_templates(list(found.values())).values():
            template["metadata"].pop("annotations", None)
        return found

    before, after = without_annotations(overlay(name)), without_annotations(overlay_with_monitoring(name))
    assert {key: after[key] for key in before} == before
    added = {("PodMonitor", PROXY), ("PodMonitor", OPERATOR), ("PrometheusRule", "oauth-pool")}
    assert after.keys() - before.keys() == added | {("ConfigMap", "oauth-pool-dashboard")}


@every_overlay
def test_rules_and_dashboard_arrive_as_they_are(name: str) -> None:
    objects = overlay_with_monitoring(name)
    assert one(objects, "PrometheusRule", "oauth-pool")["spec"] == rule_file()
    # by this label Grafana's sidecar finds it, and under this name it replaces the one of before
    config_map = one(objects, "ConfigMap", "oauth-pool-dashboard")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config_map["data"]["oauth-pool.json"]) == dashboard()
    assert len(json.dumps(config_map)) < 256 * 1024  # beyond, `kubectl apply` has no room to note what it applied


@pytest.mark.parametrize("name", POOLS)
def test_the_network_policies_let_prometheus_in_where_it_scrapes(name: str) -> None:
    objects = overlay_with_monitoring(name)
    for monitor in of_kind(objects, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        let_in = [
            source["namespaceSelector"]["matchLabels"]
            for rule in one(objects, "NetworkPolicy", monitor["metadata"]["name"])["spec"]["ingress"]
            for source in rule["from"]
            if endpoint["port"] in [port["port"] for port in rule["ports"]]
        ]
        assert let_in == [{"kubernetes.io/metadata.name": "monitoring"}], "where metrics are, nobody else comes in"


@pytest.fixture(scope="module")
def with_definitions(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The API server with the kinds of the Prometheus operator; namespace and its name as shipped."""
    for plural in KINDS.values():
        control_plane.kubectl("apply", "--server-side", "-f", str(definition(plural)))
    paths = [f"/apis/monitoring.coreos.com/v1/{plural}" for plural in KINDS.values()]
    wait_until(lambda: all(control_plane.api.get(path).is_success for path in paths), "the kinds can be listed")
    yield control_plane
    for plural in KINDS.values():
        control_plane.kubectl("delete", "-f", str(definition(plural)), "--timeout=30s")


def dry_run(plane: ControlPlane, manifest: Manifest, namespace: str) -> str:
    moved = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
    return plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(moved))


@every_overlay
def test_the_api_server_takes_monitors_and_rules(with_definitions: ControlPlane, namespace: str, name: str) -> None:
    objects = monitoring_of(overlay_with_monitoring(name))
    assert len(objects) == 3
    for manifest in objects:
        assert manifest["metadata"]["namespace"] == NAMESPACE
        assert "created" in dry_run(with_definitions, manifest, namespace)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        pytest.param("PrometheusRule", "for", "five minutes", id="no duration"),
        pytest.param("PrometheusRule", "expression", "up", id="a field of a rule that there is not"),
        pytest.param("PodMonitor", "interval", "often", id="no interval"),
    ],
)
def test_the_api_server_would_notice(
    with_definitions: ControlPlane, namespace: str, kind: str, key: str, value: str
) -> None:
    manifest = json.loads(json.dumps(of_kind(overlay_with_monitoring("default"), kind)[0]))
    where = next(part for part in mappings(manifest["spec"]) if "alert" in part or "port" in part)
    where[key] = value
    with pytest.raises(KubectlError, match=rf'{key}|unknown field "spec.*{key}"'):
        dry_run(with_definitions, manifest, namespace)


def test_the_kustomization_of_the_documentation_does_what_it_says(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "docs" / "metrics.md")
    objects = rendered(block, tmp_path)
    assert len(monitoring_of(objects)) == 3
    for found in monitoring_of(objects):
        assert found["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        assert found["metadata"]["namespace"] == NAMESPACE
    links = {
        rule["alert"]: rule["annotations"]["runbook_url"]
        for group in one(objects, "PrometheusRule", "oauth-pool")["spec"]["groups"]
        for rule in group["rules"]
    }
    assert links
    base = "https://github.com/OWNER/oauth-pool/blob/v0.1.0/RUNBOOK.md"
    assert links == {alert: f"{base}#{alert.lower()}" for alert in links}
    assert not [found for found in of_kind(objects, "ConfigMap") if "runbook" in found["metadata"]["name"]]
