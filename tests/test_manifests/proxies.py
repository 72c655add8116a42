"""Proxies as the API server sees them: a ServiceAccount with the token of a Pod, as the kubelet gets it; nothing is impersonated."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.kube_api import KubeApi
from tests.support.control_plane import ControlPlane
from tests.test_manifests.manifests import PROXY, Manifest, overlay, pod, pod_templates

JSON = "application/json"
MERGE, APPLY, JSON_PATCH = (
    f"application/{kind}" for kind in ("merge-patch+json", "apply-patch+yaml", "json-patch+json")
)
TIME = "2026-11-20T20:00:00Z"


def report(reporter: str, **fields: object) -> dict[str, object]:
    return {"reporter": reporter, "observedTime": TIME, **fields}


@dataclass(frozen=True)
class Caller:
    """Somebody with a token, and how the API server answers them."""

    plane: ControlPlane
    namespace: str
    token: str

    def send(
        self, method: str, body: object, *, to: str = "/alice/status", content_type: str = MERGE, manager: str = ""
    ) -> httpx2.Response:
        params = {"fieldManager": manager, "force": "true"} if manager else {}
        return self.plane.api.request(
            method,
            accounts_path(self.namespace) + to,
            content=json.dumps(body),
            params=params,
            headers={"content-type": content_type, "authorization": f"Bearer {self.token}"},
        )

    def patch_status(self, status: dict[str, Any]) -> httpx2.Response:
        return self.send("PATCH", {"status": status})

    def apply(self, status: dict[str, Any], *, manager: str) -> httpx2.Response:
        body = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", "status": status}
        return self.send("PATCH", body, content_type=APPLY, manager=manager)


def kube_api(plane: ControlPlane, namespace: str, folder: Path, token: str) -> KubeApi:
    """The proxy's own client."""
    (folder / "token").write_text(token)
    return KubeApi(KubernetesConfig(plane.server, namespace, plane.ca_file, folder / "token"))


def pod_token(plane: ControlPlane, namespace: str, name: str) -> str:
    """The proxy's token in the pod of that name, bound to it; the pod is made if there is none."""
    manifest = pod(name, pod_templates(overlay("default"))[PROXY])
    plane.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}})
    uid = json.loads(plane.kubectl("get", "pod", name, "-n", namespace, "-o", "json"))["metadata"]["uid"]
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/oauth-pool-proxy/token"
    reference = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    answer = plane.api.post(path, json={"spec": {"audiences": [], "boundObjectRef": reference}})
    assert answer.is_success, answer.text
    return str(answer.json()["status"]["token"])


def accounts_path(namespace: str) -> str:
    return f"/apis/oauthpool.dev/v1alpha1/namespaces/{namespace}/oauthaccounts"


def make_account(plane: ControlPlane, namespace: str, name: str, status: dict[str, Any]) -> None:
    spec = {"provider": "anthropic", "grant": "AuthorizationCode"}
    metadata = {"name": name, "namespace": namespace}
    plane.apply({"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", "metadata": metadata, "spec": spec})
    if status:
        answer = Caller(plane, namespace, plane.admin_token).send("PATCH", {"status": status}, to=f"/{name}/status")
        assert answer.is_success, answer.text


def get_account(plane: ControlPlane, namespace: str, name: str = "alice") -> Manifest:
    found: Manifest = plane.api.get(f"{accounts_path(namespace)}/{name}").json()
    return found


def metadata_and_spec(plane: ControlPlane, namespace: str) -> Manifest:
    """What only people and the operator change."""
    found = get_account(plane, namespace)
    for changing in ("resourceVersion", "managedFields"):
        del found["metadata"][changing]
    return {"metadata": found["metadata"], "spec": found["spec"]}
