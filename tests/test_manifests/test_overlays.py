"""What each overlay is made of."""

import copy
import os
import re
from pathlib import Path

import pytest
import yaml

from tests.test_manifests.manifests import (
    CONFIGS,
    K8S,
    OPERATOR,
    OVERLAYS,
    POOLS,
    PROXY,
    ROOT,
    Manifest,
    container,
    kustomize,
    mappings,
    of_kind,
    one,
    overlay,
    pod_templates,
    toml_of,
    variant,
)

every_overlay = pytest.mark.parametrize("name", OVERLAYS)
every_pool = pytest.mark.parametrize("name", POOLS)


def access_modes(objects: list[Manifest]) -> dict[str, list[str]]:
    return {
        found["metadata"]["name"]: found["spec"]["accessModes"] for found in of_kind(objects, "PersistentVolumeClaim")
    }


def test_apply_k_gives_the_default_overlay_with_the_images_that_were_chosen() -> None:
    chosen, default = kustomize(K8S), copy.deepcopy(overlay("default"))
    images = {image["name"]: image for image in yaml.safe_load((K8S / "kustomization.yaml").read_text())["images"]}
    for template in pod_templates(default).values():
        image = images[container(template)["image"].partition(":")[0]]
        container(template)["image"] = f"{image['newName']}:{image['newTag']}"
    assert chosen == default


@every_overlay
def test_without_a_choice_it_is_the_images_that_make_built(name: str) -> None:
    tag = re.findall(r"^TAG \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    images = {container(template)["image"] for template in pod_templates(overlay(name)).values()}
    assert images <= {f"oauth-pool-proxy:{tag}", f"oauth-pool-operator:{tag}"}


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        pytest.param("default", {"oauth-state": ["ReadWriteOncePod"], "oauth-access": ["ReadWriteMany"]}, id="default"),
        pytest.param("single-node", {"oauth-state": ["ReadWriteOnce"], "oauth-access": ["ReadWriteOnce"]}, id="single"),
        pytest.param(
            "multi-replica", {"oauth-state": ["ReadWriteOncePod"], "oauth-access": ["ReadWriteMany"]}, id="multi"
        ),
        pytest.param("passthrough", {}, id="passthrough"),
    ],
)
def test_volumes_can_be_mounted_where_the_pods_of_the_overlay_run(name: str, claims: dict[str, list[str]]) -> None:
    assert access_modes(overlay(name)) == claims


def test_several_proxies_are_spread_and_no_rollout_or_drain_takes_them_all() -> None:
    deployment = one(overlay("multi-replica"), "Deployment", PROXY)
    assert deployment["spec"]["replicas"] == 3
    topologies = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [found["topologyKey"] for found in topologies] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert one(overlay("multi-replica"), "PodDisruptionBudget", PROXY)["spec"]["maxUnavailable"] == 1


def test_passthrough_has_nothing_of_a_pool() -> None:
    kinds = {found["kind"] for found in overlay("passthrough")}
    assert kinds == {
        *("Namespace", "ConfigMap", "Service", "Deployment", "Ingress", "NetworkPolicy", "PodDisruptionBudget"),
    }
    assert "oauth-pool-operator" not in str(overlay("passthrough"))


@every_pool
def test_there_is_never_a_second_operator(name: str) -> None:
    spec = one(overlay(name), "Deployment", OPERATOR)["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_autoscaler_is_not_set_back_by_an_apply(tmp_path: Path) -> None:
    component = {"components": [os.path.relpath(K8S / "components" / "autoscaling", tmp_path)]}
    objects = variant(tmp_path, component, of="multi-replica")
    assert "replicas" not in one(objects, "Deployment", PROXY)["spec"]
    scaler = one(objects, "HorizontalPodAutoscaler", PROXY)
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": PROXY}
    metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert f"`{metric}`" in (ROOT / "docs" / "metrics.md").read_text()


@every_overlay
def test_there_is_no_secret_and_nothing_that_names_one(name: str) -> None:
    assert not of_kind(overlay(name), "Secret")
    keys = {
        key
        for found in overlay(name)
        if found["kind"] != "CustomResourceDefinition"
        for part in mappings(found)
        for key in part
    }
    assert not {key for key in keys if "secret" in key.lower()}


@every_overlay
def test_only_who_talks_to_the_api_server_has_a_token_for_it(name: str) -> None:
    with_token = {
        deployment: template["spec"].get("serviceAccountName")
        for deployment, template in pod_templates(overlay(name)).items()
        if template["spec"]["automountServiceAccountToken"]
    }
    assert with_token == ({} if name == "passthrough" else {PROXY: "oauth-pool-proxy", OPERATOR: "oauth-pool-operator"})
    for template in pod_templates(overlay(name)).values():
        assert not [volume for volume in template["spec"]["volumes"] if "projected" in volume]


@every_overlay
def test_images_can_be_chosen_on_top_of_it(name: str, tmp_path: Path) -> None:
    images = [
        {"name": image, "newName": f"registry.example.com/team/{image}", "newTag": "sha-1234567"}
        for image in ("oauth-pool-proxy", "oauth-pool-operator")
    ]
    found = {
        container(template)["image"]
        for template in pod_templates(variant(tmp_path, {"images": images}, of=name)).values()
    }
    expected = {"registry.example.com/team/oauth-pool-proxy:sha-1234567"}
    if name in POOLS:
        expected.add("registry.example.com/team/oauth-pool-operator:sha-1234567")
    assert found == expected


@every_overlay
def test_the_namespace_can_be_another(name: str, tmp_path: Path) -> None:
    objects = variant(tmp_path, {"namespace": "elsewhere"}, of=name)
    assert [found["metadata"]["name"] for found in of_kind(objects, "Namespace")] == ["elsewhere"]
    in_cluster = {
        "Namespace",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    assert {found["metadata"]["namespace"] for found in objects if found["kind"] not in in_cluster} == {"elsewhere"}
    subjects = [subject for binding in of_kind(objects, "RoleBinding") for subject in binding["subjects"]]
    assert {subject["namespace"] for subject in subjects} <= {"elsewhere"}


@every_overlay
def test_an_edited_configuration_is_a_new_config_map(name: str) -> None:
    for deployment in pod_templates(overlay(name)):
        toml_of(overlay(name), deployment)  # the Deployment names a ConfigMap that is there
    names = sorted(found["metadata"]["name"] for found in of_kind(overlay(name), "ConfigMap"))
    expected = [CONFIGS[deployment] for deployment in sorted(pod_templates(overlay(name)))]
    assert [re.sub(r"-[a-z0-9]{10}$", "", found) for found in names] == sorted(expected)


@every_overlay
def test_the_proxys_resources_are_those_of_the_design(name: str) -> None:
    assert container(pod_templates(overlay(name))[PROXY])["resources"] == {
        "requests": {"cpu": "50m", "memory": "32Mi"},
        "limits": {"cpu": "500m", "memory": "128Mi"},
    }
