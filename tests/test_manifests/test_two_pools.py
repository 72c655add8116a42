"""Two pools in two namespaces of one cluster: each comes and goes, and the other notices nothing.

The control plane has no controllers: a namespace that is deleted stays, with what was not deleted by itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.documentation import rendered
from tests.test_manifests.manifests import K8S, Manifest, cluster_part
from tests.test_manifests.proxies import Caller, get_account, make_account, pod_owner, pod_token, report

FIRST, SECOND = "team-a", "team-b"


@pytest.fixture(scope="module")
def plane(control_plane_binaries: Path) -> Iterator[ControlPlane]:
    with ControlPlane(assets=control_plane_binaries) as plane:
        plane.apply(K8S / "cluster")
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield plane


@pytest.fixture(scope="module")
def folders(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the people of each have, as README has it; both applied."""
    made = {}
    for namespace in (FIRST, SECOND):
        made[namespace] = tmp_path_factory.mktemp(namespace)
        rendered({"namespace": namespace}, made[namespace])
        plane.apply(made[namespace])
    return made


def everything(plane: ControlPlane, namespace: str) -> dict[tuple[str, str], Manifest]:
    kinds = "serviceaccounts,roles,rolebindings,configmaps,services,persistentvolumeclaims,deployments,oauthaccounts,"
    kinds += "oauthproxies,poddisruptionbudgets,ingresses,networkpolicies"
    found = json.loads(plane.kubectl("get", kinds, "-n", namespace, "-o", "json"))["items"]
    return {(entry["kind"], entry["metadata"]["name"]): entry for entry in found}


def shared(plane: ControlPlane) -> set[str]:
    kinds = "crd,validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles"
    return set(plane.kubectl("get", kinds, "-l", "app.kubernetes.io/part-of=oauth-pool", "-o", "name").split())


def test_one_goes_and_the_other_stays_as_it_is(plane: ControlPlane, folders: dict[str, Path]) -> None:
    for namespace in (FIRST, SECOND):
        make_account(plane, namespace, "alice", {"subject": f"alice@{namespace}.example"})
        proxy = Caller(plane, namespace, pod_token(plane, namespace, "proxy-a"))
        assert proxy.declare("proxy-a", owners=[pod_owner(plane, namespace, "proxy-a")]).is_success
    before, of_cluster = everything(plane, SECOND), shared(plane)
    assert len(of_cluster) == len(cluster_part())

    plane.kubectl("delete", "oauthaccounts", "--all", "-n", FIRST, "--timeout=10s")
    plane.kubectl("delete", "-k", str(folders[FIRST]), "--wait=false")
    assert not [key for key in everything(plane, FIRST) if key[0] in ("Role", "Deployment", "OAuthAccount")]
    assert everything(plane, SECOND) == before
    assert shared(plane) == of_cluster

    # and it works: a proxy reports, and is kept to its own
    proxy = Caller(plane, SECOND, pod_token(plane, SECOND, "proxy-a"))
    assert proxy.patch_status({"reports": [report("proxy-a")]}).is_success
    assert get_account(plane, SECOND)["status"]["reports"] == [report("proxy-a")]
    wait_until(lambda: proxy.patch_status({"subject": "mallory"}).status_code == 422, "the policy is in force")


def test_permissions_can_be_left_for_last(plane: ControlPlane, folders: dict[str, Path]) -> None:
    """As docs/operator.md has it: pods end while their permissions are there."""
    plane.kubectl(
        "delete", "-k", str(folders[SECOND]), "-l", "app.kubernetes.io/component!=permissions", "--wait=false"
    )
    left = {kind for kind, _ in everything(plane, SECOND)}
    assert {"Role", "RoleBinding", "ServiceAccount"} <= left and "Deployment" not in left
    plane.kubectl("delete", "-k", str(folders[SECOND]), "--ignore-not-found", "--wait=false")
    assert not {kind for kind, _ in everything(plane, SECOND)} & {"Role", "RoleBinding", "ServiceAccount"}
