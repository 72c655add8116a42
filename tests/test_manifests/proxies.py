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

API = "oauthpool.dev/v1alpha1"
JSON = "application/json"
MERGE, APPLY, JSON_PATCH = (
    f"application/{kind}" for kind in ("merge-patch+json", "apply-patch+yaml", "json-patch+json")
)
TIME = "2026-11-20T20:00:00Z"
KEY = "A" * 43 + "="


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
        return self._request(method, accounts_path(self.namespace) + to, body, content_type, manager)

    def patch_status(self, status: dict[str, Any]) -> httpx2.Response:
        return self.send("PATCH", {"status": status})

    def apply(self, status: dict[str, Any], *, manager: str) -> httpx2.Response:
        body = {"apiVersion": API, "kind": "OAuthAccount", "status": status}
        return self.send("PATCH", body, content_type=APPLY, manager=manager)

    def declare(self, name: str, *, owners: list[dict[str, Any]], key: str = KEY) -> httpx2.Response:
        """Its key as an OAuthProxy, as the proxy does it: server-side apply makes or changes the object."""
        metadata = {"name": name, "ownerReferences": owners}
        body = {"apiVersion": API, "kind": "OAuthProxy", "metadata": metadata, "spec": {"publicKey": key}}
        return self._request("PATCH", f"{proxies_path(self.namespace)}/{name}", body, APPLY, "oauth-pool-proxy")

    def say_how_many(self, name: str, tokens: int) -> httpx2.Response:
        path = f"{proxies_path(self.namespace)}/{name}/status"
        return self._request("PATCH", path, {"status": {"tokens": tokens}}, MERGE, "")

    def _request(self, method: str, path: str, body: object, content_type: str, manager: str) -> httpx2.Response:
        return self.plane.api.request(
            method,
            path,
            content=json.dumps(body),
            params={"fieldManager": manager, "force": "true"} if manager else {},
            headers={"content-type": content_type, "authorization": f"Bearer {self.token}"},
        )


def kube_api(plane: ControlPlane, namespace: str, folder: Path, token: str) -> KubeApi:
    """The proxy's own client."""
    (folder / "token").write_text(token)
    return KubeApi(KubernetesConfig(plane.server, namespace, plane.ca_file, folder / "token"))


def pod_token(plane: ControlPlane, namespace: str, name: str, *, template: Manifest | None = None) -> str:
    """The proxy's token in the pod of that name, bound to it; the pod is made if there is none."""
    manifest = pod(name, template or pod_templates(overlay("default"))[PROXY])
    plane.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}})
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{manifest['spec']['serviceAccountName']}/token"
    answer = plane.api.post(path, json={"spec": {"audiences": [], "boundObjectRef": pod_owner(plane, namespace, name)}})
    assert answer.is_success, answer.text
    return str(answer.json()["status"]["token"])


def pod_owner(plane: ControlPlane, namespace: str, name: str) -> dict[str, Any]:
    """The reference to a pod, as its OAuthProxy has it."""
    uid = json.loads(plane.kubectl("get", "pod", name, "-n", namespace, "-o", "json"))["metadata"]["uid"]
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def accounts_path(namespace: str) -> str:
    return f"/apis/{API}/namespaces/{namespace}/oauthaccounts"


def proxies_path(namespace: str) -> str:
    return f"/apis/{API}/namespaces/{namespace}/oauthproxies"


def make_account(plane: ControlPlane, namespace: str, name: str, status: dict[str, Any]) -> None:
    spec = {"provider": "anthropic", "grant": "AuthorizationCode"}
    metadata = {"name": name, "namespace": namespace}
    plane.apply({"apiVersion": API, "kind": "OAuthAccount", "metadata": metadata, "spec": spec})
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
