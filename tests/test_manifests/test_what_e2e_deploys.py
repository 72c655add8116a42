"""The end-to-end tests deploy what is shipped: no patch of ours, but images, configuration, and where a test says so a number."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.cluster.git import Repository
from tests.support.cluster.product import Images, Manifests
from tests.test_manifests.manifests import (
    POOLS,
    PROXY,
    WITH_KUSTOMIZE,
    Manifest,
    cluster_part,
    container,
    kustomize,
    one,
    overlay,
)
from tests.test_manifests.manifests import pod_templates as templates

pytestmark = WITH_KUSTOMIZE

SETTINGS = {
    "images": Images("localhost/", "e2e"),
    "proxy_toml": "[proxy]\n",
    "operator_toml": "",
    "ca": "a CA",
}


def without_images_and_configuration(objects: list[Manifest]) -> list[Manifest]:
    text = re.sub(r"-config-[a-z0-9]{10}\b", "-config", yaml.safe_dump(objects))
    found = yaml.safe_load(re.sub(r"image: \S+/", "image: ", re.sub(r"(image: \S+):\S+", r"\1", text)))
    return [entry for entry in found if entry["kind"] != "ConfigMap"]


@pytest.mark.parametrize("name", POOLS)
def test_the_overlay_as_it_is(name: str, tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(overlay=name, **SETTINGS)  # type: ignore[arg-type]
    objects = kustomize(manifests.pool)
    assert without_images_and_configuration(objects) == without_images_and_configuration(overlay(name))
    assert kustomize(manifests.cluster) == cluster_part()
    assert {container(template)["image"] for template in templates(objects).values()} == {
        "localhost/oauth-pool-proxy:e2e",
        "localhost/oauth-pool-operator:e2e",
    }


def test_a_number_that_a_test_says(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(overlay="default", replicas=2, **SETTINGS)  # type: ignore[arg-type]
    assert one(kustomize(manifests.pool), "Deployment", PROXY)["spec"]["replicas"] == 2


def test_by_git_it_is_the_same_and_what_pools_share(tmp_path: Path) -> None:
    repository = Repository(tmp_path, {"overlay": "default", **SETTINGS})
    expected = without_images_and_configuration([*cluster_part(), *overlay("default")])
    found = without_images_and_configuration(kustomize(repository.folder / "system"))

    def key(entry: Manifest) -> tuple[str, str]:
        return entry["kind"], entry["metadata"]["name"]

    assert sorted(found, key=key) == sorted(expected, key=key)
    paths = {
        yaml.safe_load(file.read_text())["spec"]["source"]["path"]
        for file in [repository.root_application, *(repository.folder / "argocd/applications").glob("*.yaml")]
    }
    assert paths == {"argocd/applications", "system", "accounts"}
