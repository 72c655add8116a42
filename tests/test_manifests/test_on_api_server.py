"""The overlays on a real API server: it takes all of them, and lets nobody do more than they need."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import ControlPlane, KubectlError
from tests.test_manifests.manifests import (
    K8S,
    NAMESPACE,
    OVERLAYS,
    PROXY,
    Manifest,
    one,
    overlay,
    pod,
    pod_templates,
    variant,
)

CONFIG_MAPS = ["oauth-pool", *(f"oauth-pool-{number}" for number in range(1, 10))]
VERBS = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
# verb, resource, name ("" is any); everything that is not here must be refused
ALLOWED = {
    "oauth-pool-operator": {
        *((verb, "oauthaccounts", "") for verb in ("get", "list", "watch", "patch")),
        ("patch", "oauthaccounts/status", ""),
        ("create", "events", ""),
        ("create", "configmaps", ""),
        *((verb, "configmaps", name) for verb in ("get", "patch") for name in CONFIG_MAPS),
        ("create", "leases", ""),
        *((verb, "leases", "oauth-pool-operator") for verb in ("get", "patch")),
    },
    "oauth-pool-proxy": {
        *((verb, "configmaps", name) for verb in ("list", "watch") for name in CONFIG_MAPS),
        ("patch", "oauthaccounts/status", ""),
    },
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_api_server_takes_all_of_it(cluster: ControlPlane, name: str) -> None:
    # One by one: the namespace and the kind are there, so nothing depends on what a dry run does not do.
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": overlay(name)})
    answer = cluster.kubectl(
        "apply", "--dry-run=server", "--server-side", "--validate=strict", "--force-conflicts", "-f", "-", input=text
    )
    assert len(answer.splitlines()) == len(overlay(name))


def test_the_api_server_takes_the_autoscaler(cluster: ControlPlane, tmp_path: Path) -> None:
    component = {"components": [os.path.relpath(K8S / "components" / "autoscaling", tmp_path)]}
    scaler = one(variant(tmp_path, component, of="multi-replica"), "HorizontalPodAutoscaler", PROXY)
    assert "created" in dry_run(cluster, scaler)


@pytest.mark.parametrize("name", OVERLAYS)
def test_pod_security_restricted_takes_every_pod(cluster: ControlPlane, name: str) -> None:
    for deployment, template in pod_templates(overlay(name)).items():
        assert "created" in dry_run(cluster, pod(deployment, template))


def test_pod_security_is_enforced_in_the_namespace_that_is_shipped(cluster: ControlPlane) -> None:
    for deployment, template in pod_templates(overlay("default")).items():
        manifest = pod(deployment, json.loads(json.dumps(template)))
        del manifest["spec"]["containers"][0]["securityContext"]["capabilities"]
        with pytest.raises(KubectlError, match='violates PodSecurity "restricted'):
            dry_run(cluster, manifest)


@pytest.mark.parametrize("name", OVERLAYS)
def test_containers_are_tighter_than_restricted_asks_for(name: str) -> None:
    for template in pod_templates(overlay(name)).values():
        spec = template["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert spec["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("service_account", ALLOWED)
def test_roles_allow_what_the_programs_do_and_nothing_else(cluster: ControlPlane, service_account: str) -> None:
    names = {"configmaps": CONFIG_MAPS, "leases": ["oauth-pool-operator"]}
    found = {
        (verb, resource, name)
        for group, resource in resources(cluster)
        for verb in VERBS
        for name in ["", "something-else", *names.get(resource, [])]
        if is_allowed(cluster, service_account, verb, group, resource, name)
    }
    # who may do it to any may do it to each
    unlimited = {(verb, resource) for verb, resource, name in found if not name}
    assert {entry for entry in found if not entry[2] or entry[:2] not in unlimited} == ALLOWED[service_account]


@pytest.mark.parametrize("service_account", ALLOWED)
def test_nothing_is_allowed_outside_the_namespace(cluster: ControlPlane, service_account: str) -> None:
    groups = {resource: group for group, resource in resources(cluster)}
    for verb, resource, name in ALLOWED[service_account]:
        group = groups[resource]
        assert not is_allowed(cluster, service_account, verb, group, resource, name, namespace="default")


def dry_run(cluster: ControlPlane, manifest: Manifest) -> str:
    return cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(manifest))


def resources(cluster: ControlPlane) -> list[tuple[str, str]]:
    """Every kind of thing that this API server has, subresources included, as (group, resource)."""
    documents = [("", cluster.api.get("/api/v1").json())]
    for group in cluster.api.get("/apis").json()["groups"]:
        path = f"/apis/{group['preferredVersion']['groupVersion']}"
        documents.append((group["name"], cluster.api.get(path).json()))
    # Reviews are what everybody may ask about themselves (system:basic-user); events exist twice, in two groups.
    return [
        (group, entry["name"])
        for group, document in documents
        for entry in document["resources"]
        if not entry["name"].startswith("self") and (group, entry["name"]) != ("events.k8s.io", "events")
    ]


def is_allowed(
    cluster: ControlPlane,
    service_account: str,
    verb: str,
    group: str,
    resource: str,
    name: str,
    *,
    namespace: str = NAMESPACE,
) -> bool:
    plural, _, subresource = resource.partition("/")
    attributes: dict[str, Any] = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": plural,
        "name": name,
    }
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
    user = f"system:serviceaccount:{NAMESPACE}:{service_account}"
    spec = {"user": user, "groups": groups, "resourceAttributes": {**attributes, "subresource": subresource}}
    answer = cluster.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json={"spec": spec})
    assert answer.is_success, answer.text
    return bool(answer.json()["status"]["allowed"])
