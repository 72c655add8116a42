"""The product, deployed as README says: a kustomization of one's own on top of an overlay, `kubectl apply -k`."""

import json
import os
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
PROGRAMS = ("oauth-pool-proxy", "oauth-pool-operator")


@dataclass(frozen=True)
class Images:
    """`{prefix}oauth-pool-proxy:{tag}` and `{prefix}oauth-pool-operator:{tag}`."""

    prefix: str
    tag: str

    def kustomized(self, of: Path) -> list[dict[str, str]]:
        """In place of those that the manifests in that folder name."""
        file = of / "k8s/components/images/kustomization.yaml"
        shipped = {program: program for program in PROGRAMS}  # as it was before there was that component
        if file.exists():
            shipped = {entry["name"]: entry["newName"] for entry in yaml.safe_load(file.read_text())["images"]}
        return [
            {"name": shipped[program], "newName": self.prefix + program, "newTag": self.tag} for program in PROGRAMS
        ]


class Manifests:
    """What a user has, and beside it a copy of what the user's kustomization builds on, in place of the remote repository.

    `pool` is the folder of examples/cluster, filled in. Nothing of ours is patched: images, configuration, and if need be a number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = folder / "pool"
        self._base = self._copy(ROOT)
        shutil.copytree(ROOT / "examples/cluster", self.pool)

    def write(
        self,
        *,
        overlay: str,
        images: Images,
        proxy_toml: str,
        operator_toml: str,
        ca: str,
        replicas: int | None = None,
        source: Path = ROOT,
        components: tuple[str, ...] = (),
    ) -> None:
        """Both programs find the provider's CA as ca.pem beside their config.toml. `source`: a checkout, also of another commit."""
        self._base = self._copy(source)
        if (self._base / "k8s/overlays/single-node").exists():  # before one volume of any kind was enough for all
            replicas = replicas or {"multi-replica": 3}.get(overlay)
            overlay = "single-node"
        files = {"config.toml": proxy_toml, "operator.toml": operator_toml, "ca.pem": ca}
        for name, content in files.items():
            (self.pool / name).write_text(content)
        mine = yaml.safe_load((ROOT / "examples/cluster/kustomization.yaml").read_text())
        mine["resources"] = [self._path(f"overlays/{overlay}")]
        mine["images"] = images.kustomized(self._base)
        for generated in mine["configMapGenerator"]:
            generated["files"] = [*generated["files"], "ca.pem"]
        if replicas is not None:
            mine["replicas"] = [{"name": PROXY, "count": replicas}]
        if components:
            mine["components"] = [self._path(f"components/{name}") for name in components]
        (self.pool / "kustomization.yaml").write_text(yaml.safe_dump(mine, sort_keys=False))

    @property
    def cluster(self) -> Path:
        """What all pools of the cluster share."""
        return self._base / "k8s/cluster"

    def _path(self, path: str) -> str:
        return os.path.relpath(self._base / "k8s" / path, self.pool)

    def _copy(self, source: Path) -> Path:
        base = self.folder / ("oauth-pool" if source == ROOT else "oauth-pool-before")
        for name in ("crds", "k8s"):
            shutil.copytree(source / name, base / name, dirs_exist_ok=True)
        return base


class Product:
    """What runs in the namespace of the product. `settings` are those of `Manifests.write`."""

    def __init__(self, kubectl: Kubectl, folder: Path, settings: dict[str, Any]) -> None:
        self.kubectl = kubectl.in_namespace(NAMESPACE)
        self._manifests = Manifests(folder)
        self.settings = settings

    @property
    def folder(self) -> Path:
        """Where a user types commands: that of the kustomization."""
        return self._manifests.pool

    def apply(self, **changes: Any) -> None:
        """`kubectl apply -k`, with these changes of the settings from now on; returns when everything is rolled out."""
        self.start_apply(**changes)
        self.wait_until_rolled_out()

    def start_apply(self, **changes: Any) -> None:
        self.settings |= changes
        self._manifests.write(**self.settings)
        if self._manifests.cluster.exists():  # it was part of a pool once
            self.kubectl("apply", "-k", str(self._manifests.cluster))
        self.kubectl("apply", "-k", str(self.folder))

    def wait_until_rolled_out(self, *deployments: str, seconds: int = 120) -> None:
        for name in deployments or (OPERATOR, PROXY):
            self.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={seconds}s", seconds=seconds + 10)

    def remove(self) -> None:
        """`kubectl delete -k`, of the pool and then of what pools share; returns when all is gone."""
        for folder in (self.folder, self._manifests.cluster):
            arguments = ("delete", "-k", str(folder), "--ignore-not-found", "--timeout=120s")
            self.kubectl(*arguments, seconds=130)

    # --- pods --------------------------------------------------------------------------------------------------------

    def pods(self, app: str) -> list[dict[str, Any]]:
        """Those that were not told to end."""
        return [pod for pod in self._all_pods(app) if "deletionTimestamp" not in pod["metadata"]]

    def has_gone(self, app: str) -> bool:
        """Whether none is left that does anything: one that was told to end works on until it has."""
        return not self._all_pods(app)

    def _all_pods(self, app: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.kubectl.json("get", "pods", "-l", f"app={app}")["items"]
        return found

    def pod_names(self, app: str) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.pods(app))

    def tokens_held(self) -> dict[str, int]:
        """How many access tokens each proxy says that it holds, by its pod's name."""
        found = self.kubectl.json("get", "oauthproxies")["items"]
        return {entry["metadata"]["name"]: entry.get("status", {}).get("tokens", 0) for entry in found}

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
