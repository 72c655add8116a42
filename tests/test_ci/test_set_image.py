"""`.ci/set-image`: the edit of k8s/components/images, by itself and by what kustomize then makes of it."""

import shutil
from pathlib import Path

import pytest

from tests.test_ci.repository import IMAGES, ROOT, Repository
from tests.test_manifests.manifests import OVERLAYS, POOLS, WITH_KUSTOMIZE, container, kustomize, pod_templates

BEFORE = """\
# A comment that names newTag: dev
resources: [overlays/default] # and one at the end of a line
images:
  # the proxy
  - name: oauth-pool-proxy
    newName: oauth-pool-proxy # where it is
    # newName: says where, newTag: which one
    newTag: dev   # CI writes it
  - name: oauth-pool-operator
    newName: oauth-pool-operator
    newTag: dev
  - name: oauth-pool-proxy-exporter
    newTag: "1.0"
patches: []
"""
AFTER = BEFORE.replace(
    "newName: oauth-pool-proxy #", "newName: ghcr.io/team/oauth-pool-proxy #"
).replace("newTag: dev   #", "newTag: sha-0123456   #")  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "kustomization.yaml").write_text(BEFORE)
    return tmp_path / "kustomization.yaml"


def set_image(repository: Repository, file: Path, image: str, name: str, tag: str) -> int:
    return repository.run("set-image", file.as_posix(), image, name, tag).returncode


def test_only_the_two_values_change(repository: Repository, file: Path) -> None:
    assert set_image(repository, file, "oauth-pool-proxy", "ghcr.io/team/oauth-pool-proxy", "sha-0123456") == 0
    assert file.read_text() == AFTER


def test_twice_is_once(repository: Repository, file: Path) -> None:
    for _ in range(2):
        assert set_image(repository, file, "oauth-pool-proxy", "ghcr.io/team/oauth-pool-proxy", "sha-0123456") == 0
    assert file.read_text() == AFTER


def test_it_is_set_back_by_the_values_of_before(repository: Repository, file: Path) -> None:
    assert set_image(repository, file, "oauth-pool-proxy", "ghcr.io/team/oauth-pool-proxy", "sha-0123456") == 0
    assert set_image(repository, file, "oauth-pool-proxy", "oauth-pool-proxy", "dev") == 0
    assert file.read_text() == BEFORE


@pytest.mark.parametrize(
    "image",
    [
        pytest.param("oauth-pool", id="part of a name"),
        pytest.param("oauth-pool-proxy-exporter", id="without a newName"),
        pytest.param("oauth.pool.proxy", id="pattern"),
    ],
)
def test_an_image_that_cannot_be_set_is_refused_and_nothing_is_written(
    repository: Repository, file: Path, image: str
) -> None:
    assert set_image(repository, file, image, "ghcr.io/team/x", "sha-0123456") == 1
    assert file.read_text() == BEFORE


@WITH_KUSTOMIZE
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_gets_what_was_set_whichever_overlay_it_runs(
    repository: Repository, tmp_path: Path, overlay: str
) -> None:
    for folder in ("k8s", "crds"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    file = tmp_path / IMAGES
    for image in ("oauth-pool-proxy", "oauth-pool-operator"):
        assert set_image(repository, file, image, f"ghcr.io/team/{image}", "sha-0123456") == 0
    images = {
        container(template)["image"]
        for template in pod_templates(kustomize(tmp_path / "k8s/overlays" / overlay)).values()
    }
    expected = {"ghcr.io/team/oauth-pool-proxy:sha-0123456"}
    if overlay in POOLS:
        expected.add("ghcr.io/team/oauth-pool-operator:sha-0123456")
    assert images == expected
