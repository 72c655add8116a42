"""A Git repository such as a user of GitOps has: the manifests of this one, filled in, and a folder of accounts."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.product import NAMESPACE, Manifests

PLACEHOLDER = "https://git.example.com/team/oauth-pool.git"


class Repository:
    """`url` is what ArgoCD is told. What is written counts from the next `commit` on."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.url = f"file://{folder}"
        self.manifests = Manifests(folder)
        self.manifests.write(**settings)
        self._fill_in()
        self._git("init", "--quiet", "--initial-branch=main")

    def _fill_in(self) -> None:
        """As docs/gitops.md has it: where the repository is. Overlay and images are chosen in `k8s/kustomization.yaml`."""
        for file in (self.folder / "k8s/argocd").rglob("*.yaml"):
            file.write_text(file.read_text().replace(PLACEHOLDER, self.url))

    @property
    def root_application(self) -> Path:
        return self.folder / "k8s/argocd/root.yaml"

    def write(self, path: str, *documents: dict[str, Any]) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump_all(documents, sort_keys=False))

    def write_account(self, name: str, **spec: Any) -> None:
        """With no more said, an AuthorizationCode account."""
        self.write(f"k8s/accounts/{name}.yaml", account(name, **spec))

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
