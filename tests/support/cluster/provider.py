"""The provider's simulator as a pod, with a certificate and a Service, and beside it a pod from which clients ask."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import NAMESPACE as PRODUCT
from tests.support.control_plane.certificates import write_certificates
from tests.support.stack import CLIENT_ID, ORGANIZATION, RULE, WORKLOAD, SimulatorClient, grants_of_simulator

NAMESPACE = "oauth-pool-e2e"
HOST = f"provider.{NAMESPACE}.svc"
URL = f"https://{HOST}"
PORT = 443  # network policies see the pod's port, and let out what is for 443
SUBJECT = f"system:serviceaccount:{PRODUCT}:{WORKLOAD}"
FILES = "/etc/provider"
ARGUMENTS = [
    *("--host=0.0.0.0", f"--port={PORT}", f"--certificate-file={FILES}/server.crt", f"--key-file={FILES}/server.key"),
    *(f"--client-id={CLIENT_ID}", f"--redirect-uri={URL}/oauth/callback", "--scope=inference"),
    *(f"--audience={URL}", f"--federation-rule=id={RULE},organization={ORGANIZATION},subject={SUBJECT}"),
    f"--jwks-file={FILES}/jwks.json",
]


class Provider:
    """`simulator` is its control API; `ca` the PEM of the CA that signed its certificate."""

    def __init__(self, kubectl: Kubectl, folder: Path, image: str) -> None:
        self.kubectl = kubectl.in_namespace(NAMESPACE)
        self._folder = folder
        self._image = image
        write_certificates(folder, names=(HOST,))
        self.ca = (folder / "ca.crt").read_text()
        self.simulator: SimulatorClient

    @contextmanager
    def running(self) -> Iterator["Provider"]:
        """From its own namespace to a control API that can be called."""
        try:
            for document in self._manifests():
                self.kubectl("apply", "-f", "-", stdin=json.dumps(document))
            self.kubectl("rollout", "status", "deployment/provider", "deployment/client", "--timeout=90s")
            trust = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
            with self.kubectl.forwarded("deployment/provider", PORT) as port:
                self.simulator = SimulatorClient(f"https://127.0.0.1:{port}", verify=trust)
                yield self
        finally:
            self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")

    def operator_toml(self) -> str:
        """The profile `simulator`, with all three grants."""
        return f"""\
[providers.simulator]
ca_file = "/etc/oauth-pool-operator/ca.pem"

{grants_of_simulator(URL)}"""

    def proxy_toml(self, *more: str) -> str:
        """In pool mode, with these lines more in [proxy]."""
        return "\n".join(
            [
                "[proxy]",
                'listen_addr = "0.0.0.0:8080"',
                'metrics_addr = "0.0.0.0:9090"',
                f'upstream_url = "{URL}"',
                'upstream_ca_file = "/etc/anthropic-oauth-proxy/ca.pem"',
                "pre_stop_delay_secs = 5",
                "drain_timeout_secs = 5",
                *more,
                "[oauth]",
                'source = "kubernetes"',
                'provider = "simulator"',
                "",
            ]
        )

    def _manifests(self) -> list[dict[str, Any]]:
        issuer = json.loads(self.kubectl("get", "--raw", "/.well-known/openid-configuration"))["issuer"]
        files = {name: (self._folder / name).read_text() for name in ("server.crt", "server.key")}
        files["jwks.json"] = self.kubectl("get", "--raw", "/openid/v1/jwks")
        labels = {"oauthpool.dev/client": "true"}  # network policies of the product let it in
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "provider"}, "data": files},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "provider"},
                "spec": {"selector": {"app": "provider"}, "ports": [{"port": 443, "targetPort": PORT}]},
            },
            self._deployment(
                "provider",
                ["python", "-m", "tests.simulator", *ARGUMENTS, f"--issuer={issuer}"],
                {
                    "readinessProbe": {
                        "httpGet": {"path": "/_simulator/health", "port": PORT, "scheme": "HTTPS"},
                        "periodSeconds": 1,
                    },
                    "volumeMounts": [{"name": "files", "mountPath": FILES}],
                },
                {"volumes": [{"name": "files", "configMap": {"name": "provider"}}]},
            ),
            self._deployment("client", ["sleep", "infinity"], {}, {}),
        ]

    def _deployment(
        self, name: str, command: list[str], container: dict[str, Any], pod: dict[str, Any]
    ) -> dict[str, Any]:
        labels = {"app": name}
        containers = [{"name": name, "image": self._image, "command": command, **container}]
        spec = {
            "containers": containers,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            **pod,
        }
        template = {"metadata": {"labels": labels}, "spec": spec}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
