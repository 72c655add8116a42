"""Everything about manifests in README, RUNBOOK and docs/ works: what is applied renders, and runs images that are published."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.test_manifests.documentation import EXAMPLE, PAGES, REMOTE, blocks, rendered
from tests.test_manifests.manifests import (
    IMAGES,
    PROXY,
    ROOT,
    WITH_KUSTOMIZE,
    Manifest,
    container,
    kustomize,
    of_kind,
    one,
    overlay,
    pod_templates,
)

pytestmark = WITH_KUSTOMIZE

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
COMMAND = re.compile(r"kubectl (?:[\w=-]+ )*?(apply|delete|diff) -k (?:'([^']+)'|([\w./:<>-]+))")
VERSION = tomllib.loads((ROOT / "proxy/pyproject.toml").read_text())["project"]["version"]


PUBLISHED = set(IMAGES.values()) | {f"{image.partition(':')[0]}:{VERSION}" for image in IMAGES.values()}
"""As main was deployed last, and as released."""


def images(objects: list[Manifest]) -> set[str]:
    return {container(template)["image"] for template in pod_templates(objects).values()}


def targets(page: Path) -> set[str]:
    """What `kubectl … -k` is told."""
    return {quoted or plain for _, quoted, plain in COMMAND.findall(page.read_text())}


@every_page
def test_every_folder_that_is_applied_renders(page: Path, tmp_path: Path) -> None:
    for target in targets(page):
        remote = REMOTE.fullmatch(target)
        if target == ".":
            objects = rendered({}, tmp_path)
        else:
            path = Path(remote[1] if remote else target)
            assert path.parts[0] == "k8s", f"{page.name}: {target}"
            objects = kustomize(ROOT / path)
        assert objects
        assert images(objects) <= PUBLISHED


def test_there_is_something_to_look_at() -> None:
    assert targets(ROOT / "README.md") == {".", f"https://github.com/OWNER/oauth-pool//k8s/cluster?ref=v{VERSION}"}
    assert "." in targets(ROOT / "RUNBOOK.md")
    assert len(blocks(ROOT / "docs/clusters.md")) > 5


@every_page
def test_every_kustomization_renders_and_runs_images_that_are_published(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page)):
        folder = tmp_path / str(number)
        folder.mkdir()
        objects = rendered(block, folder)
        assert len(images(objects)) == 2 and images(objects) <= PUBLISHED, block
        for patch in block.get("patches", []):
            kind = patch["target"].get("kind")
            assert "$patch: delete" in patch["patch"] or not kind or of_kind(objects, kind), "it changes nothing"


@every_page
def test_every_release_that_is_named_is_this_one_and_every_path_is_there(page: Path) -> None:
    for path, version in REMOTE.findall(page.read_text() + (EXAMPLE / "kustomization.yaml").read_text()):
        assert version == VERSION
        assert (ROOT / path / "kustomization.yaml").exists()
    assert ":dev" not in page.read_text()


def test_images_are_named_as_they_are_published() -> None:
    """A name that matches nothing is ignored without a word."""
    published = {f"ghcr.io/OWNER/{image}" for image in IMAGES}
    named = {
        image["name"]
        for text in [*(block for page in PAGES for block in blocks(page)), example()]
        for image in text.get("images", [])
    }
    assert named == published


def test_readme_shows_the_whole_of_the_example() -> None:
    (shown,) = blocks(ROOT / "README.md")
    assert shown == example()
    commented = (EXAMPLE / "kustomization.yaml").read_text().partition("# The operator's volume")[2].splitlines()
    shown_so = (ROOT / "README.md").read_text().partition("# The operator's volume")[2].splitlines()[: len(commented)]
    assert commented and [line.removeprefix("   ") for line in shown_so] == commented


def test_what_the_example_leaves_to_the_reader_works(tmp_path: Path) -> None:
    """The patch that is commented out."""
    text = (EXAMPLE / "kustomization.yaml").read_text()
    commented = text.partition(" want:\n")[2]
    patches = yaml.safe_load("\n".join(line.removeprefix("# ") for line in commented.splitlines()))
    claim = one(rendered(patches, tmp_path), "PersistentVolumeClaim", "oauth-state")
    assert claim["spec"]["storageClassName"] == "standard"


def test_the_example_is_the_overlay_with_the_readers_configuration(tmp_path: Path) -> None:
    def without_configuration(objects: list[Manifest]) -> list[Manifest]:
        text = re.sub(r"-config-[a-z0-9]{10}\b", "-config", yaml.safe_dump(objects))
        cleaned = yaml.safe_load(re.sub(r"(image: \S+):\S+", r"\1", text))
        return [found for found in cleaned if found["kind"] != "ConfigMap"]

    objects = rendered({}, tmp_path)
    assert without_configuration(objects) == without_configuration(overlay("default"))
    shipped, mine = (one_config(found) for found in (overlay("default"), objects))
    assert shipped == mine, "examples/cluster/config.toml is not what we recommend"
    assert {found["metadata"]["labels"]["app.kubernetes.io/part-of"] for found in of_kind(objects, "ConfigMap")} == {
        "oauth-pool"
    }


def one_config(objects: list[Manifest]) -> str:
    (found,) = [
        entry for entry in of_kind(objects, "ConfigMap") if entry["metadata"]["name"].startswith("proxy-config")
    ]
    return str(found["data"]["config.toml"])


def example() -> Manifest:
    found: Manifest = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
    return found


def test_the_ports_of_the_networks_table_are_those_that_are_let_out_to() -> None:
    page = " ".join((ROOT / "docs/clusters.md").read_text().split())
    (sentence,) = re.findall(r"both programs may ask the ports (.+?), at any address", page)
    egress = one(overlay("default"), "NetworkPolicy", PROXY)["spec"]["egress"]
    assert {int(number) for number in re.findall(r"\d+", sentence)} == {
        port["port"] for rule in egress for port in rule["ports"]
    }
