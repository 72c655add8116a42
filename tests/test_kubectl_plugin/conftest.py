"""The plugin as a person runs it: its `main`, in this process, against a real API server."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest

from kubectl_oauthaccount.cli import main
from tests.support.control_plane import ControlPlane
from tests.support.stack import Stack, running_stack

ACCOUNTS = "/apis/oauthpool.dev/v1alpha1"


@pytest.fixture(scope="session")
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    """A real operator and the provider's simulator. Tests with them take the namespace that they work in."""
    with running_stack(control_plane, with_proxy=False) as stack:
        yield stack


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Plugin:
    """Runs commands with a kubeconfig, and keeps what they print."""

    def __init__(self, kubeconfig: Path, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._capsys = capsys

    def __call__(self, *arguments: str, stdin: str | TextIO = "") -> Outcome:
        """One command, in the namespace. `stdin` is what a program pipes in."""
        before = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode())) if isinstance(stdin, str) else stdin
        self._capsys.readouterr()
        try:
            code = main(["--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        finally:
            sys.stdin = before
        printed = self._capsys.readouterr()
        return Outcome(code, printed.out, printed.err)


class Objects:
    """The accounts of a namespace that has no operator: a test writes their status itself."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def create(self, name: str, status: dict[str, Any] | None = None, **spec: object) -> None:
        body = {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthAccount",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"provider": "simulator", "grant": "AuthorizationCode", **spec},
        }
        self._send("POST", "", body)
        if status is not None:
            self.set_status(name, status)

    def set_status(self, name: str, status: dict[str, Any]) -> None:
        """Merged into what is there."""
        self._send("PATCH", f"/{name}/status", {"status": status})

    def set_metadata(self, name: str, metadata: dict[str, Any], manager: str = "test") -> None:
        self._send("PATCH", f"/{name}?fieldManager={manager}", {"metadata": metadata})

    def delete(self, name: str) -> None:
        self._send("DELETE", f"/{name}", None)

    def get(self, name: str) -> dict[str, Any]:
        return self._send("GET", f"/{name}", None)

    def annotation(self, name: str, key: str) -> str | None:
        value: str | None = self.get(name)["metadata"].get("annotations", {}).get(f"oauthpool.dev/{key}")
        return value

    def _send(self, method: str, path: str, body: Any) -> dict[str, Any]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = self.plane.api.request(
            method,
            f"{ACCOUNTS}/namespaces/{self.namespace}/oauthaccounts{path}",
            content=None if body is None else json.dumps(body),
            headers={"content-type": kind},
        )
        assert answer.is_success, answer.text
        decoded: dict[str, Any] = answer.json()
        return decoded


@pytest.fixture
def objects(control_plane: ControlPlane, namespace: str) -> Objects:
    return Objects(control_plane, namespace)


@pytest.fixture
def plugin(control_plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]) -> Plugin:
    """Acts as the admin, in a namespace of the test's own."""
    return Plugin(control_plane.kubeconfig, namespace, capsys)


def condition(kind: str, status: str, reason: str, message: str = "", since: str = "2026-11-20T10:00:00Z") -> Any:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
