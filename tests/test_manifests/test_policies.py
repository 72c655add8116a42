"""The admission policy: a proxy writes its own entry of status.reports, and nothing else of an OAuthAccount.

The proxies' ServiceAccount may do everything to accounts by its Role here, so that it is the policy that refuses.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.conftest import POLICY, POOL
from tests.test_manifests.proxies import (
    APPLY,
    JSON,
    JSON_PATCH,
    MERGE,
    TIME,
    Caller,
    get_account,
    make_account,
    metadata_and_spec,
    pod_token,
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
    assert POLICY in proxy.send("PATCH", {"status": {"subject": "mallory"}}, to="/bob/status").text


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
    assert (answer.status_code, POLICY in answer.text) == (422, True), answer.text
    assert status(plane) == before


def test_the_whole_status_cannot_be_replaced(plane: ControlPlane, proxy: Caller) -> None:
    current = get_account(plane, POOL)
    replacements: list[dict[str, Any]] = [{"status": {"reports": [report("proxy-a")]}}, {"status": {}}, {}]
    for new in replacements:
        answer = proxy.send(
            "PUT", {key: value for key, value in current.items() if key != "status"} | new, content_type=JSON
        )
        assert (answer.status_code, POLICY in answer.text) == (422, True), answer.text
    assert status(plane) == current["status"]


def test_another_proxys_field_manager_gives_no_power_over_its_entry(plane: ControlPlane, proxy: Caller) -> None:
    other, manager = Caller(plane, POOL, pod_token(plane, POOL, "proxy-c")), "oauth-pool-proxy-proxy-c"
    assert other.apply({"reports": [report("proxy-c")]}, manager=manager).is_success
    before = status(plane)
    for entries in ([report("proxy-a")], [], [report("proxy-c", reason="Forbidden")]):
        answer = proxy.apply({"reports": entries}, manager=manager)
        assert (answer.status_code, POLICY in answer.text) == (422, True), answer.text
    assert status(plane) == before


@pytest.mark.parametrize(
    ("method", "to", "content_type", "body"),
    [
        pytest.param("PATCH", "/alice", MERGE, {"spec": {"priority": 1000}}, id="spec"),
        pytest.param("PATCH", "/alice", MERGE, {"metadata": {"labels": {"a": "b"}}}, id="labels"),
        pytest.param(
            "PATCH",
            "/alice",
            MERGE,
            {"metadata": {"annotations": {"oauthpool.dev/authorization-code": "x"}}},
            id="annotations",
        ),
        pytest.param("PATCH", "/alice", MERGE, {"metadata": {"finalizers": []}}, id="finalizers"),
        pytest.param(
            "PATCH",
            "/alice",
            JSON_PATCH,
            [{"op": "add", "path": "/metadata/finalizers", "value": ["a.example/b"]}],
            id="JSON patch",
        ),
        pytest.param(
            "POST",
            "",
            JSON,
            {"metadata": {"name": "eve"}, "spec": {"provider": "anthropic", "grant": "AuthorizationCode"}},
            id="create",
        ),
        pytest.param("DELETE", "/alice", JSON, {}, id="delete"),
        pytest.param("DELETE", "", JSON, {}, id="delete all"),
    ],
)
def test_the_rest_of_an_account_is_out_of_reach_whatever_the_role_says(
    plane: ControlPlane, proxy: Caller, method: str, to: str, content_type: str, body: object
) -> None:
    if method == "POST" and isinstance(body, dict):
        body = {"apiVersion": "oauthpool.dev/v1alpha1", "kind": "OAuthAccount", **body}
    before = metadata_and_spec(plane, POOL)
    answer = proxy.send(method, body, to=to, content_type=content_type)
    assert (answer.status_code, POLICY in answer.text) == (422, True), answer.text
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


def test_the_api_server_finds_no_mistake_in_the_policy(cluster: ControlPlane) -> None:
    path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{POLICY}"
    found = cluster.api.get(path).json()
    assert not found.get("status", {}).get("typeChecking", {}).get("expressionWarnings")


def status(plane: ControlPlane) -> dict[str, Any]:
    found: dict[str, Any] = get_account(plane, POOL)["status"]
    return found
