"""The ends of it: ArgoCD goes and everything stays, and the other way round."""

from tests.e2e.argocd.conftest import Pool
from tests.support.cluster.argocd import ACCOUNTS, ROOT, SYSTEM
from tests.support.cluster.product import OPERATOR

OURS = "app.kubernetes.io/part-of=oauth-pool"
KEEP = ("--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_without_their_finalizers_the_applications_go_alone_and_can_come_back(pool: Pool) -> None:
    argocd, kubectl = pool.argocd.kubectl, pool.product.kubectl
    path = "jsonpath={.items[*].metadata.uid}"
    before = kubectl("get", "oauthaccounts,deployments,persistentvolumeclaims", "-o", path)
    for names in ((ROOT,), (SYSTEM, ACCOUNTS)):  # as docs/gitops.md has it
        argocd("patch", "application", *names, *KEEP)
        argocd("delete", "application", *names)
    assert pool.argocd.kubectl.json("get", "applications")["items"] == []
    argocd("apply", "-f", str(pool.repository.root_application))
    for name in (ROOT, SYSTEM, ACCOUNTS):
        pool.argocd.wait_for(name, sync="Synced", health="Healthy")
    assert kubectl("get", "oauthaccounts,deployments,persistentvolumeclaims", "-o", path) == before


def test_everything_goes_in_the_right_order_but_what_holds_logins(pool: Pool) -> None:
    kubectl = pool.product.kubectl
    before = len(pool.provider.simulator.requests("/v1/oauth/revoke"))
    accounts = kubectl.json("get", "oauthaccounts")["items"]
    with_grant = [account for account in accounts if account["spec"]["grant"] != "WorkloadIdentity"]
    assert len(with_grant) >= 4
    # the accounts first, then the operator that revoked them
    pool.argocd.kubectl("delete", "application", ROOT, "--timeout=120s", seconds=130)
    assert pool.argocd.kubectl.json("get", "applications")["items"] == []
    assert kubectl.json("get", "oauthaccounts")["items"] == []
    assert len(pool.provider.simulator.requests("/v1/oauth/revoke")) == before + len(with_grant)
    assert OPERATOR not in kubectl("get", "deployments", "-o", "name")
    assert kubectl("get", "persistentvolumeclaims", "-o", "name").split() == ["persistentvolumeclaim/oauth-state"]
    # what another pool of the cluster may need
    assert kubectl("get", "crd", "-l", OURS, "-o", "name").split() == [
        f"customresourcedefinition.apiextensions.k8s.io/{kind}.oauthpool.dev"
        for kind in ("oauthaccounts", "oauthproxies")
    ]
    assert len(kubectl("get", "validatingadmissionpolicies", "-l", OURS, "-o", "name").split()) == 2
