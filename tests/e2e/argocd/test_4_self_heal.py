"""What somebody changes by hand: the spec goes back to what Git says, and everything else is nobody's business but the operator's."""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.argocd.conftest import ELSEWHERE, Pool
from tests.support.cluster.argocd import ACCOUNTS, SYSTEM
from tests.support.cluster.git import account
from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import OPERATOR
from tests.support.control_plane import wait_until

HEALED = 15.0
CODE = "oauthpool.dev/authorization-code"


def weight(kubectl: Kubectl, name: str) -> int:
    found: int = kubectl.json("get", "oauthaccount", name)["spec"]["weight"]
    return found


def edit(kubectl: Kubectl, name: str, **spec: object) -> None:
    kubectl("patch", "oauthaccount", name, "--type=merge", "-p", json.dumps({"spec": spec}))


@pytest.fixture(scope="module")
def elsewhere(pool: Pool) -> Iterator[Kubectl]:
    """An account in a namespace without an operator, so that nobody but ArgoCD changes it."""
    pool.repository.write("elsewhere/claude-9.yaml", account("claude-9", namespace=ELSEWHERE, weight=3))
    pool.commit("An account that nobody looks after")
    manifest = pool.argocd.application(ACCOUNTS)
    spec = manifest["spec"] | {"source": manifest["spec"]["source"] | {"path": "elsewhere"}}
    spec["destination"] = spec["destination"] | {"namespace": ELSEWHERE}
    spec["syncPolicy"] = spec["syncPolicy"] | {"syncOptions": ["CreateNamespace=true"]}
    made = {**{key: manifest[key] for key in ("apiVersion", "kind")}, "metadata": {"name": ELSEWHERE}, "spec": spec}
    pool.argocd.kubectl("apply", "-f", "-", stdin=json.dumps(made))
    pool.argocd.wait_for(ELSEWHERE, sync="Synced", operation="Succeeded")
    yield pool.product.kubectl.in_namespace(ELSEWHERE)
    pool.argocd.forget([ELSEWHERE])


def test_an_edit_of_the_spec_is_undone_and_nothing_else_is(pool: Pool, elsewhere: Kubectl) -> None:
    elsewhere("annotate", "oauthaccount", "claude-9", f"{CODE}=a-code-of-a-test#its-state")
    reports = {"status": {"reports": [{"reporter": "proxy-9", "observedTime": "2026-11-20T12:00:00Z"}]}}
    elsewhere("patch", "oauthaccount", "claude-9", "--subresource=status", "--type=merge", "-p", json.dumps(reports))
    edit(elsewhere, "claude-9", weight=9)
    wait_until(lambda: weight(elsewhere, "claude-9") == 3, "the weight that Git says", seconds=HEALED)
    left = elsewhere.json("get", "oauthaccount", "claude-9")
    assert left["metadata"]["annotations"][CODE] == "a-code-of-a-test#its-state"
    assert left["status"] == reports["status"]


def test_a_running_login_survives_that_somebody_edits_the_spec(pool: Pool) -> None:
    pool.repository.write_account("claude-4", weight=3)
    pool.commit("A fourth account")
    wait_until(lambda: "claude-4" in pool.product.kubectl("get", "oauthaccounts", "-o", "name"), "it", seconds=HEALED)
    before = wait_until(lambda: pool.product.account("claude-4").get("status", {}).get("login"), "its login")
    edit(pool.product.kubectl, "claude-4", weight=9)
    wait_until(lambda: weight(pool.product.kubectl, "claude-4") == 3, "the weight that Git says", seconds=HEALED)
    assert pool.product.account("claude-4")["status"]["login"] == before
    pool.log_in("claude-4", "erin@example.com")
    pool.argocd.wait_for(ACCOUNTS, health="Healthy", sync="Synced")


def test_a_field_that_git_leaves_out_is_for_people(pool: Pool) -> None:
    """So the plugin's `suspend` works as an emergency brake, until Git says something about it."""
    operation = pool.argocd.operation(ACCOUNTS)
    edit(pool.product.kubectl, "claude-4", suspend=True)
    pool.argocd.wait_for(ACCOUNTS, health="Suspended", sync="Synced")
    edit(pool.product.kubectl, "claude-4", weight=9)
    wait_until(lambda: weight(pool.product.kubectl, "claude-4") == 3, "the weight that Git says", seconds=HEALED)
    assert pool.argocd.operation(ACCOUNTS) != operation
    assert pool.product.account("claude-4")["spec"]["suspend"] is True
    pool.repository.write_account("claude-4", weight=3, suspend=False)
    pool.commit("Say it")
    pool.product.wait_for_status("claude-4", "Available")
    edit(pool.product.kubectl, "claude-4", suspend=True)
    wait_until(lambda: pool.product.account("claude-4")["spec"]["suspend"] is False, "what Git says", seconds=HEALED)


def test_the_operator_cannot_be_scaled_by_hand(pool: Pool) -> None:
    pool.product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=0")
    path = "jsonpath={.spec.replicas}"
    wait_until(
        lambda: pool.product.kubectl("get", "deployment", OPERATOR, "-o", path) == "1", "one again", seconds=HEALED
    )
    pool.product.wait_until_rolled_out(OPERATOR)
    pool.argocd.wait_for(SYSTEM, sync="Synced", health="Healthy")
