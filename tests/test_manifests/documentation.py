"""What README, RUNBOOK and docs/ have a reader type and write, with this checkout in place of the remote repository."""

import os
import re
import shutil
from pathlib import Path

import yaml

from tests.test_manifests.manifests import IMAGES, ROOT, Manifest, kustomize

PAGES = [ROOT / "README.md", ROOT / "RUNBOOK.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = ROOT / "examples" / "cluster"
REMOTE = re.compile(r"https://github\.com/OWNER/oauth-pool//([\w./-]+)\?ref=v([\w.-]+)")


def localised(text: str, folder: Path) -> str:
    """With paths from that folder in place of remote ones, and the owner of the images filled in."""
    owner = IMAGES["oauth-pool-proxy"].split("/")[1]
    local = REMOTE.sub(lambda found: os.path.relpath(ROOT / found[1], folder), text)
    return local.replace("ghcr.io/OWNER/", f"ghcr.io/{owner}/")


def blocks(page: Path) -> list[Manifest]:
    """All YAML of the page that is a kustomization, or a part of one."""
    found = re.findall(r"^( *)```yaml\n(.*?)^\1```", page.read_text(), re.MULTILINE | re.DOTALL)
    documents = [yaml.safe_load(text) for _, text in found if "\n---" not in text]
    return [
        document
        for document in documents
        if document.get("kind", "Kustomization") == "Kustomization"
        and "../pool" not in document.get("resources", [])  # test_argocd.py looks at it
        and document.keys() & {"resources", "components", "patches", "images", "namespace", "configMapGenerator"}
    ]


def rendered(kustomization: Manifest, folder: Path) -> list[Manifest]:
    """In a folder such as the reader has; a part of a kustomization is added to the example."""
    for file in EXAMPLE.iterdir():
        shutil.copy(file, folder)
    whole = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text()) | kustomization
    (folder / "kustomization.yaml").write_text(localised(yaml.safe_dump(whole), folder))
    return kustomize(folder)
