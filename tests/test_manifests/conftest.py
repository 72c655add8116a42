"""A control plane of its own: the policies that are applied here would hold for the proxies of other tests, too."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.manifests import NAMESPACE, cluster_part, of_kind, overlay
from tests.test_manifests.proxies import Caller, make_account, pod_token

REPORTS, PROXIES = "oauth-pool-reports", "oauth-pool-proxies"
POOL = "another-pool"


@pytest.fixture(scope="session")
def cluster(control_plane_binaries: Path) -> Iterator[ControlPlane]:
    """A control plane with what is of the cluster, and everything of the default overlay but the workloads, in its own namespace.

    Beside that, a namespace POOL in which the proxies' Role allows them far too much about accounts. The policies are in force.
    """
    with ControlPlane(assets=control_plane_binaries) as plane:
        _apply(plane, "Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "RoleBinding")
        plane.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE)  # a cluster's controllers make it
        accounts = f"/apis/oauthpool.dev/v1alpha1/namespaces/{NAMESPACE}/oauthaccounts"
        wait_until(lambda: plane.api.get(accounts).is_success, "OAuthAccounts can be listed")
        _make_careless_pool(plane)
        _apply(plane, "ClusterRole", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        wait_until(lambda: _is_refused(plane), "the policies are in force")
        yield plane


def _apply(plane: ControlPlane, *kinds: str) -> None:
    for kind in kinds:
        for found in of_kind([*cluster_part(), *overlay("default")], kind):
            plane.apply(found)


def _make_careless_pool(plane: ControlPlane) -> None:
    plane.namespace(POOL)
    plane.kubectl("create", "serviceaccount", "oauth-pool-proxy", "-n", POOL)
    everything = ("oauthaccounts", "oauthaccounts/status", "oauthproxies", "oauthproxies/status")
    role(plane, POOL, "anything", {"*": everything})
    # more than any proxy has, short of the leave to patch accounts, which would make it an operator
    some = ("get", "list", "create", "delete", "deletecollection", "update")
    role(plane, POOL, "careless", {",".join(some): everything[:1], "*": everything[1:]})
    subject = f"--serviceaccount={POOL}:oauth-pool-proxy"
    plane.kubectl("create", "rolebinding", "careless", "--role=careless", subject, "-n", POOL)
    make_account(plane, POOL, "probe", {})


def role(plane: ControlPlane, namespace: str, name: str, rules: dict[str, tuple[str, ...]]) -> None:
    """Verbs, with commas, and what they are for in our API group."""
    plane.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": namespace},
            "rules": [
                {"apiGroups": ["oauthpool.dev"], "resources": list(resources), "verbs": verbs.split(",")}
                for verbs, resources in rules.items()
            ],
        }
    )


def _is_refused(plane: ControlPlane) -> bool:
    """Writes that RBAC allows: done until both policies are in force. What is written is new each time, else it is no change."""
    proxy = Caller(plane, POOL, pod_token(plane, POOL, "probe"))
    report = proxy.send("PATCH", {"status": {"subject": secrets.token_hex(8)}}, to="/probe/status")
    return REPORTS in report.text and PROXIES in proxy.declare(secrets.token_hex(8), owners=[]).text
