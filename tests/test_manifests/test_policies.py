"""The admission policies: a proxy writes its own OAuthProxy and its own entry of status.reports, and nothing else.

The proxies' ServiceAccount may do far too much by its Role here, so that it is the policies that refuse.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import yaml

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.conftest import POOL, PROXIES, REPORTS
from tests.test_manifests.manifests import (
    K8S,
    PROXY,
    WITH_KUSTOMIZE,
    cluster_part,
    kustomize,
    of_kind,
    one,
    pod_templates,
)
from tests.test_manifests.proxies import (
    API,
    APPLY,
    JSON,
    KEY,
    TIME,
    Caller,
    get_account,
    make_account,
    metadata_and_spec,
    pod_owner,
    pod_token,
    proxies_path,
    report,
)

STATUS = {
    "subject": "alice@example.com",
    "login": {"authorizationURL": "https://provider.example/authorize"},
    "token": {"generation": 17, "fingerprint": "9f86d081884c7d65"},
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Available", "message": "", "lastTransitionTime": TIME},
    ],
}
"""What the operator wrote."""


@pytest.fixture
def plane(cluster: ControlPlane) -> Iterator[ControlPlane]:
    """An account `alice` with the operator's status and one report of `proxy-b`."""
    make_account(cluster, POOL, "alice", {**STATUS, "reports": [report("proxy-b", reason="RateLimited")]})
    yield cluster
    cluster.kubectl("delete", "oauthaccounts", "--all", "-n", POOL, "--timeout=10s")


@pytest.fixture
def proxy(plane: ControlPlane) -> Caller:
    """The proxy in pod proxy-a."""
    return Caller(plane, POOL, pod_token(plane, POOL, "proxy-a"))


def test_a_proxy_writes_changes_and_removes_its_own_entry(plane: ControlPlane, proxy: Caller) -> None:
    for entries in ([report("proxy-a", reason="QuotaExhausted")], [report("proxy-a")], []):
        assert proxy.apply({"reports": entries}, manager="oauth-pool-proxy-proxy-a").is_success
        assert status(plane) == {**STATUS, "reports": [report("proxy-b", reason="RateLimited"), *entries]}


def test_the_first_report_and_the_first_status_are_no_exception(plane: ControlPlane, proxy: Caller) -> None:
    make_account(plane, POOL, "bob", {})
    answer = proxy.send("PATCH", {"status": {"reports": [report("proxy-a")]}}, to="/bob/status")
    assert answer.is_success, answer.text
    assert REPORTS in proxy.send("PATCH", {"status": {"subject": "mallory"}}, to="/bob/status").text


def test_there_is_room_for_as_many_reporters_as_the_kind_allows(plane: ControlPlane, proxy: Caller) -> None:
    windows = [{"name": name, "utilization": 0.5, "status": "allowed", "resetTime": TIME} for name in ("5h", "7d")]
    others = [report(f"proxy-{number:03}", windows=windows) for number in range(499)]
    make_account(plane, POOL, "crowded", {**STATUS, "reports": others})
    body = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", "status": {"reports": [report("proxy-a")]}}
    answer = proxy.send("PATCH", body, to="/crowded/status", content_type=APPLY, manager="oauth-pool-proxy-proxy-a")
    assert answer.is_success, answer.text


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"reports": [report("proxy-b", reason="RateLimited"), report("proxy-c")]}, id="adds another's"),
        pytest.param({"reports": [report("proxy-b", reason="Unauthorized")]}, id="changes another's"),
        pytest.param({"reports": [report("proxy-a")]}, id="its own in place of another's"),
        pytest.param({"reports": []}, id="removes another's"),
        pytest.param({"reports": None}, id="removes all"),
        pytest.param({"subject": "mallory@example.com"}, id="subject"),
        pytest.param({"login": {"authorizationURL": "https://phishing.example/"}}, id="login URL"),
        pytest.param({"token": {"generation": 99}}, id="one field below another"),
        pytest.param({"conditions": []}, id="conditions"),
        pytest.param({"cooldown": {"untilTime": TIME, "reason": "RateLimited"}}, id="a field that was not there"),
        pytest.param({"subject": None}, id="a field goes"),
        pytest.param(
            {"observedGeneration": 7, "reports": [report("proxy-b", reason="RateLimited"), report("proxy-a")]},
            id="beside its own entry",
        ),
    ],
)
def test_everything_else_in_the_status_is_refused(plane: ControlPlane, proxy: Caller, change: dict[str, Any]) -> None:
    before = status(plane)
    answer = proxy.patch_status(change)
    assert (answer.status_code, REPORTS in answer.text) == (422, True), answer.text
    assert status(plane) == before


