"""What the operator, the proxies and people do to accounts is nothing that ArgoCD wants to undo."""

import time

from tests.e2e.argocd.conftest import Pool
from tests.e2e.cluster.conftest import Loader, clients
from tests.support.cluster.argocd import ACCOUNTS, ROOT, SYSTEM
from tests.support.cluster.product import Product
from tests.support.control_plane import wait_until

__all__ = ["clients"]

MINUTES = 2
TOKEN_LIFETIME = 20  # seconds: refreshed after ten
COOLDOWN = 15


def generation(product: Product, name: str) -> int:
    found: int = product.account(name)["status"]["token"]["generation"]
    return found


def test_two_minutes_of_logins_refreshes_cooldowns_and_reports_are_no_drift(pool: Pool, clients: Loader) -> None:
    product, simulator = pool.product, pool.provider.simulator
    names = (ROOT, SYSTEM, ACCOUNTS)
    for name in names:
        pool.argocd.wait_for(name, sync="Synced", health="Healthy", operation="Succeeded")
    operations = {name: pool.argocd.operation(name) for name in names}
    before = {name: len(pool.record.of(name)) for name in names}
    simulator.set(expires_in=TOKEN_LIFETIME)
    end = time.monotonic() + 60 * MINUTES
    with clients("messages", at_once=4) as load:
        log_in_again(pool, "claude-1", "alice@example.com")
        first = generation(product, "claude-1")
        simulator.exhaust("bob@example.com", reset_in=COOLDOWN)
        product.wait_for_status("claude-2", "CoolingDown")
        product.wait_for_status("claude-2", "Available", seconds=60)
        log_in_again(pool, "claude-2", "bob@example.com")
        simulator.exhaust("alice@example.com", reset_in=COOLDOWN)
        product.wait_for_status("claude-1", "CoolingDown")
        product.wait_for_status("claude-1", "Available", seconds=60)
        wait_until(lambda: time.monotonic() > end, "the time to be over", seconds=60 * MINUTES, every=1)
    simulator.reset()

    assert load.complete > 100, load
    assert generation(product, "claude-1") >= first + 5
    assert product.account("claude-2")["status"]["reports"]
    for name in names:
        seen = pool.record.of(name)[before[name] :]
        assert {entry.sync for entry in seen} <= {"Synced"}
        assert "Degraded" not in {entry.health for entry in seen}
        assert pool.argocd.operation(name) == operations[name], "a sync operation"
        # it did look: every 5 seconds here, every 30 with room for a slow machine
        assert len({entry.compared for entry in seen}) >= 4 * MINUTES


def log_in_again(pool: Pool, name: str, subject: str) -> None:
    """By request, as a person does with an account that works."""
    kubectl = pool.product.kubectl
    old = pool.product.account(name)["status"]["token"]["generation"]
    request = str(time.monotonic_ns())
    kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/login-requested={request}", "--overwrite")
    wait_until(lambda: pool.product.account(name)["status"].get("lastHandledLoginRequest") == request, "a new login")
    pasted = pool.provider.simulator.approve(pool.product.login_url(name), subject)
    kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/authorization-code={pasted}")
    wait_until(lambda: generation(pool.product, name) > old, "a token of the new login")
    assert "oauthpool.dev/authorization-code" not in pool.product.account(name)["metadata"]["annotations"]
