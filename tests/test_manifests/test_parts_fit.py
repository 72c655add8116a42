"""The parts of each overlay fit together, and fit the programs: configuration, files, ports, probes, selectors."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from oauth_pool_operator.config import DEFAULT_PATH, OperatorSettings, split_address
from oauth_pool_operator.handlers import DRAIN_SECONDS
from oauth_pool_operator.oauth.profiles import LONGEST_TIMEOUT_SECS
from tests.test_manifests.manifests import (
    OPERATOR,
    OVERLAYS,
    POOLS,
    PROXY,
    ROOT,
    WITH_KUSTOMIZE,
    Manifest,
    container,
    of_kind,
    one,
    overlay,
    pod_templates,
    toml_of,
    variant,
)

pytestmark = WITH_KUSTOMIZE

DNS, HTTPS = (53, 5353), (443, 6443, 6444, 8443, 16443)
"""Where resolvers and API servers listen: OpenShift's DNS at 5353; minikube, MicroK8s and k3s each have a port of their own."""
PART_OF = {"app.kubernetes.io/part-of": "oauth-pool"}
every_overlay = pytest.mark.parametrize("name", OVERLAYS)
every_pool = pytest.mark.parametrize("name", POOLS)


@every_overlay
def test_the_proxy_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    text = toml_of(overlay(name), PROXY)
    if name in POOLS:  # what a pod knows by itself
        text += '\n[oauth.kubernetes]\nserver = "https://127.0.0.1:6443"\nnamespace = "anthropic-oauth-proxy"\n'
    check = _check("oauth-pool-proxy", text, tmp_path)
    assert (check.returncode, check.stderr) == (0, "")
    assert ("passthrough" in check.stdout) == (name == "passthrough")


@every_pool
def test_the_operator_accepts_its_configuration_and_says_what_is_missing(name: str, tmp_path: Path) -> None:
    check = _check(
        "oauth-pool-operator", toml_of(overlay(name), OPERATOR), tmp_path, "--namespace", "anthropic-oauth-proxy"
    )
    assert (check.returncode, check.stderr) == (0, "")
    assert "no provider" in check.stdout


@every_overlay
def test_a_proxy_has_the_time_that_its_configuration_says_it_takes_to_end(name: str) -> None:
    proxy = tomllib.loads(toml_of(overlay(name), PROXY))["proxy"]
    grace = pod_templates(overlay(name))[PROXY]["spec"]["terminationGracePeriodSeconds"]
    assert proxy["pre_stop_delay_secs"] > 0
    assert grace == proxy["pre_stop_delay_secs"] + proxy["drain_timeout_secs"] + 1
    assert proxy["drain_timeout_secs"] == 300, "an answer that ends within five minutes is ended by no rollout"
    assert one(overlay(name), "Deployment", PROXY)["spec"]["minReadySeconds"] > 0


