"""One control plane: etcd and kube-apiserver in a folder of their own, and what a test wants from them.

How it differs from a cluster: no controller-manager, no scheduler, no kubelet. So a new namespace has no `default`
ServiceAccount and no `kube-root-ca.crt` (`namespace` makes the ServiceAccount), a deleted namespace stays in
Terminating (use a new one per test instead), nothing is garbage-collected by owner reference, Deployments make no
Pods, claims stay unbound, and roles are not aggregated. All that the API server does by itself is real: schemas and
CEL, admission with Pod Security and ValidatingAdmissionPolicy (it can take 5 s until a new one is enforced), RBAC,
server-side apply, watches, TokenRequest and OpenID discovery.
"""

import base64
import json
import os
import secrets
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import yaml

from tests.support.control_plane.binaries import binaries, kubectl_in
from tests.support.control_plane.certificates import write_certificates
from tests.support.control_plane.errors import ControlPlaneError, KubectlError, NotInTime, PortTaken
from tests.support.control_plane.processes import Processes
from tests.support.control_plane.waiting import wait_until

ETCD, API_SERVER = "etcd", "kube-apiserver"
START_SECONDS = 60  # 2 s is usual; a crowded machine may take long, a hopeless start fails by its processes ending
PORTS = range(
    20000, 32000
)  # below what systems give to outgoing connections, so that a stopped server's port stays free


