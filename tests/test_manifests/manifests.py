"""What `kubectl kustomize` makes of the folders below k8s/, and how to find things in it."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.control_plane import binaries
from tests.support.control_plane.binaries import kubectl_in

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
POOLS = ["default", "multi-replica"]
OVERLAYS = [*POOLS, "passthrough"]
COMPONENTS = sorted(folder.name for folder in (K8S / "components").iterdir())
IMAGES: dict[str, str] = {
    image["name"]: f"{image['newName']}:{image['newTag']}"
    for image in yaml.safe_load((K8S / "components/images/kustomization.yaml").read_text())["images"]
}
"""The images that run unless somebody says otherwise."""
OF_THE_CLUSTER = {
    *("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Namespace"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}
"""Kinds without a namespace."""
NAMESPACE = "anthropic-oauth-proxy"
PROXY, OPERATOR = "anthropic-oauth-proxy", "oauth-pool-operator"
CONFIGS = {PROXY: "proxy-config", OPERATOR: "operator-config"}

Manifest = dict[str, Any]

WITH_KUSTOMIZE = pytest.mark.usefixtures("control_plane_binaries")
"""For `pytestmark` of tests that call what is below: kubectl may still have to be built."""


def kustomize(folder: Path) -> list[Manifest]:
    result = subprocess.run([kubectl_in(binaries()), "kustomize", folder], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr  # deprecated fields
    return list(yaml.safe_load_all(result.stdout))


@cache
def cluster_part() -> list[Manifest]:
    """What all pools of a cluster share."""
    return kustomize(K8S / "cluster")


@cache
def overlay(name: str) -> list[Manifest]:
    return kustomize(K8S / "overlays" / name)


def variant(folder: Path, content: Manifest, *, of: str, components: tuple[str, ...] = ()) -> list[Manifest]:
    """What a kustomization in `folder` makes that builds on the overlay, as a person would write one."""
    written: Manifest = {"resources": [os.path.relpath(K8S / "overlays" / of, folder)]}
    if components:
        written["components"] = [os.path.relpath(K8S / "components" / name, folder) for name in components]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(written | content))
    return kustomize(folder)


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [found for found in objects if found["kind"] == kind]


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    found = [entry for entry in of_kind(objects, kind) if entry["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def pod_templates(objects: list[Manifest]) -> dict[str, Manifest]:
    """Deployment -> its pod template."""
    return {found["metadata"]["name"]: found["spec"]["template"] for found in of_kind(objects, "Deployment")}


def container(template: Manifest) -> Manifest:
    (only,) = template["spec"]["containers"]
    assert "initContainers" not in template["spec"]
    found: Manifest = only
    return found


def toml_of(objects: list[Manifest], deployment: str) -> str:
    """The configuration file that the Deployment's pods get."""
    volumes = {volume["name"]: volume for volume in pod_templates(objects)[deployment]["spec"]["volumes"]}
    name = volumes["config"]["configMap"]["name"]
    data: dict[str, str] = one(objects, "ConfigMap", name)["data"]
    return data["config.toml"]


def mappings(value: object) -> Iterator[Manifest]:
    """Every mapping in a document, at whatever depth."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner)


def pod(name: str, template: Manifest) -> Manifest:
    """The Pod that a Deployment's template stands for."""
    metadata = {**template["metadata"], "name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