def test_the_whole_status_cannot_be_replaced(plane: ControlPlane, proxy: Caller) -> None:
    current = get_account(plane, POOL)
    replacements: list[dict[str, Any]] = [{"status": {"reports": [report("proxy-a")]}}, {"status": {}}, {}]
    for new in replacements:
        answer = proxy.send(
            "PUT", {key: value for key, value in current.items() if key != "status"} | new, content_type=JSON
        )
        assert (answer.status_code, REPORTS in answer.text) == (422, True), answer.text
    assert status(plane) == current["status"]


def test_another_proxys_field_manager_gives_no_power_over_its_entry(plane: ControlPlane, proxy: Caller) -> None:
    other, manager = Caller(plane, POOL, pod_token(plane, POOL, "proxy-c")), "oauth-pool-proxy-proxy-c"
    assert other.apply({"reports": [report("proxy-c")]}, manager=manager).is_success
    before = status(plane)
    for entries in ([report("proxy-a")], [], [report("proxy-c", reason="Forbidden")]):
        answer = proxy.apply({"reports": entries}, manager=manager)
        assert (answer.status_code, REPORTS in answer.text) == (422, True), answer.text
    assert status(plane) == before


@pytest.mark.parametrize(
    ("method", "to", "body"),
    [
        pytest.param("PUT", "/alice", {"spec": {"priority": 1000}}, id="spec"),
        pytest.param("PUT", "/alice", {"metadata": {"labels": {"a": "b"}}}, id="labels"),
        pytest.param(
            "PUT", "/alice", {"metadata": {"annotations": {"oauthpool.dev/authorization-code": "x"}}}, id="annotations"
        ),
        pytest.param("PUT", "/alice", {"metadata": {"finalizers": ["a.example/b"]}}, id="finalizers"),
        pytest.param(
            "POST",
            "",
            {"metadata": {"name": "eve"}, "spec": {"provider": "anthropic", "grant": "AuthorizationCode"}},
            id="create",
        ),
        pytest.param("DELETE", "/alice", {}, id="delete"),
        pytest.param("DELETE", "", {}, id="delete all"),
    ],
)
def test_the_rest_of_an_account_is_out_of_reach_whatever_the_role_says(
    plane: ControlPlane, proxy: Caller, method: str, to: str, body: dict[str, Any]
) -> None:
    if method == "PUT":
        now = get_account(plane, POOL)
        body = {**now, **{key: {**now[key], **value} for key, value in body.items()}}
    elif method == "POST":
        body = {"apiVersion": API, "kind": "OAuthAccount", **body}
    before = metadata_and_spec(plane, POOL)
    answer = proxy.send(method, body, to=to, content_type=JSON)
    assert (answer.status_code, REPORTS in answer.text) == (422, True), answer.text
    assert metadata_and_spec(plane, POOL) == before


def test_through_the_status_nothing_but_the_status_changes(plane: ControlPlane, proxy: Caller) -> None:
    before = metadata_and_spec(plane, POOL)
    metadata = {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["a.example/b"], "ownerReferences": []}
    reports = [report("proxy-b", reason="RateLimited"), report("proxy-a")]
    answer = proxy.send("PATCH", {"metadata": metadata, "spec": {"suspend": True}, "status": {"reports": reports}})
    assert answer.is_success, answer.text
    assert metadata_and_spec(plane, POOL) == before


def test_a_token_of_no_pod_reports_nothing(plane: ControlPlane) -> None:
    stolen = Caller(plane, POOL, plane.service_account_token(POOL, "oauth-pool-proxy"))
    for reporter in ("proxy-a", "oauth-pool-proxy"):
        answer = stolen.patch_status({"reports": [report("proxy-b", reason="RateLimited"), report(reporter)]})
        assert (answer.status_code, "of no pod" in answer.text) == (422, True), answer.text


