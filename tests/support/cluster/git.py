"""A Git repository such as a user of GitOps has, as docs/gitops.md has it: pool, accounts, and what ArgoCD is told."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.product import NAMESPACE, ROOT, Manifests

HERS = "https://git.example.com/you/pool.git"
"""Where the repository is that the page speaks of."""


class Repository:
    """`url` is what ArgoCD is told. What is written counts from the next `commit` on."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.url = f"file://{folder}"
        self.manifests = Manifests(folder)
        self.manifests.write(**settings)
        self._write_system()
        shutil.copytree(ROOT / "k8s/argocd", folder / "argocd")
        self._fill_in()
        self._git("init", "--quiet", "--initial-branch=main")

    def _write_system(self) -> None:
        """What pools share, and the pool."""
        resources = [os.path.relpath(self.manifests.cluster, self.folder / "system"), "../pool"]
        self.write("system/kustomization.yaml", {"resources": resources})

    def _fill_in(self) -> None:
        """By the command of the page."""
        command = fill_in_command().replace(HERS, self.url)
        subprocess.run(["bash", "-c", command], cwd=self.folder, check=True)

    @property
    def root_application(self) -> Path:
        return self.folder / "argocd/root.yaml"

    def write(self, path: str, *documents: dict[str, Any]) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump_all(documents, sort_keys=False))

    def write_account(self, name: str, **spec: Any) -> None:
        """With no more said, an AuthorizationCode account."""
        self.write(f"accounts/{name}.yaml", account(name, **spec))

    def remove(self, path: str) -> None:
        (self.folder / path).unlink()

    def commit(self, message: str) -> None:
        self._git("add", "--all")
        author = ("-c", "user.name=A person", "-c", "user.email=person@example.com")
        self._git(*author, "commit", "--quiet", "--allow-empty", "--message", message)

    def _git(self, *arguments: str) -> None:
        subprocess.run(["git", "-C", str(self.folder), *arguments], check=True, capture_output=True)


def account(name: str, *, namespace: str = NAMESPACE, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "oauthpool.dev/v1alpha1",
        "kind": "OAuthAccount",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"provider": "simulator", "grant": "AuthorizationCode", **spec},
    }


def fill_in_command() -> str:
    """That which makes our Applications the reader's."""
    page = (ROOT / "docs/gitops.md").read_text()
    (command,) = re.findall(r"^ *\$ (sed -i .*argocd/root\.yaml.*)$", page, re.MULTILINE)
    return str(command)
