"""What each overlay is made of."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.test_manifests.manifests import (
    CONFIGS,
    IMAGES,
    K8S,
    OF_THE_CLUSTER,
    OPERATOR,
    OVERLAYS,
    POOLS,
    PROXY,
    ROOT,
    WITH_KUSTOMIZE,
    Manifest,
    cluster_part,
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

pytestmark = WITH_KUSTOMIZE

PART_OF = "app.kubernetes.io/part-of"
every_overlay = pytest.mark.parametrize("name", OVERLAYS)
every_pool = pytest.mark.parametrize("name", POOLS)


def access_modes(objects: list[Manifest]) -> dict[str, list[str]]:
    return {
        found["metadata"]["name"]: found["spec"]["accessModes"] for found in of_kind(objects, "PersistentVolumeClaim")
    }


def key(found: Manifest) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


def test_apply_k_gives_what_is_of_the_cluster_and_the_default_overlay() -> None:
    assert sorted(kustomize(K8S), key=key) == sorted([*cluster_part(), *overlay("default")], key=key)


@every_overlay
def test_a_pool_comes_and_goes_without_what_it_shares_with_others(name: str) -> None:
    """`kubectl delete -k` of it would delete the accounts of all pools with the kind."""
    assert {found["kind"] for found in overlay(name)} & OF_THE_CLUSTER == {"Namespace"}
    assert {found["kind"] for found in cluster_part()} <= OF_THE_CLUSTER
    assert not of_kind(cluster_part(), "Namespace")


@every_overlay
def test_without_a_choice_it_is_the_images_that_ci_publishes(name: str) -> None:
    """Under one owner, who is nobody before somebody says so: a name that no registry can have is pulled from nobody."""
    images = {container(template)["image"] for template in pod_templates(overlay(name)).values()}
    assert images == {IMAGES[image] for image in IMAGES if name in POOLS or image == "oauth-pool-proxy"}
    owner = r"ghcr\.io/(OWNER|[a-z0-9-]+)"
    found = {re.fullmatch(rf"{owner}/oauth-pool-(proxy|operator):[a-z0-9.-]+", image) for image in IMAGES.values()}
    assert None not in found
    assert len({match[1] for match in found if match}) == 1


@every_overlay
def test_one_label_finds_all_of_it(name: str) -> None:
    objects = [*cluster_part(), *overlay(name), *(template for template in pod_templates(overlay(name)).values())]
    assert [found for found in objects if found["metadata"]["labels"].get(PART_OF) != "oauth-pool"] == []


@every_pool
def test_the_operators_permissions_can_be_left_for_last(name: str) -> None:
    """Removed in one go with it, it could not let go of accounts any more."""
    kept = {
        key(found)
        for found in overlay(name)
        if found["metadata"]["labels"].get("app.kubernetes.io/component") == "permissions"
    }
    assert kept == {
        (kind, account)
        for kind in ("ServiceAccount", "Role", "RoleBinding")
        for account in ("oauth-pool-operator", "oauth-pool-proxy")
    }


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        pytest.param("default", {"oauth-state": ["ReadWriteOnce"]}, id="default"),
        pytest.param("multi-replica", {"oauth-state": ["ReadWriteOnce"]}, id="multi"),
        pytest.param("passthrough", {}, id="passthrough"),
    ],
)
def test_one_volume_of_any_kind_is_all_that_is_asked_for(name: str, claims: dict[str, list[str]]) -> None:
    assert access_modes(overlay(name)) == claims
    assert not [
        claim for claim in of_kind(overlay(name), "PersistentVolumeClaim") if "storageClassName" in claim["spec"]
    ]


@pytest.mark.parametrize(
    ("component", "claims"),
    [
        ("read-write-once-pod", {"oauth-state": ["ReadWriteOncePod"]}),
        ("shared-volume", {"oauth-state": ["ReadWriteOnce"], "oauth-access": ["ReadWriteMany"]}),
    ],
)
def test_other_volumes_are_components(component: str, claims: dict[str, list[str]], tmp_path: Path) -> None:
    assert access_modes(variant(tmp_path, {}, of="multi-replica", components=(component,))) == claims


def test_a_namespace_that_others_own_is_not_touched(tmp_path: Path) -> None:
    objects = variant(tmp_path, {"namespace": "theirs"}, of="default", components=("without-namespace",))
    assert not {found["kind"] for found in objects} & OF_THE_CLUSTER
    assert {found["metadata"]["namespace"] for found in objects} == {"theirs"}


@every_overlay
def test_pod_security_is_that_of_the_oldest_kubernetes_whatever_the_cluster_is_updated_to(name: str) -> None:
    (namespace,) = of_kind(overlay(name), "Namespace")
    labels = {
        label.removeprefix("pod-security.kubernetes.io/"): value
        for label, value in namespace["metadata"]["labels"].items()
        if label.startswith("pod-security.")
    }
    modes = ("enforce", "warn", "audit")
    assert labels == {**dict.fromkeys(modes, "restricted"), **{f"{mode}-version": "v1.30" for mode in modes}}


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


@pytest.mark.parametrize("where", ["on top of default", "on top of multi-replica", "in multi-replica itself"])
def test_the_autoscaler_is_not_set_back_by_an_apply(where: str, tmp_path: Path) -> None:
    if where.startswith("on top"):
        objects = variant(tmp_path, {}, of=where.rpartition(" ")[2], components=("autoscaling",))
    else:
        for folder in ("crds", "k8s"):
            shutil.copytree(ROOT / folder, tmp_path / folder)
        file = tmp_path / "k8s/overlays/multi-replica/kustomization.yaml"
        content = yaml.safe_load(file.read_text())
        content["components"].append("../../components/autoscaling")
        file.write_text(yaml.safe_dump(content))
        objects = kustomize(file.parent)
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
        {
            "name": published.partition(":")[0],
            "newName": f"registry.example.com/team/{image}",
            "newTag": "sha-1234567",
        }
        for image, published in IMAGES.items()
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
    assert {found["metadata"]["namespace"] for found in objects if found["kind"] != "Namespace"} == {"elsewhere"}
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
