"""ArgoCD on the cluster: its Applications, and everything that was ever said of them while somebody looked."""

import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.cluster.kubectl import Kubectl
from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import NotInTime

NAMESPACE = "argocd"
ROOT, SYSTEM, ACCOUNTS = "oauth-pool", "oauth-pool-system", "oauth-pool-accounts"
MISSING = """\
The cluster that KUBECONFIG names has no ArgoCD: there is no CustomResourceDefinition applications.argoproj.io. Install ArgoCD 3
there, with an AppProject `default` that allows everything, and a repo server that can read this machine's files."""


@dataclass(frozen=True)
class Seen:
    """An Application at one moment; what it had not yet said is empty."""

    name: str
    sync: str
    health: str
    operation: str
    operation_started: str
    compared: str


SEEN = (
    "{.metadata.name}|{.status.sync.status}|{.status.health.status}|{.status.operationState.phase}|"
    '{.status.operationState.startedAt}|{.status.reconciledAt}{"\\n"}'
)


class ArgoCD:
    def __init__(self, kubectl: Kubectl) -> None:
        """Fails when there is none."""
        assert "applications.argoproj.io" in kubectl("get", "crd", "-o", "name"), MISSING
        self.kubectl = kubectl.in_namespace(NAMESPACE)

    def settings(self) -> dict[str, str]:
        """The keys of argocd-cm."""
        found: dict[str, str] = self.kubectl.json("get", "configmap", "argocd-cm").get("data", {})
        return found

    def application(self, name: str) -> dict[str, Any]:
        """Empty when there is none of that name."""
        found: list[dict[str, Any]] = self.kubectl.json("get", "applications")["items"]
        return next((entry for entry in found if entry["metadata"]["name"] == name), {})

    def health(self, name: str) -> str:
        found: str = self.application(name).get("status", {}).get("health", {}).get("status", "")
        return found

    def operation(self, name: str) -> dict[str, Any]:
        """The sync that runs, or the last one that did."""
        found: dict[str, Any] = self.application(name).get("status", {}).get("operationState", {})
        return found

    def wait_for(self, name: str, *, seconds: float = 60, **expected: str) -> None:
        """Until it is so: `sync`, `health` and `operation` are words of its status."""
        last: dict[str, str] = {}

        def is_so() -> bool:
            status = self.application(name).get("status", {})
            last["sync"] = status.get("sync", {}).get("status", "")
            last["health"] = status.get("health", {}).get("status", "")
            last["operation"] = status.get("operationState", {}).get("phase", "")
            return all(last[key] == value for key, value in expected.items())

        try:
            wait_until(is_so, f"{name}: {expected}", seconds=seconds, every=0.2)
        except NotInTime as error:
            said = self.operation(name).get("message", "")
            raise AssertionError(f"{error}; it is {last}, {said!r}") from None

    def look_now(self, name: str) -> None:
        """What ArgoCD does itself when a webhook of the Git server arrives: else it believes for minutes what it has seen."""
        self.kubectl("annotate", "application", name, "argocd.argoproj.io/refresh=normal", "--overwrite")

    @contextmanager
    def watched(self) -> Iterator["Record"]:
        """Everything that ArgoCD says of all its Applications until the block ends."""
        record = Record(self.kubectl.command("get", "applications", "--watch", "-o", f"jsonpath={SEEN}"))
        try:
            yield record
        finally:
            record.close()

    def forget(self, names: Iterable[str]) -> None:
        """Remove Applications, and nothing of what they made."""
        for name in names:
            if self.application(name):
                self.kubectl("patch", "application", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
                self.kubectl("delete", "application", name, "--ignore-not-found")


class Record:
    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._seen: list[Seen] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def of(self, *names: str) -> list[Seen]:
        """What was said of these Applications, in its order."""
        return [seen for seen in list(self._seen) if seen.name in names]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.count("|") == 5:
                self._seen.append(Seen(*line.rstrip("\n").split("|")))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
