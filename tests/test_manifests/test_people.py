"""Ordinary users: what the cluster's own roles `view`, `edit` and `admin` let them do to a pool.

The control plane has no controller that aggregates ClusterRoles, so that is done here as the controller does it.
"""

import json
from collections.abc import Callable

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.manifests import NAMESPACE

LOOK = {"get", "list", "watch"}
CHANGE = {"create", "update", "patch", "delete", "deletecollection"}
ROLES = {"view": LOOK, "edit": LOOK | CHANGE, "admin": LOOK | CHANGE}
Asks = Callable[..., bool]


@pytest.fixture(scope="module")
def aggregated(cluster: ControlPlane) -> ControlPlane:
    roles = json.loads(cluster.kubectl("get", "clusterroles", "-o", "json"))["items"]
    for name in ROLES:
        (role,) = [found for found in roles if found["metadata"]["name"] == name]
        selectors = [selector["matchLabels"] for selector in role["aggregationRule"]["clusterRoleSelectors"]]
        rules = [
            rule
            for found in roles
            for labels in selectors
            if labels.items() <= found["metadata"].get("labels", {}).items()
            for rule in found["rules"] or []
        ]
        assert any("oauthpool.dev" in rule.get("apiGroups", []) for rule in rules), name
        # a role without a rule for aggregation: what aggregates would undo an edit of the other
        made = {"name": f"aggregated-{name}"}
        cluster.apply(
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": made, "rules": rules}
        )
        user = ("create", "rolebinding", f"user-{name}", f"--clusterrole=aggregated-{name}", f"--user={name}")
        cluster.kubectl(*user, "-n", NAMESPACE)
    return cluster


@pytest.fixture(params=ROLES)
def user(aggregated: ControlPlane, request: pytest.FixtureRequest) -> tuple[str, Asks]:
    name = str(request.param)

    def may(verb: str, resource: str, *flags: str) -> bool:
        command = ("auth", "can-i", verb, resource, f"--as={name}", "-n", NAMESPACE, *flags)
        return aggregated.kubectl(*command, check=False).strip() == "yes"

    wait_until(lambda: may("get", "oauthaccounts"), "the binding is in force")
    return name, may


def test_who_may_look_and_who_may_change(user: tuple[str, Asks]) -> None:
    name, may = user
    assert {verb for verb in LOOK | CHANGE if may(verb, "oauthaccounts")} == ROLES[name]
    assert {verb for verb in LOOK | CHANGE if may(verb, "oauthproxies")} == LOOK


def test_the_status_is_the_operators(user: tuple[str, Asks]) -> None:
    _, may = user
    for resource in ("oauthaccounts", "oauthproxies"):
        assert not may("patch", resource, "--subresource=status")


def test_whoever_has_no_role_sees_nothing(aggregated: ControlPlane) -> None:
    command = ("auth", "can-i", "get", "oauthaccounts", "--as=somebody", "-n", NAMESPACE)
    assert aggregated.kubectl(*command, check=False).strip() == "no"
