"""The overlays on a real API server: it takes all of them, and lets nobody do more than they need."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import ControlPlane, KubectlError
from tests.test_manifests.manifests import (
    COMPONENTS,
    K8S,
    NAMESPACE,
    OVERLAYS,
    WITH_KUSTOMIZE,
    Manifest,
    cluster_part,
    container,
    overlay,
    pod,
    pod_templates,
    variant,
)

pytestmark = WITH_KUSTOMIZE

CONFIG_MAPS = [
    name
    for first in ("oauth-pool", "oauth-tokens")
    for name in (first, *(f"{first}-{number}" for number in range(1, 10)))
]
VERBS = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
# verb, resource, name ("" is any); everything that is not here must be refused
ALLOWED = {
    "oauth-pool-operator": {
        *((verb, "oauthaccounts", "") for verb in ("get", "list", "watch", "patch")),
        ("patch", "oauthaccounts/status", ""),
        *((verb, "oauthproxies", "") for verb in ("get", "list", "watch")),
        ("create", "events", ""),
        ("create", "configmaps", ""),
        *((verb, "configmaps", name) for verb in ("get", "patch") for name in CONFIG_MAPS),
        ("create", "leases", ""),
        *((verb, "leases", "oauth-pool-operator") for verb in ("get", "patch")),
    },
    "oauth-pool-proxy": {
        *((verb, "configmaps", name) for verb in ("list", "watch") for name in CONFIG_MAPS),
        ("patch", "oauthaccounts/status", ""),
        *((verb, "oauthproxies", "") for verb in ("create", "patch")),
        ("patch", "oauthproxies/status", ""),
    },
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_api_server_takes_all_of_it(cluster: ControlPlane, name: str) -> None:
    assert_taken(cluster, overlay(name))


def test_the_api_server_takes_what_is_of_the_cluster(cluster: ControlPlane) -> None:
    assert_taken(cluster, cluster_part())


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_api_server_takes_every_component(cluster: ControlPlane, component: str, tmp_path: Path) -> None:
    in_overlay = {"images", "network-policies", "pod-disruption-budget", "tailscale-ingress"}
    if component in in_overlay:
        assert (K8S / "overlays/default/kustomization.yaml").read_text().count(f"components/{component}\n") == 1
        return
    content = {"namespace": NAMESPACE}
    objects = variant(tmp_path, content, of="multi-replica", components=(component,))
    # of operators that are not here
    foreign = ("monitoring.coreos.com/", "cilium.io/")
    assert_taken(cluster, [found for found in objects if not found["apiVersion"].startswith(foreign)])


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


def test_on_openshift_the_cluster_chooses_the_user_and_nothing_else_is_looser(tmp_path: Path) -> None:
    for name in ("default", "passthrough"):
        shipped = pod_templates(overlay(name))
        for deployment, template in pod_templates(variant(tmp_path, {}, of=name, components=("openshift",))).items():
            context = dict(shipped[deployment]["spec"]["securityContext"])
            for key in ("runAsUser", "runAsGroup", "fsGroup"):
                del context[key]
            assert template["spec"]["securityContext"] == context
            assert container(template) == container(shipped[deployment])


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


def assert_taken(cluster: ControlPlane, objects: list[Manifest]) -> None:
    """One by one: the namespace and the kinds are there, so nothing depends on what a dry run does not do."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    answer = cluster.kubectl(
        "apply", "--dry-run=server", "--server-side", "--validate=strict", "--force-conflicts", "-f", "-", input=text
    )
    assert len(answer.splitlines()) == len(objects)


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
