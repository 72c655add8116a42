"""Pods that are killed: nothing is lost, and what can go on goes on."""

from collections.abc import Iterator

import pytest

from tests.e2e.cluster.conftest import Loader
from tests.support.cluster.product import OPERATOR, PROXY, Product
from tests.support.cluster.provider import Provider
from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import KubectlError

ALICE = "alice@example.com"


@pytest.fixture(scope="module", autouse=True)
def account(product: Product, provider: Provider) -> Iterator[None]:
    """One account, so that whatever happens to it is noticed."""
    provider.simulator.reset()
    product.create_account("alice")
    product.log_in("alice", ALICE, provider.simulator)
    yield
    product.remove_accounts()


def test_the_operator_is_killed_and_the_next_one_goes_on_with_the_same_credential(
    product: Product, provider: Provider, clients: Loader
) -> None:
    before = generation(product)
    with clients("messages", at_once=4, pause=0.2) as load:
        kill(product, OPERATOR)
        product.wait_until_rolled_out(OPERATOR)
        # the provider refuses the access token: only a refresh with what the killed one had stored can help
        provider.simulator.call("POST", f"accounts/{ALICE}/expire-access-tokens")
        wait_until(lambda: generation(product) > before, "a refresh", seconds=60)
        product.wait_for_status("alice", "Available")
    # with a single account, requests fail between the provider's refusal and the refresh, and say so; none is cut
    assert set(load.others) <= {"refused"}, load.examples
    assert load.complete > 0
    with clients("messages", at_once=4) as load:
        wait_until(lambda: len(provider.simulator.requests("/v1/messages")) > 0, "a request")
    assert not load.others, load.examples


def test_requests_go_on_while_there_is_no_operator(product: Product, provider: Provider, clients: Loader) -> None:
    product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=0")
    try:
        wait_until(lambda: product.has_gone(OPERATOR), "the operator to go")
        provider.simulator.call("DELETE", "requests")
        with clients("messages", at_once=4) as load:
            wait_until(lambda: load_is_running(provider, 20), "some requests")
        assert not load.others, load.examples
    finally:
        product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=1")
        product.wait_until_rolled_out(OPERATOR)


def test_a_proxy_whose_container_restarts_needs_no_operator(
    product: Product, provider: Provider, clients: Loader
) -> None:
    """Its key is still in the pod's memory, and its tokens are still sealed to it."""
    (name,) = product.pod_names(PROXY)
    product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=0")
    try:
        wait_until(lambda: product.has_gone(OPERATOR), "the operator to go")
        product.kubectl("exec", name, "--", "python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
        wait_until(lambda: restarts(product, name) == 1, "the container to restart", seconds=60)
        product.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        provider.simulator.call("DELETE", "requests")
        with clients("messages", at_once=4) as load:
            wait_until(lambda: load_is_running(provider, 20), "some requests")
        assert not load.others, load.examples
    finally:
        product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=1")
        product.wait_until_rolled_out(OPERATOR)
    product.kubectl("delete", "pod", name)  # later tests count restarts
    product.wait_until_rolled_out(PROXY)


def test_a_rollout_stops_while_there_is_no_operator_and_ends_when_there_is_one(
    product: Product, provider: Provider, clients: Loader
) -> None:
    (before,) = product.pod_names(PROXY)
    product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=0")
    try:
        wait_until(lambda: product.has_gone(OPERATOR), "the operator to go")
        with clients("messages", at_once=4, pause=0.2) as load:
            product.kubectl("rollout", "restart", f"deployment/{PROXY}")
            with pytest.raises(KubectlError, match="timed out"):
                product.kubectl("rollout", "status", f"deployment/{PROXY}", "--timeout=20s")
            assert before in product.pod_names(PROXY)
            product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=1")
            product.wait_until_rolled_out(OPERATOR, PROXY)
        assert not load.others, load.examples
    finally:
        product.kubectl("scale", f"deployment/{OPERATOR}", "--replicas=1")
        product.wait_until_rolled_out(OPERATOR, PROXY)


def test_a_killed_proxy_takes_its_own_requests_along_and_no_others(
    product: Product, provider: Provider, clients: Loader
) -> None:
    product.scale(2)
    provider.simulator.set(event_delay=0.2)
    names = product.pod_names(PROXY)
    with clients("streams", at_once=20) as load:
        wait_until(lambda: load_is_running(provider, 20), "all clients have an answer on its way")
        kill(product, PROXY, names[0])
        product.wait_until_rolled_out(PROXY)
    assert load.others.keys() <= {"broken"} and load.others.get("broken", 0) < 20, load
    with clients("streams", at_once=20) as load:
        wait_until(lambda: load_is_running(provider, 20), "all clients have an answer on its way")
    assert not load.others, load.examples
    product.scale(1)


def restarts(product: Product, name: str) -> int:
    (state,) = product.kubectl.json("get", "pod", name)["status"]["containerStatuses"]
    found: int = state["restartCount"]
    return found


def generation(product: Product) -> int:
    found: int = product.account("alice")["status"]["token"]["generation"]
    return found


def kill(product: Product, app: str, name: str | None = None) -> None:
    """At once, without a signal that could be waited for."""
    name = name or product.pod_names(app)[0]
    product.kubectl("delete", "pod", name, "--grace-period=0", "--force")


def load_is_running(provider: Provider, clients: int) -> bool:
    return len(provider.simulator.requests("/v1/messages")) >= clients