@every_pool
def test_the_operator_has_the_time_to_end_the_longest_request_that_can_be_configured(name: str) -> None:
    """The pod outlives the drain, and the drain the longest `timeout_secs` (tests/test_operator/test_config.py)."""
    assert DRAIN_SECONDS >= LONGEST_TIMEOUT_SECS + 10
    assert pod_templates(overlay(name))[OPERATOR]["spec"]["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + 10


@every_overlay
def test_files_are_where_the_programs_look_for_them(name: str) -> None:
    templates = pod_templates(overlay(name))
    config = {"name": "config", "readOnly": True}
    mounts = {deployment: container(template)["volumeMounts"] for deployment, template in templates.items()}
    proxy_config = _config_path_of("Dockerfile.proxy")
    proxy = [{**config, "mountPath": str(proxy_config.parent)}]
    if name in POOLS:
        settings = OperatorSettings()
        proxy.append({"name": "key", "mountPath": "/run/oauth-pool"})
        assert _config_path_of("Dockerfile.operator") == DEFAULT_PATH
        assert _by_name(mounts[OPERATOR]) == _by_name(
            [
                {**config, "mountPath": str(DEFAULT_PATH.parent)},
                {"name": "state", "mountPath": str(settings.state_dir)},
            ]
        )
        volumes = _by_volume(templates[PROXY])
        assert volumes.keys() == {"config", "key"}, "refresh tokens are the operator's alone"
        assert volumes["key"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    assert _by_name(mounts[PROXY]) == _by_name(proxy)
    assert proxy_config.name == DEFAULT_PATH.name == "config.toml"


def test_with_a_shared_volume_both_find_the_access_tokens(tmp_path: Path) -> None:
    templates = pod_templates(variant(tmp_path, {}, of="multi-replica", components=("shared-volume",)))
    access = {"name": "access", "mountPath": str(OperatorSettings().access_dir)}
    assert access in container(templates[OPERATOR])["volumeMounts"]
    assert {**access, "readOnly": True} in container(templates[PROXY])["volumeMounts"]
    for template in templates.values():
        assert _by_volume(template)["access"]["persistentVolumeClaim"] == {"claimName": "oauth-access"}
    assert "oauth-state" not in str(templates[PROXY])


@every_overlay
def test_ports_are_those_that_the_programs_listen_on(name: str) -> None:
    templates = pod_templates(overlay(name))
    proxy = tomllib.loads(toml_of(overlay(name), PROXY))["proxy"]
    listen, metrics = (split_address(proxy[key])[1] for key in ("listen_addr", "metrics_addr"))
    assert _ports(templates[PROXY]) == {"http": listen, "metrics": metrics}
    assert _scraped(templates[PROXY]) == ("true", str(metrics), "/metrics")
    if name in POOLS:
        settings = OperatorSettings()
        ports = {
            "health": split_address(settings.health_listen_addr)[1],
            "metrics": split_address(settings.metrics_listen_addr)[1],
        }
        assert _ports(templates[OPERATOR]) == ports
        assert _scraped(templates[OPERATOR]) == ("true", str(ports["metrics"]), "/metrics")


@every_overlay
def test_probes_ask_declared_ports_for_the_documented_paths(name: str) -> None:
    probes = {
        deployment: {
            kind: (probe["httpGet"]["path"], probe["httpGet"]["port"])
            for kind, probe in container(template).items()
            if kind.endswith("Probe")
        }
        for deployment, template in pod_templates(overlay(name)).items()
    }
    expected = {
        PROXY: {
            "startupProbe": ("/health", "http"),
            "livenessProbe": ("/health", "http"),
            "readinessProbe": ("/ready", "http"),
        },
        OPERATOR: {
            "startupProbe": ("/healthz", "health"),
            "livenessProbe": ("/healthz", "health"),
            "readinessProbe": ("/readyz", "health"),
        },
    }
    assert probes == {deployment: expected[deployment] for deployment in probes}
    for template in pod_templates(overlay(name)).values():
        startup = container(template)["startupProbe"]
        assert (startup["failureThreshold"], startup["periodSeconds"]) == (30, 2)


@every_overlay
def test_a_request_finds_its_way_from_the_tailnet_to_the_pod(name: str) -> None:
    objects = overlay(name)
    ingress = one(objects, "Ingress", PROXY)["spec"]
    assert ingress["ingressClassName"] == "tailscale"
    (rule,) = ingress["rules"]
    assert (rule["host"], ingress["tls"]) == (PROXY, [{"hosts": [PROXY]}])
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = one(objects, "Service", backend["name"])
    (port,) = service["spec"]["ports"]
    assert port["port"] == backend["port"]["number"] == 80
    selected = _selected(objects, service["spec"]["selector"])
    assert list(selected) == [PROXY]
    assert port["targetPort"] in _ports(selected[PROXY])


@every_overlay
def test_whatever_selects_pods_selects_those_of_one_deployment(name: str) -> None:
    objects = overlay(name)
    for deployment in of_kind(objects, "Deployment"):
        assert list(_selected(objects, deployment["spec"]["selector"]["matchLabels"])) == [
            deployment["metadata"]["name"]
        ]
    policies = of_kind(objects, "NetworkPolicy")
    limited = [
        list(_selected(objects, found["spec"]["podSelector"]["matchLabels"]))
        for found in policies
        if found["metadata"]["name"] != "default-deny"
    ]
    assert sorted(limited) == [[deployment] for deployment in sorted(pod_templates(objects))]
    budget = one(objects, "PodDisruptionBudget", PROXY)
    assert list(_selected(objects, budget["spec"]["selector"]["matchLabels"])) == [PROXY]


@every_overlay
def test_network_policies_let_in_who_is_named_and_nobody_else(name: str) -> None:
    objects = overlay(name)
    assert one(objects, "NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {"matchLabels": PART_OF},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert list(_selected(objects, PART_OF)) == list(pod_templates(objects))
    for deployment, template in pod_templates(objects).items():
        spec = one(objects, "NetworkPolicy", deployment)["spec"]
        for rule in spec["ingress"]:
            assert all(set(source) == {"namespaceSelector"} and source["namespaceSelector"] for source in rule["from"])
            assert {port["port"] for port in rule["ports"]} <= set(_ports(template))
        assert {port["port"] for egress in spec["egress"] for port in egress["ports"]} == {*DNS, *HTTPS}
        assert all(egress.keys() == {"ports"} for egress in spec["egress"]), "addresses are other ones on each cluster"


def test_strict_network_policies_name_addresses_and_let_in_the_same(tmp_path: Path) -> None:
    objects = variant(tmp_path, {}, of="default", components=("network-policies-strict",))
    for deployment in pod_templates(objects):
        spec = one(objects, "NetworkPolicy", deployment)["spec"]
        assert spec["ingress"] == one(overlay("default"), "NetworkPolicy", deployment)["spec"]["ingress"]
        assert all(egress["to"] for egress in spec["egress"])
        assert {port["port"] for egress in spec["egress"] for port in egress["ports"]} == {53, 443, 6443}


def test_on_cilium_the_api_server_is_let_out_to_by_what_it_is(tmp_path: Path) -> None:
    components = ("network-policies-strict", "network-policies-cilium")
    objects = variant(tmp_path, {"namespace": "elsewhere"}, of="passthrough", components=components)
    (policy,) = of_kind(objects, "CiliumNetworkPolicy")
    assert policy["metadata"]["namespace"] == "elsewhere"
    assert list(_selected(objects, policy["spec"]["endpointSelector"]["matchLabels"])) == [PROXY]
    assert policy["spec"]["egress"] == [{"toEntities": ["kube-apiserver"]}]


@every_pool
def test_the_kubectl_plugin_finds_the_operators_pod(name: str) -> None:
    template = pod_templates(overlay(name))[OPERATOR]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "oauth-pool-operator"
    assert container(template)["name"] == "operator"


@every_overlay
def test_each_proxy_knows_the_pod_as_which_it_declares_itself_and_reports(name: str) -> None:
    known = {
        variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
        for variable in container(pod_templates(overlay(name))[PROXY])["env"]
    }
    uid = {"POD_UID": "metadata.uid"} if name in POOLS else {}
    assert known == {"POD_NAME": "metadata.name", **uid}


def _check(program: str, text: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    file = folder / "config.toml"
    file.write_text(text)
    command: list[str | Path] = [Path(sys.executable).parent / program, "--config", file, "--check", *flags]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={})


def _config_path_of(dockerfile: str) -> Path:
    found = re.search(r"CONFIG_PATH=(\S+)", (ROOT / dockerfile).read_text())
    assert found
    return Path(found[1])


def _ports(template: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(template)["ports"]}


def _scraped(template: Manifest) -> tuple[str, str, str]:
    found = template["metadata"]["annotations"]
    return found["prometheus.io/scrape"], found["prometheus.io/port"], found["prometheus.io/path"]


def _selected(objects: list[Manifest], labels: dict[str, str]) -> dict[str, Manifest]:
    assert labels
    return {
        deployment: template
        for deployment, template in pod_templates(objects).items()
        if labels.items() <= template["metadata"]["labels"].items()
    }


def _by_volume(template: Manifest) -> dict[str, Manifest]:
    return {volume["name"]: volume for volume in template["spec"]["volumes"]}


def _by_name(mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(mounts, key=lambda mount: str(mount["name"]))
