"""From nothing but the root Application to a pool that waits for its people, and then works."""

from tests.e2e.argocd.conftest import Pool
from tests.support.cluster.argocd import ACCOUNTS, ROOT, SYSTEM
from tests.support.control_plane import wait_until

NAMES = (ROOT, SYSTEM, ACCOUNTS)


def test_the_accounts_come_when_the_pool_is_healthy_and_not_before(pool: Pool) -> None:
    seen = pool.record.of(SYSTEM, ACCOUNTS)
    first = next(number for number, entry in enumerate(seen) if entry.name == ACCOUNTS)
    assert [entry.health for entry in seen[:first]][-1] == "Healthy"


def test_every_sync_ends_although_the_accounts_wait_for_their_login(pool: Pool) -> None:
    for name in ("claude-1", "claude-2", "device"):
        pool.product.wait_for_status(name, "LoginRequired")
    for name in NAMES:
        pool.argocd.wait_for(name, sync="Synced", operation="Succeeded")
    pool.argocd.wait_for(ACCOUNTS, health="Suspended")
    pool.argocd.wait_for(SYSTEM, health="Healthy")


def test_no_sync_needed_a_second_attempt(pool: Pool) -> None:
    assert {name: pool.argocd.operation(name).get("retryCount", 0) for name in NAMES} == dict.fromkeys(NAMES, 0)


def test_nothing_was_ever_degraded_on_the_way(pool: Pool) -> None:
    for name in NAMES:
        assert "Degraded" not in {seen.health for seen in pool.record.of(name)}


def test_an_account_without_a_login_works_by_itself(pool: Pool) -> None:
    pool.product.wait_for_status("inference", "Available")


def test_the_accounts_are_healthy_when_all_have_logged_in(pool: Pool) -> None:
    pool.log_in("claude-1", "alice@example.com")
    pool.log_in("claude-2", "bob@example.com")
    pool.argocd.wait_for(ACCOUNTS, health="Suspended")  # one still waits
    code = wait_until(
        lambda: pool.product.account("device").get("status", {}).get("login", {}).get("userCode"), "user code"
    )
    pool.provider.simulator.approve_device(code, "carol@example.com")
    pool.product.wait_for_status("device", "Available")
    pool.argocd.wait_for(ACCOUNTS, health="Healthy", sync="Synced")
    pool.argocd.wait_for(ROOT, health="Healthy", sync="Synced")
