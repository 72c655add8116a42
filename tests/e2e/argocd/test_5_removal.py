"""Deleting the root Application: the accounts first, then the operator that revoked them. What holds logins stays."""

from tests.e2e.argocd.conftest import Pool
from tests.support.cluster.argocd import ROOT
from tests.support.cluster.product import OPERATOR


def test_everything_goes_in_the_right_order_but_what_holds_logins(pool: Pool) -> None:
    kubectl = pool.product.kubectl
    before = len(pool.provider.simulator.requests("/v1/oauth/revoke"))
    accounts = kubectl.json("get", "oauthaccounts")["items"]
    with_grant = [account for account in accounts if account["spec"]["grant"] != "WorkloadIdentity"]
    assert len(with_grant) >= 4
    pool.argocd.kubectl("delete", "application", ROOT, "--timeout=120s", seconds=130)
    assert pool.argocd.kubectl.json("get", "applications")["items"] == []
    assert kubectl.json("get", "oauthaccounts")["items"] == []
    assert len(pool.provider.simulator.requests("/v1/oauth/revoke")) == before + len(with_grant)
    assert OPERATOR not in kubectl("get", "deployments", "-o", "name")
    claims = kubectl("get", "persistentvolumeclaims", "-o", "name").split()
    assert claims == ["persistentvolumeclaim/oauth-access", "persistentvolumeclaim/oauth-state"]