def test_everybody_but_proxies_is_left_alone(plane: ControlPlane) -> None:
    plane.kubectl("create", "serviceaccount", "operator", "-n", POOL)
    plane.kubectl(
        "create", "rolebinding", "operator", "--role=anything", f"--serviceaccount={POOL}:operator", "-n", POOL
    )
    operator = Caller(plane, POOL, plane.service_account_token(POOL, "operator"))
    wait_until(lambda: operator.send("GET", None, to="/alice").is_success, "the operator's Role is in force")
    assert operator.patch_status({"reports": [], "subject": "bob@example.com"}).is_success
    assert operator.send("PATCH", {"spec": {"priority": 1}}, to="/alice").is_success


def test_controllers_of_the_cluster_that_delete_accounts_are_left_alone(plane: ControlPlane) -> None:
    """The namespace controller may delete whatever there is, and patch nothing; refused, no namespace would ever end."""
    headers = {"impersonate-user": "system:serviceaccount:kube-system:namespace-controller"}
    answer = plane.api.delete(f"/apis/{API}/namespaces/{POOL}/oauthaccounts/alice", headers=headers)
    assert answer.is_success, answer.text


# --- a proxy's own object ------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy_a(cluster: ControlPlane) -> Iterator[Caller]:
    """The proxy in pod proxy-a, where proxy-b has declared itself."""
    other = Caller(cluster, POOL, pod_token(cluster, POOL, "proxy-b"))
    answer = other.declare("proxy-b", owners=[pod_owner(cluster, POOL, "proxy-b")])
    assert answer.is_success, answer.text
    yield Caller(cluster, POOL, pod_token(cluster, POOL, "proxy-a"))
    cluster.kubectl("delete", "oauthproxies", "--all", "-n", POOL, "--timeout=10s")


def test_a_proxy_declares_itself_changes_its_key_and_says_what_it_holds(cluster: ControlPlane, proxy_a: Caller) -> None:
    own = [pod_owner(cluster, POOL, "proxy-a")]
    for key in (KEY, "B" * 43 + "="):
        answer = proxy_a.declare("proxy-a", owners=own, key=key)
        assert answer.is_success, answer.text
    answer = proxy_a.say_how_many("proxy-a", 20)
    assert answer.is_success, answer.text
    assert [line.split()[:2] for line in cluster.kubectl("get", "oauthproxies", "-n", POOL).splitlines()[1:]] == [
        ["proxy-a", "20"],
        ["proxy-b", ANY],
    ]


def test_a_key_is_one_of_32_bytes(cluster: ControlPlane, proxy_a: Caller) -> None:
    answer = proxy_a.declare("proxy-a", owners=[pod_owner(cluster, POOL, "proxy-a")], key="AAAA")
    assert answer.status_code == 422 and "spec.publicKey" in answer.text


@pytest.mark.parametrize(
    "case", ["another's name", "another's owner", "no owner", "two owners", "not a pod", "old pod"]
)
def test_a_proxy_declares_nobody_else(cluster: ControlPlane, proxy_a: Caller, case: str) -> None:
    own, other = (pod_owner(cluster, POOL, name) for name in ("proxy-a", "proxy-b"))
    name, owners = {
        "another's name": ("proxy-b", [own]),
        "another's owner": ("proxy-a", [other]),
        "no owner": ("proxy-a", []),
        "two owners": ("proxy-a", [own, other]),
        "not a pod": ("proxy-a", [{**own, "kind": "ConfigMap"}]),
        "old pod": ("proxy-a", [{**own, "uid": "00000000-0000-4000-8000-000000000000"}]),
    }[case]
    before = cluster.api.get(f"{proxies_path(POOL)}/proxy-b").json()
    answer = proxy_a.declare(name, owners=owners)
    assert (answer.status_code, PROXIES in answer.text) == (422, True), answer.text
    assert cluster.api.get(f"{proxies_path(POOL)}/proxy-b").json() == before
    assert cluster.api.get(f"{proxies_path(POOL)}/proxy-a").status_code == 404


def test_a_proxy_says_nothing_of_what_another_holds(proxy_a: Caller) -> None:
    answer = proxy_a.say_how_many("proxy-b", 0)
    assert (answer.status_code, PROXIES in answer.text) == (422, True), answer.text


