"""A control plane of its own: the policy that is applied here would hold for the proxies of other tests, too."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.manifests import NAMESPACE, of_kind, overlay
from tests.test_manifests.proxies import Caller, make_account, pod_token

POLICY = "oauth-pool-proxy-reports"
POOL = "another-pool"


@pytest.fixture(scope="session")
def cluster(control_plane_binaries: Path) -> Iterator[ControlPlane]:
    """A control plane with everything of the default overlay but the workloads, in its own namespace.

    Beside that, a namespace POOL in which the proxies' Role allows them everything about accounts. The policy is in force.
    """
    with ControlPlane(assets=control_plane_binaries) as plane:
        _apply(plane, "Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "RoleBinding")
        plane.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE)  # a cluster's controllers make it
        accounts = f"/apis/oauthpool.dev/v1alpha1/namespaces/{NAMESPACE}/oauthaccounts"
        wait_until(lambda: plane.api.get(accounts).is_success, "OAuthAccounts can be listed")
        _make_careless_pool(plane)
        _apply(plane, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        wait_until(lambda: _is_refused(plane), "the policy is in force")
        yield plane


def _apply(plane: ControlPlane, *kinds: str) -> None:
    for kind in kinds:
        for found in of_kind(overlay("default"), kind):
            plane.apply(found)


def _make_careless_pool(plane: ControlPlane) -> None:
    plane.namespace(POOL)
    plane.kubectl("create", "serviceaccount", "oauth-pool-proxy", "-n", POOL)
    resources = "oauthaccounts.oauthpool.dev,oauthaccounts.oauthpool.dev/status"
    plane.kubectl("create", "role", "anything", "--verb=*", f"--resource={resources}", "-n", POOL)
    subject = f"--serviceaccount={POOL}:oauth-pool-proxy"
    plane.kubectl("create", "rolebinding", "anything", "--role=anything", subject, "-n", POOL)
    make_account(plane, POOL, "probe", {})


def _is_refused(plane: ControlPlane) -> bool:
    """A write that RBAC allows: done until the policy is in force. What is written is new each time, else it is no change."""
    proxy = Caller(plane, POOL, pod_token(plane, POOL, "probe"))
    return POLICY in proxy.send("PATCH", {"status": {"subject": secrets.token_hex(8)}}, to="/probe/status").text
