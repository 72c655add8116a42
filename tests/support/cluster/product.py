"""The product, deployed as a user deploys it: a copy of the manifests, an overlay of one's own, `kubectl apply -k`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.kubectl import Kubectl
from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import NotInTime
from tests.support.stack import SimulatorClient

ROOT = Path(__file__).parents[3]
NAMESPACE = "anthropic-oauth-proxy"
PROXY, OPERATOR = "anthropic-oauth-proxy", "oauth-pool-operator"
URL = f"http://{PROXY}.{NAMESPACE}"
OVERLAY = "mine"


@dataclass(frozen=True)
class Images:
    """`{prefix}oauth-pool-proxy:{tag}` and `{prefix}oauth-pool-operator:{tag}`."""

    prefix: str
    tag: str

    def kustomized(self) -> list[dict[str, str]]:
        programs = ("oauth-pool-proxy", "oauth-pool-operator")
        return [{"name": name, "newName": self.prefix + name, "newTag": self.tag} for name in programs]


class Manifests:
    """A copy of `crds/` and `k8s/`, as in a user's repository, with an overlay of the user's beside ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.overlay = folder / "k8s/overlays" / OVERLAY
        for name in ("crds", "k8s"):
            shutil.copytree(ROOT / name, folder / name)
        self.overlay.mkdir()

    def write(
        self,
        *,
        base: str,
        images: Images,
        proxy_toml: str,
        operator_toml: str,
        ca: str,
        replicas: int = 1,
    ) -> None:
        """Both programs find the provider's CA as ca.pem beside their config.toml."""
        files = {"config.toml": proxy_toml, "operator.toml": operator_toml, "ca.pem": ca}
        for name, content in files.items():
            (self.overlay / name).write_text(content)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": [f"../{base}"],
            "configMapGenerator": [
                {"name": "proxy-config", "behavior": "replace", "files": ["config.toml", "ca.pem"]},
                {"name": "operator-config", "behavior": "replace", "files": ["config.toml=operator.toml", "ca.pem"]},
            ],
            "replicas": [{"name": PROXY, "count": replicas}],
        }
        (self.overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
        chosen = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"overlays/{OVERLAY}"],
            "images": images.kustomized(),
        }
        (self.folder / "k8s/kustomization.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))


class Product:
    """What runs in the namespace of the product. `settings` are those of `Manifests.write`."""

    def __init__(self, kubectl: Kubectl, folder: Path, settings: dict[str, Any]) -> None:
        self.kubectl = kubectl.in_namespace(NAMESPACE)
        self._manifests = Manifests(folder)
        self.settings = settings

    @property
    def folder(self) -> Path:
        """What a user's repository is."""
        return self._manifests.folder

    def apply(self, **changes: Any) -> None:
        """`kubectl apply -k`, with these changes of the settings from now on; returns when everything is rolled out."""
        self.start_apply(**changes)
        self.wait_until_rolled_out()

    def start_apply(self, **changes: Any) -> None:
        self.settings |= changes
        self._manifests.write(**self.settings)
        self.kubectl("apply", "-k", str(self.folder / "k8s"))

    def wait_until_rolled_out(self, *deployments: str, seconds: int = 120) -> None:
        for name in deployments or (OPERATOR, PROXY):
            self.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={seconds}s", seconds=seconds + 10)

    def remove(self) -> None:
        """`kubectl delete -k`; returns when all is gone."""
        arguments = ("delete", "-k", str(self.folder / "k8s"), "--ignore-not-found", "--timeout=120s")
        self.kubectl(*arguments, seconds=130)

    # --- pods --------------------------------------------------------------------------------------------------------

    def pods(self, app: str) -> list[dict[str, Any]]:
        """Those that were not told to end."""
        found = self.kubectl.json("get", "pods", "-l", f"app={app}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod_names(self, app: str) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.pods(app))

    def scale(self, proxies: int) -> None:
        self.kubectl("scale", f"deployment/{PROXY}", f"--replicas={proxies}")
        self.wait_until_rolled_out(PROXY)

    def operator_file(self, path: str) -> str:
        """A file on one of the operator's volumes. Raises KubectlError."""
        code = "import sys; print(open(sys.argv[1]).read())"
        return self.kubectl("exec", f"deployment/{OPERATOR}", "--", "python3", "-c", code, path)

    # --- accounts ----------------------------------------------------------------------------------------------------

    def create_account(self, name: str, **spec: object) -> None:
        """With no more said, an AuthorizationCode account."""
        manifest = {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthAccount",
            "metadata": {"name": name},
            "spec": {"provider": "simulator", "grant": "AuthorizationCode", **spec},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def account(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.json("get", "oauthaccount", name)
        return found

    def columns(self, name: str) -> dict[str, str]:
        """What `kubectl get oauthaccounts -o wide` shows of it."""
        table = self.kubectl("get", "oauthaccount", name, "-o", "wide")
        heads, cells = (line for line in table.splitlines())
        starts = [heads.index(head) for head in heads.split()]
        ends = [*starts[1:], None]
        return {head: cells[start:end].strip() for head, start, end in zip(heads.split(), starts, ends, strict=True)}

    def wait_for_status(self, name: str, word: str, *, seconds: float = 30) -> dict[str, str]:
        """The columns, once STATUS is that word."""
        try:
            return wait_until(
                lambda: found if (found := self.columns(name))["STATUS"] == word else None,
                f"{name}: {word}",
                seconds=seconds,
                every=0.1,
            )
        except NotInTime as error:
            raise AssertionError(f"{error}; it says\n{self.kubectl('describe', 'oauthaccount', name)}") from None

    def log_in(self, name: str, subject: str, simulator: SimulatorClient) -> None:
        """The whole login of an AuthorizationCode account; returns when it is Available."""
        pasted = simulator.approve(self.login_url(name), subject)
        self.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/authorization-code={pasted}")
        self.wait_for_status(name, "Available")

    def remove_accounts(self) -> None:
        self.kubectl("delete", "oauthaccounts", "--all", "--timeout=60s")

    def login_url(self, name: str) -> str:
        path = "jsonpath={.status.login.authorizationURL}"
        return wait_until(lambda: self.kubectl("get", "oauthaccount", name, "-o", path), f"login URL of {name}")