def test_nobody_without_the_token_of_the_pod_declares_a_proxy(cluster: ControlPlane, proxy_a: Caller) -> None:
    """Not an admin either: whoever could would be sent everybody's tokens."""
    own = [pod_owner(cluster, POOL, "proxy-a")]
    for token in (cluster.admin_token, cluster.service_account_token(POOL, "oauth-pool-proxy")):
        answer = Caller(cluster, POOL, token).declare("proxy-a", owners=own)
        assert (answer.status_code, PROXIES in answer.text) == (422, True), answer.text


def test_the_garbage_collector_may_take_an_owner_away(cluster: ControlPlane, proxy_a: Caller) -> None:
    """As it does for `kubectl delete pod --cascade=orphan`; anybody may delete one who may by RBAC."""
    headers = {
        "impersonate-user": "system:serviceaccount:kube-system:generic-garbage-collector",
        "content-type": "application/merge-patch+json",
    }
    path = f"{proxies_path(POOL)}/proxy-b"
    answer = cluster.api.patch(path, content='{"metadata": {"ownerReferences": null}}', headers=headers)
    assert answer.is_success, answer.text
    assert cluster.api.delete(path).is_success


# --- both ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [REPORTS, PROXIES])
def test_the_api_server_finds_no_mistake_in_the_policy(cluster: ControlPlane, policy: str) -> None:
    path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}"
    found = cluster.api.get(path).json()
    assert not found.get("status", {}).get("typeChecking", {}).get("expressionWarnings")


@WITH_KUSTOMIZE
def test_no_policy_matches_a_kind_that_is_not_ours() -> None:
    """One that errs denies everything that it matches."""
    for policy in of_kind(cluster_part(), "ValidatingAdmissionPolicy"):
        rules = policy["spec"]["matchConstraints"]["resourceRules"]
        assert [rule["apiGroups"] for rule in rules] == [["oauthpool.dev"]]
        assert {name.partition("/")[0] for rule in rules for name in rule["resources"]} <= {
            "oauthaccounts",
            "oauthproxies",
        }


def test_a_prefix_and_a_suffix_switch_nothing_off(control_plane_binaries: Path, tmp_path: Path) -> None:
    """Applied as kustomize renames it all, to a cluster that has nothing else; the proxy's Role is the one that is shipped."""
    renamed = {"namePrefix": "blue-", "nameSuffix": "-2", "resources": [os.path.relpath(K8S, tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(renamed))
    objects = kustomize(tmp_path)
    (template,) = [found for name, found in pod_templates(objects).items() if PROXY in name]
    namespace = str(one(objects, "Namespace", "anthropic-oauth-proxy")["metadata"]["name"])
    with ControlPlane(assets=control_plane_binaries) as plane:
        for kind in ("Namespace", "CustomResourceDefinition"):
            plane.apply(yaml.safe_dump_all(of_kind(objects, kind)))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        plane.apply(yaml.safe_dump_all([found for found in objects if found["kind"] != "Deployment"]))
        proxy = Caller(plane, namespace, pod_token(plane, namespace, "proxy-a", template=template))
        make_account(plane, namespace, "alice", {**STATUS, "reports": [report("proxy-b")]})
        own = [pod_owner(plane, namespace, "proxy-a")]

        def are_in_force() -> bool:
            stolen = proxy.patch_status({"observedGeneration": secrets.randbelow(1000)})
            return "blue-oauth-pool-reports-2" in stolen.text and (
                "blue-oauth-pool-proxies-2" in proxy.declare(secrets.token_hex(8), owners=own).text
            )

        wait_until(are_in_force, "the policies are in force")
        assert proxy.declare("proxy-a", owners=own).is_success
        assert proxy.patch_status({"reports": [report("proxy-b"), report("proxy-a")]}).is_success
        refused = [proxy.patch_status({"reports": []}), proxy.patch_status({"subject": "mallory@example.com"})]
        refused.append(proxy.declare("proxy-a", owners=[]))
        assert [answer.status_code for answer in refused] == [422] * 3


def status(plane: ControlPlane) -> dict[str, Any]:
    found: dict[str, Any] = get_account(plane, POOL)["status"]
    return found
