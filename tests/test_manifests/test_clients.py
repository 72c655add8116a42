"""The components for clients: the way from the tailnet leads to the listener that believes logins, and from nowhere else."""

import os
from pathlib import Path
from typing import Any

import pytest

from oauth_pool_proxy.config import ClientsConfig, parse_config
from tests.test_manifests.manifests import K8S, WITH_KUSTOMIZE, Manifest, of_kind, one, variant

pytestmark = WITH_KUSTOMIZE

APP = "anthropic-oauth-proxy"
TAILNET = "anthropic-oauth-proxy-tailnet"


@pytest.fixture
def overlay(tmp_path: Path) -> list[Manifest]:
    components = [os.path.relpath(K8S / "components" / name, tmp_path) for name in ("clients-tailscale", "clients-top")]
    return variant(tmp_path, {"namespace": APP, "components": components}, of="default")


def containers(overlay: list[Manifest]) -> list[Any]:
    containers: list[Any] = one(overlay, "Deployment", APP)["spec"]["template"]["spec"]["containers"]
    return containers


def test_the_ingress_leads_to_the_listener_for_the_tailscale_proxy(overlay: list[Manifest]) -> None:
    (rule,) = one(overlay, "Ingress", APP)["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": TAILNET, "port": {"number": 80}}
    (port,) = one(overlay, "Service", TAILNET)["spec"]["ports"]
    (container,) = containers(overlay)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "metrics": 9090, "tailnet": 8081}
    assert (port["port"], port["targetPort"]) == (80, "tailnet")
    assert one(overlay, "Service", APP)["spec"]["ports"][0]["targetPort"] == "http"


def test_nobody_else_can_reach_that_listener(overlay: list[Manifest]) -> None:
    opened = [
        (policy["metadata"]["name"], rule["from"])
        for policy in of_kind(overlay, "NetworkPolicy")
        for rule in policy["spec"].get("ingress") or ()
        if any(port["port"] in ("tailnet", 8081) for port in rule.get("ports") or ({"port": 8081},))
    ]
    ((name, sources),) = opened
    assert name == TAILNET
    (source,) = sources
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "tailscale"}
    assert source["podSelector"]["matchLabels"]["tailscale.com/parent-resource"] == APP


def test_the_example_is_a_configuration_that_fits(overlay: list[Manifest]) -> None:
    import tomllib

    text = (K8S.parent / "examples" / "clients" / "config.toml").read_text()
    pool = {"source": "file", "index_dir": "/i"}
    proxy = {"listen_addr": "0.0.0.0:8080", "metrics_addr": "0.0.0.0:9090", "upstream_url": "https://api.example"}
    environment = {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}
    config = parse_config({"proxy": proxy, "oauth": pool, **tomllib.loads(text)}, environment)
    assert isinstance(config.clients, ClientsConfig) and config.clients.tailscale
    assert config.clients.tailscale.port == 8081
    assert [rule.deny for rule in config.clients.rules] == [False, False, False, True]
