"""Accounts of every grant, from kubectl to answered requests, through all that may happen to them."""

from collections.abc import Iterator

import pytest

from tests.e2e.cluster.conftest import Loader
from tests.support.cluster.plugin import plugin, plugin_on_terminal
from tests.support.cluster.product import ROOT, Product
from tests.support.cluster.provider import SUBJECT, Provider
from tests.support.control_plane import wait_until
from tests.support.stack import ORGANIZATION, RULE

ALICE, BOB = "alice@example.com", "bob@example.com"


@pytest.fixture(scope="module", autouse=True)
def no_accounts_after(product: Product) -> Iterator[None]:
    yield
    product.remove_accounts()


def test_workload_identity_by_the_example(product: Product) -> None:
    example = (ROOT / "examples/cluster/workload-identity.yaml").read_text()
    for ours, theirs in {
        "provider: anthropic": "provider: simulator",
        "fdrl_REPLACE": RULE,
        "00000000-0000-0000-0000-000000000000": ORGANIZATION,
    }.items():
        assert ours in example
        example = example.replace(ours, theirs)
    product.kubectl("apply", "-f", "-", stdin=example)
    product.kubectl("wait", "--for=condition=Ready", "oauthaccount/inference", "--timeout=30s")
    assert product.columns("inference")["GRANT"] == "WorkloadIdentity"


def test_a_login_with_the_plugin_on_a_terminal(product: Product, provider: Provider) -> None:
    product.create_account("alice", expectedSubject=ALICE)
    product.wait_for_status("alice", "LoginRequired")
    with plugin_on_terminal(product.kubectl, "login", "alice") as terminal:
        terminal.wait_for("What the page shows")
        pasted = provider.simulator.approve(product.login_url("alice"), ALICE)
        terminal.type(pasted + "\r")
        assert terminal.wait() == 0, terminal.printed
    assert pasted not in terminal.printed
    assert product.columns("alice")["SUBJECT"] == ALICE
    assert "oauthpool.dev/authorization-code" not in product.account("alice")["metadata"].get("annotations", {})


def test_a_device_code(product: Product, provider: Provider) -> None:
    product.create_account("bob", grant="DeviceCode")
    path = "jsonpath={.status.login.userCode}"
    code = wait_until(lambda: product.kubectl("get", "oauthaccount", "bob", "-o", path), "a user code")
    provider.simulator.approve_device(code, BOB)
    product.kubectl("wait", "--for=condition=Ready", "oauthaccount/bob", "--timeout=30s")


def test_messages_and_streams_are_answered_by_all_accounts(
    product: Product, provider: Provider, clients: Loader
) -> None:
    provider.simulator.reset()
    provider.simulator.set(event_delay=0.05)
    with clients("messages", at_once=4) as messages, clients("streams", at_once=4) as streams:
        wait_until(lambda: len(answering(provider)) == 3, "every account has answered")
    assert not messages.others and not streams.others, (messages, streams)
    assert answering(provider) == {SUBJECT, ALICE, BOB}


def test_an_exhausted_account_cools_down_and_recovers_and_nobody_notices(
    product: Product, provider: Provider, clients: Loader
) -> None:
    provider.simulator.reset()
    with clients("messages", at_once=2, pause=0.2) as load:
        provider.simulator.exhaust(ALICE, reset_in=25)
        row = product.wait_for_status("alice", "CoolingDown")
        assert row["5H"] == "100%"
        product.wait_for_status("alice", "Available", seconds=60)
    assert not load.others, load.examples


def test_a_cooldown_can_be_cleared(product: Product, provider: Provider, clients: Loader) -> None:
    provider.simulator.exhaust(BOB, reset_in=3600)
    with clients("messages", at_once=2, pause=0.2) as load:
        product.wait_for_status("bob", "CoolingDown")
        provider.simulator.recover(BOB)
        plugin(product.kubectl, "clear", "bob")
        product.wait_for_status("bob", "Available")
    assert not load.others, load.examples


def test_suspend_and_resume(product: Product, provider: Provider, clients: Loader) -> None:
    plugin(product.kubectl, "suspend", "alice")
    product.wait_for_status("alice", "Suspended")
    wait_until(lambda: not is_asked(provider, clients, ALICE), "nothing more for a suspended account")
    plugin(product.kubectl, "resume", "alice")
    product.wait_for_status("alice", "Available")
    wait_until(lambda: is_asked(provider, clients, ALICE), "requests for it again")


def test_a_withdrawn_grant_wants_a_person_and_is_mended_by_one(
    product: Product, provider: Provider, clients: Loader
) -> None:
    provider.simulator.revoke_grants(BOB)
    with clients("messages", at_once=2, pause=0.2) as load:
        product.wait_for_status("bob", "Disabled")
        product.kubectl("annotate", "oauthaccount", "bob", "oauthpool.dev/login-requested=now")
        path = "jsonpath={.status.login.userCode}"
        code = wait_until(lambda: product.kubectl("get", "oauthaccount", "bob", "-o", path), "a user code")
        provider.simulator.approve_device(code, BOB)
        product.wait_for_status("bob", "Available")
    assert not load.others, load.examples


def test_top_shows_them_all(product: Product) -> None:
    table = plugin(product.kubectl, "top", "--once")
    assert {"alice", "bob", "inference"} <= set(table.split())


def test_a_deleted_account_is_revoked_at_the_provider(product: Product, provider: Provider) -> None:
    provider.simulator.call("DELETE", "requests")
    assert "alice" in sealed(product)
    product.kubectl("delete", "oauthaccount", "alice", "--timeout=40s")
    revoked = provider.simulator.requests("/v1/oauth/revoke")
    assert [request["status"] for request in revoked] == [200] * len(revoked) and revoked
    assert "alice" not in sealed(product)


def sealed(product: Product) -> set[str]:
    """Accounts whose access tokens proxies are sent."""
    found = product.kubectl.json("get", "configmaps", "-l", "oauthpool.dev/tokens=1")["items"]
    return {name for config_map in found for name in config_map.get("data", {})}


def answering(provider: Provider) -> set[str]:
    """Whose tokens the answered requests had."""
    found = provider.simulator.requests("/v1/messages")
    return {request["subject"] for request in found if request["status"] == 200}


def is_asked(provider: Provider, clients: Loader, subject: str) -> bool:
    """Whether any of some requests is for that account."""
    provider.simulator.call("DELETE", "requests")
    with clients("messages", at_once=4) as load:
        wait_until(lambda: len(provider.simulator.requests("/v1/messages")) >= 20, "some requests")
    assert not load.others, load.examples
    return subject in answering(provider)
