"""The control plane itself: what other tests take for granted about it."""

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.support.control_plane import ControlPlane, ControlPlaneError, KubectlError, wait_until
from tests.support.control_plane import plane as plane_module

HOLDER = """
from tests.support.control_plane import ControlPlane
with ControlPlane() as plane:
    print(plane.folder, flush=True)
    input()
"""


@pytest.fixture(scope="module")
def another(control_plane_binaries: Path) -> Iterator[ControlPlane]:
    """A second control plane beside the shared one, to be stopped and started at will."""
    with ControlPlane(assets=control_plane_binaries) as plane:
        yield plane


def test_a_service_account_without_a_role_may_not_read_anything(control_plane: ControlPlane, namespace: str) -> None:
    kubeconfig = control_plane.kubeconfig_for(namespace, "default")
    with pytest.raises(KubectlError, match=f'serviceaccount:{namespace}:default" cannot list resource "secrets"'):
        control_plane.kubectl("--kubeconfig", str(kubeconfig), "get", "secrets")


def test_a_requested_token_verifies_with_the_keys_that_everybody_can_discover(
    control_plane: ControlPlane, namespace: str
) -> None:
    token = control_plane.service_account_token(namespace, "default", audience="https://api.example.com", seconds=600)
    with httpx2.Client(verify=control_plane.tls, trust_env=False) as stranger:
        discovered = stranger.get(f"{control_plane.server}/.well-known/openid-configuration").raise_for_status().json()
        keys = stranger.get(discovered["jwks_uri"]).raise_for_status().json()
    claims = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["RS256"]).claims
    assert claims["iss"] == discovered["issuer"] == control_plane.server
    assert claims["aud"] == ["https://api.example.com"]
    assert claims["sub"] == f"system:serviceaccount:{namespace}:default"
    assert claims["exp"] - claims["iat"] == 600


def test_two_control_planes_know_nothing_of_each_other(
    control_plane: ControlPlane, namespace: str, another: ControlPlane
) -> None:
    with pytest.raises(KubectlError, match="not found"):
        another.kubectl("get", "namespace", namespace)
    token = control_plane.service_account_token(namespace, "default")
    answer = another.api.get("/version", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 401


@pytest.mark.parametrize("end", [ControlPlane.kill_api_server, ControlPlane.stop_api_server], ids=["killed", "stopped"])
def test_data_is_still_there_when_the_api_server_comes_back(another: ControlPlane, end: Any) -> None:
    namespace, server = another.namespace(), another.server
    end(another)
    with pytest.raises(httpx2.ConnectError):
        another.api.get("/readyz")
    another.start_api_server()
    assert another.server == server
    assert another.kubectl("get", "namespace", namespace, "-o", "name") == f"namespace/{namespace}\n"


def test_nothing_is_left_when_the_process_that_holds_one_is_killed(control_plane_binaries: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        commands = "".join(_processes_with(folder))
        assert "etcd --data-dir" in commands and "kube-apiserver --etcd-servers" in commands
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: not _processes_with(folder), f"no process with {folder} in its command line")
    assert not folder.exists()


def test_a_port_that_somebody_took_in_the_meantime_is_given_up_for_another(
    control_plane_binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], plane_module.free_port()])
        monkeypatch.setattr(plane_module, "free_port", lambda: next(ports))
        with ControlPlane(assets=control_plane_binaries) as plane:
            assert not plane.server.endswith(f":{taken.getsockname()[1]}")


def test_a_start_that_fails_shows_both_logs_and_leaves_nothing(control_plane_binaries: Path, tmp_path: Path) -> None:
    for name in ("etcd", "kubectl"):
        (tmp_path / name).symlink_to(control_plane_binaries / name)
    _script(tmp_path / "kube-apiserver", 'echo "no luck today"; exit 1')
    plane = ControlPlane(assets=tmp_path)
    with pytest.raises(ControlPlaneError, match=r"(?s)kube-apiserver ended.*end of etcd\.log.*no luck today"):
        plane.__enter__()
    assert not plane.folder.exists()
    assert not _processes_with(plane.folder)


def test_pod_security_refuses_a_privileged_pod(control_plane: ControlPlane) -> None:
    namespace = control_plane.namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"})
    container = {"name": "c", "image": "c", "securityContext": {"privileged": True}}
    metadata = {"name": "p", "namespace": namespace}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted:latest": privileged'):
        control_plane.apply(pod)


def test_a_validating_admission_policy_is_enforced(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(POLICY.replace("NAMESPACE", namespace))

    def refusal() -> str:
        try:
            control_plane.kubectl("create", "configmap", "c", "-n", namespace, "--dry-run=server")
        except KubectlError as error:
            return error.stderr
        return ""

    assert "denied request: no ConfigMaps here" in wait_until(refusal, "the policy is enforced")


POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAMESPACE}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "false", message: no ConfigMaps here}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAMESPACE}
spec:
  policyName: NAMESPACE
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}}
"""


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _processes_with(text: Path) -> list[str]:
    """The command lines in which it occurs. From Linux itself: not every machine has `ps`."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(file.read_text(errors="replace").replace("\0", " "))
    return [line for line in lines if str(text) in line]
