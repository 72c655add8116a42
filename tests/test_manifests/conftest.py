"""A control plane of its own: the policy that is applied here would hold for the proxies of other tests, too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.manifests import NAMESPACE, of_kind, overlay


@pytest.fixture(scope="session")
def cluster(control_plane_binaries: Path) -> Iterator[ControlPlane]:
    """A control plane with everything of the default overlay but the workloads, in its own namespace."""
    with ControlPlane(assets=control_plane_binaries) as plane:
        objects = overlay("default")
        for kind in ("Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "RoleBinding"):
            for found in of_kind(objects, kind):
                plane.apply(found)
        plane.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE)  # a cluster's controllers make it
        accounts = f"/apis/oauthpool.dev/v1alpha1/namespaces/{NAMESPACE}/oauthaccounts"
        wait_until(lambda: plane.api.get(accounts).is_success, "OAuthAccounts can be listed")
        yield plane