class ControlPlane:
    """A running control plane between `__enter__` and `__exit__`; nothing of it outlives this process, SIGKILL included.

    Several can run at once. With `is_ipv6`, the API server listens on ::1 only. `keep` (or CONTROL_PLANE_KEEP=1 in the environment) leaves the folder with data and logs.
    """

    server: str  # https://127.0.0.1:PORT; it is also the issuer of ServiceAccount tokens
    folder: Path
    ca_file: Path
    kubeconfig: Path  # the admin's; self-contained, so it may be copied
    kubectl_path: Path
    admin_token: str
    tls: ssl.SSLContext  # trusts `ca_file`, for clients other than `api`
    api: httpx2.Client  # requests to `server` as the admin

    def __init__(self, *, assets: Path | None = None, keep: bool = False, is_ipv6: bool = False) -> None:
        self._assets = assets
        self._address, self._services = ("::1", "fd00::/112") if is_ipv6 else ("127.0.0.1", "10.0.0.0/24")
        self._keep = keep or os.environ.get("CONTROL_PLANE_KEEP", "") not in ("", "0")

    def __enter__(self) -> Self:
        assets = self._assets or binaries()
        self.kubectl_path, self._etcd, self._api_server = kubectl_in(assets), assets / ETCD, assets / API_SERVER
        self.folder = Path(tempfile.mkdtemp(prefix="control-plane-"))
        with ExitStack() as undo:
            self._processes = undo.enter_context(closing(Processes(self.folder, self._keep)))
            self._start(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    # Starting and stopping

    def stop_api_server(self) -> None:
        """End the API server as a cluster does in maintenance; etcd and its data stay."""
        self._processes.stop(API_SERVER, seconds=10)

    def kill_api_server(self) -> None:
        """End the API server as a crash does: connections are cut, no answer is finished."""
        self._processes.stop(API_SERVER, seconds=0)

    def start_api_server(self) -> None:
        """Start the API server on the port and data of before, and wait until it is ready."""
        self._processes.start(
            API_SERVER,
            self._api_server,
            *_flags(self._api_server_flags()),
            environment={"GOGC": "50"},  # 30 MiB less than Go's default, at no cost that we could measure
        )
        self._wait_for_start(API_SERVER, self._is_ready)

    def logs_tail(self, lines: int = 30) -> str:
        """The last lines of both logs, for an error message."""
        return "\n".join(f"--- end of {name}.log\n{self._log_tail(name, lines)}" for name in (ETCD, API_SERVER))

    # What tests do with it

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002 - as subprocess.run names it
        """What kubectl prints, run as the admin. Raises `KubectlError` if it fails, unless `check` is false."""
        environment = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),  # another server may have had this port
            "KUBECTL_KUBERC": "false",
        }
        result = subprocess.run(
            [self.kubectl_path, *arguments],
            input=input or "",
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and result.returncode:
            raise KubectlError(arguments, result.stderr)
        return result.stdout

    def apply(self, manifest: str | dict[str, Any] | Path) -> str:
        """`kubectl apply` of YAML text, of an object, of a file, or of a folder (with -k if it has a kustomization)."""
        if isinstance(manifest, Path):
            return self.kubectl("apply", "-k" if (manifest / "kustomization.yaml").exists() else "-f", str(manifest))
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return self.kubectl("apply", "-f", "-", input=text)

    def namespace(self, name: str | None = None, labels: dict[str, str] | None = None) -> str:
        """Create a namespace, with a name of its own if none is given, and its `default` ServiceAccount."""
        name = name or f"test-{secrets.token_hex(4)}"
        self._create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels or {}}})
        self._create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        return name

    def service_account_token(self, namespace: str, name: str, audience: str | None = None, seconds: int = 3600) -> str:
        """A token of an existing ServiceAccount, by TokenRequest, for the API server unless an audience is named."""
        spec = {"expirationSeconds": seconds, "audiences": [audience] if audience else []}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self._create(path, {"spec": spec})["status"]["token"])

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig that acts as an existing ServiceAccount, in its namespace."""
        path = self.folder / f"kubeconfig.{namespace}.{service_account}"
        return self._write_kubeconfig(path, self.service_account_token(namespace, service_account), namespace)

    # How it starts

    def _start(self, undo: ExitStack) -> None:
        self.ca_file, self.kubeconfig = self.folder / "ca.crt", self.folder / "kubeconfig"
        self.admin_token = secrets.token_urlsafe(24)
        write_certificates(self.folder)
        self.tls = ssl.create_default_context(cafile=str(self.ca_file))
        (self.folder / "tokens.csv").write_text(f"{self.admin_token},admin,admin,system:masters\n")
        self._start_etcd()
        self._start_api_server_on_some_port(undo)
        self._write_kubeconfig(self.kubeconfig, self.admin_token, "default")
        self._open_discovery()

    def _start_etcd(self) -> None:
        """On sockets in the folder: no port to clash over, and nobody else's etcd can be taken for ours."""
        socket_file = self.folder / "etcd.sock"
        unused = "http://127.0.0.1:2380"  # advertised, as etcd demands, to members that a single one does not have
        flags = {
            "data-dir": self.folder / "etcd",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
            "listen-client-urls": f"unix://{socket_file}",
            "listen-peer-urls": f"unix://{self.folder / 'peer.sock'}",
            "advertise-client-urls": unused,
            "initial-advertise-peer-urls": unused,
            "initial-cluster": f"default={unused}",
        }
        self._processes.start(ETCD, self._etcd, *_flags(flags))
        # An API server that finds no etcd tries again only after a second.
        self._wait_for_start(ETCD, socket_file.exists)

    def _start_api_server_on_some_port(self, undo: ExitStack) -> None:
        for _ in range(5):
            self._use_port(free_port())
            undo.callback(self.api.close)
            with suppress(PortTaken):
                self.start_api_server()
                return
        raise ControlPlaneError(f"no port was free for {API_SERVER}\n{self.logs_tail()}")

    def _use_port(self, port: int) -> None:
        self.server = f"https://{f'[{self._address}]' if ':' in self._address else self._address}:{port}"
        self.api = httpx2.Client(
            base_url=self.server,
            headers={"authorization": f"Bearer {self.admin_token}"},
            verify=self.tls,
            trust_env=False,
        )

    def _api_server_flags(self) -> dict[str, object]:
        return {
            "etcd-servers": f"unix://{self.folder / 'etcd.sock'}",
            "bind-address": self._address,
            "secure-port": httpx2.URL(self.server).port,
            "advertise-address": self._address,
            "endpoint-reconciler-type": "none",  # Service `kubernetes` cannot have a loopback endpoint
            "service-cluster-ip-range": self._services,
            "tls-cert-file": self.folder / "server.crt",
            "tls-private-key-file": self.folder / "server.key",
            "token-auth-file": self.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "allow-privileged": "true",  # so that it is Pod Security that refuses
            "service-account-key-file": self.folder / "sa.pub",
            "service-account-signing-key-file": self.folder / "sa.key",
            "service-account-issuer": self.server,
            "service-account-jwks-uri": f"{self.server}/openid/v1/jwks",
        }

    def _wait_for_start(self, name: str, is_ready: Callable[[], bool]) -> None:
        try:
            wait_until(lambda: self._must_run(name) and is_ready(), f"{name} ready", START_SECONDS)
        except NotInTime as error:
            raise ControlPlaneError(f"{error}\n{self.logs_tail()}") from None

    def _must_run(self, name: str) -> bool:
        if self._processes.is_running(name):
            return True
        port_is_taken = "address already in use" in self._log_tail(name, lines=30)
        raise (PortTaken if port_is_taken else ControlPlaneError)(f"{name} ended while it started\n{self.logs_tail()}")

    def _is_ready(self) -> bool:
        try:
            # The namespace is made in the background, and /readyz does not wait for it.
            return all(self.api.get(path).is_success for path in ("/readyz", "/api/v1/namespaces/default"))
        except httpx2.TransportError:
            return False

    def _open_discovery(self) -> None:
        """Let everybody read the issuer's keys, as people do who federate with an outside provider; wait until it holds."""
        rbac, kind = (
            "rbac.authorization.k8s.io",
            {"kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
        )
        everybody = {"kind": "Group", "name": "system:unauthenticated"}
        binding = {
            "metadata": {"name": "service-account-issuer-discovery-for-all"},
            "roleRef": {"apiGroup": rbac, **kind},
            "subjects": [{"apiGroup": rbac, **everybody}],
        }
        self._create(f"/apis/{rbac}/v1/clusterrolebindings", binding)
        address = f"{self.server}/.well-known/openid-configuration"
        wait_until(lambda: self.api.get(address, headers={"authorization": ""}).is_success, "discovery for everybody")

    def _create(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.api.post(path, json=body)
        if not answer.is_success:
            raise ControlPlaneError(f"POST {path}: {answer.json().get('message', answer.text)}")
        return answer.json()

    def _write_kubeconfig(self, path: Path, token: str, namespace: str) -> Path:
        ca = base64.b64encode(self.ca_file.read_bytes()).decode()
        name = "control-plane"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.server, "certificate-authority-data": ca}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def _log_tail(self, name: str, lines: int) -> str:
        log = self._processes.log_file(name)
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def _flags(flags: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def free_port() -> int:
    """A port that was free a moment ago. Not from `random`, which property tests seed: all would try the same ones."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
