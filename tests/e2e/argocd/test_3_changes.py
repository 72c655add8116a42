"""A commit is in force within 15 s after ArgoCD has heard of it, and what it takes away goes as the account says."""

import json
from typing import Any

from tests.e2e.argocd.conftest import Pool
from tests.support.cluster.argocd import ACCOUNTS
from tests.support.cluster.product import OPERATOR
from tests.support.control_plane import wait_until

IN_FORCE = 15.0
ADDED, SUBJECT = "claude-3", "dave@example.com"


def entry(pool: Pool, name: str) -> dict[str, Any]:
    """What proxies are told of the account; empty when they are told nothing."""
    data = pool.product.kubectl.json("get", "configmap", "oauth-pool").get("data", {})
    found: dict[str, Any] = json.loads(data.get(name, "{}"))
    return found


def is_gone(pool: Pool, name: str) -> bool:
    return (
        f"oauthaccount.oauthpool.dev/{name}" not in pool.product.kubectl("get", "oauthaccounts", "-o", "name").split()
    )


def revocations(pool: Pool) -> int:
    return len(pool.provider.simulator.requests("/v1/oauth/revoke"))


def test_an_account_that_a_commit_adds_can_be_logged_in(pool: Pool) -> None:
    pool.repository.write_account(ADDED)
    pool.commit("A third account")
    wait_until(lambda: not is_gone(pool, ADDED), "the account", seconds=IN_FORCE)
    pool.product.wait_for_status(ADDED, "LoginRequired")
    pool.argocd.wait_for(ACCOUNTS, health="Suspended", operation="Succeeded")
    pool.provider.simulator.call("PATCH", f"accounts/{SUBJECT}", {"expires_in": 20})  # refreshed after ten seconds
    pool.log_in(ADDED, SUBJECT)
    pool.argocd.wait_for(ACCOUNTS, health="Healthy")


def test_a_change_reaches_the_proxies(pool: Pool) -> None:
    pool.repository.write_account(ADDED, weight=3, priority=7)
    pool.commit("More of the third")
    wait_until(lambda: entry(pool, ADDED)["weight"] == 3, "the new weight", seconds=IN_FORCE)
    assert entry(pool, ADDED)["priority"] == 7


def test_a_field_that_a_commit_takes_out_has_its_default_again(pool: Pool) -> None:
    pool.repository.write_account(ADDED, weight=3)
    pool.commit("No more priority")
    wait_until(lambda: entry(pool, ADDED)["priority"] == 0, "the default priority", seconds=IN_FORCE)
    assert entry(pool, ADDED)["weight"] == 3


def test_an_account_is_suspended_and_resumed(pool: Pool) -> None:
    pool.repository.write_account(ADDED, suspend=True)
    pool.commit("Not the third for now")
    wait_until(lambda: entry(pool, ADDED)["status"] == "Suspended", "the suspension", seconds=IN_FORCE)
    pool.argocd.wait_for(ACCOUNTS, health="Suspended", sync="Synced")
    pool.repository.write_account(ADDED, suspend=False)
    pool.commit("The third again")
    wait_until(lambda: entry(pool, ADDED)["status"] == "Available", "the resumption", seconds=IN_FORCE)
    pool.argocd.wait_for(ACCOUNTS, health="Healthy", sync="Synced")


def test_a_grant_that_the_provider_withdrew_is_degraded_until_somebody_logs_in(pool: Pool) -> None:
    pool.provider.simulator.revoke_grants(SUBJECT)
    pool.product.wait_for_status(ADDED, "Disabled")
    pool.argocd.wait_for(ACCOUNTS, health="Degraded", sync="Synced")
    pool.product.kubectl("annotate", "oauthaccount", ADDED, "oauthpool.dev/login-requested=again", "--overwrite")
    pool.product.wait_for_status(ADDED, "LoginRequired")
    pool.argocd.wait_for(ACCOUNTS, health="Suspended", sync="Synced")
    pool.log_in(ADDED, SUBJECT)
    pool.argocd.wait_for(ACCOUNTS, health="Healthy", sync="Synced")


def test_an_account_with_policy_revoke_takes_its_grant_along(pool: Pool) -> None:
    before = revocations(pool)
    pool.repository.remove(f"accounts/{ADDED}.yaml")
    pool.commit("No third account")
    wait_until(lambda: is_gone(pool, ADDED), "the account to go", seconds=IN_FORCE)
    assert revocations(pool) == before + 1
    assert entry(pool, ADDED) == {}
    pool.argocd.wait_for(ACCOUNTS, health="Healthy", sync="Synced", operation="Succeeded")


def test_an_account_with_policy_retain_leaves_its_grant(pool: Pool) -> None:
    pool.repository.write_account(ADDED, deletionPolicy="Retain")
    pool.commit("The third account, to be kept")
    wait_until(lambda: not is_gone(pool, ADDED), "the account", seconds=IN_FORCE)
    pool.log_in(ADDED, SUBJECT)
    uid = pool.product.account(ADDED)["metadata"]["uid"]
    before = revocations(pool)
    pool.repository.remove(f"accounts/{ADDED}.yaml")
    pool.commit("No third account again")
    wait_until(lambda: is_gone(pool, ADDED), "the account to go", seconds=IN_FORCE)
    files = f"import os; print(os.listdir('/var/lib/oauth-pool/state/{uid}'))"
    kept = pool.product.kubectl("exec", f"deployment/{OPERATOR}", "--", "python3", "-c", files)
    assert "credential.json" in kept and "retained.json" in kept
    assert revocations(pool) == before


def test_a_folder_that_is_empty_all_at_once_is_taken_for_a_mistake(pool: Pool) -> None:
    files = sorted((pool.repository.folder / "accounts").glob("*.yaml"))
    contents = {file: file.read_text() for file in files}
    for file in files:
        file.unlink()
    (files[0].parent / "README").touch()  # Git knows no empty folders
    pool.commit("Oh no")

    def refusal() -> str:
        conditions = pool.argocd.application(ACCOUNTS)["status"].get("conditions", [])
        return next((found["message"] for found in conditions if found["type"] == "SyncError"), "")

    assert "wipe out all resources" in wait_until(refusal, "ArgoCD to refuse", seconds=60)
    assert len(pool.product.kubectl("get", "oauthaccounts", "-o", "name").split()) == 4
    for file, content in contents.items():
        file.write_text(content)
    (files[0].parent / "README").unlink()
    pool.commit("Phew")
    pool.argocd.wait_for(ACCOUNTS, sync="Synced", health="Healthy")


def test_the_repair_of_a_commit_that_the_cluster_refuses_does_not_wait_for_retries(pool: Pool) -> None:
    pool.repository.write_account(ADDED, weight=-1)
    pool.commit("A mistake")
    wait_until(
        lambda: "weight" in pool.argocd.operation(ACCOUNTS).get("message", ""),
        "ArgoCD to say what is wrong",
        seconds=30,
    )
    pool.repository.remove(f"accounts/{ADDED}.yaml")
    pool.repository.write_account("claude-1", weight=2)
    pool.commit("Its repair")
    wait_until(lambda: entry(pool, "claude-1")["weight"] == 2, "the repair", seconds=IN_FORCE)
    pool.argocd.wait_for(ACCOUNTS, sync="Synced", health="Healthy", operation="Succeeded")
