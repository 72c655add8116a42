"""Everything that replaces a proxy, under load: none of the streams that are shorter than the drain time is lost."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.cluster.conftest import Loader
from tests.support.cluster.load import Load
from tests.support.cluster.product import NAMESPACE, OPERATOR, PROXY, ROOT, Images, Product
from tests.support.cluster.provider import Provider
from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import KubectlError

STREAMS = 200
SHORT = " ".join(["word"] * 10)  # with 0.2 s between events 3 s, and the drain time is 5 s
LONG = " ".join(["word"] * 80)


@pytest.fixture(scope="module", autouse=True)
def pool(product: Product, provider: Provider) -> Iterator[None]:
    """The overlay `multi-replica` as it is shipped, which is three proxies, and two accounts."""
    provider.simulator.reset()
    product.apply(overlay="multi-replica")
    for name in ("alice", "bob"):
        product.create_account(name)
        product.log_in(name, f"{name}@example.com", provider.simulator)
    yield
    provider.simulator.reset()
    product.remove_accounts()
    product.apply(overlay="default")


@pytest.fixture(autouse=True)
def short_streams(provider: Provider) -> None:
    provider.simulator.reset()
    provider.simulator.set(event_delay=0.2, reply=SHORT)


def test_every_proxy_has_every_token_sealed_to_it_and_nobody_else_is_there(product: Product) -> None:
    names = product.pod_names(PROXY)
    assert len(names) == 3
    wait_until(lambda: product.tokens_held() == dict.fromkeys(names, 2), "all tokens at all proxies", seconds=30)


@pytest.mark.parametrize("name", [PROXY, OPERATOR])
def test_a_rollout_drops_no_stream(product: Product, provider: Provider, clients: Loader, name: str) -> None:
    before = product.pod_names(name)
    with clients("streams", at_once=STREAMS) as load:
        wait_for_load(provider)
        product.kubectl("rollout", "restart", f"deployment/{name}")
        product.wait_until_rolled_out(name)
        wait_until(lambda: not set(before) & set(all_pods(product)), "the old pods to be gone", seconds=60)
    assert_all_complete(load)
    assert not set(before) & set(product.pod_names(name))


def test_a_stream_longer_than_the_drain_time_ends_with_an_error_event(
    product: Product, provider: Provider, clients: Loader
) -> None:
    provider.simulator.set(reply=LONG)
    before = product.pod_names(PROXY)
    with clients("streams", at_once=20) as load:
        wait_for_load(provider, 20)
        product.kubectl("rollout", "restart", f"deployment/{PROXY}")
        wait_until(lambda: not set(before) & set(all_pods(product)), "the old pods to be gone", seconds=90)
    assert load.others.keys() == {"error_event"}, load


def test_nodes_are_drained_one_proxy_at_a_time(product: Product, provider: Provider, clients: Loader) -> None:
    before = product.pod_names(PROXY)
    with clients("streams", at_once=50) as load:
        wait_for_load(provider, 50)
        evict(product, before[0])
        with pytest.raises(KubectlError, match="disruption budget"):
            evict(product, before[1])
        wait_until(lambda: has_room(product), "the disruption budget to allow the next", seconds=60, every=0.5)
        evict(product, before[1])
        wait_until(lambda: not set(before[:2]) & set(all_pods(product)), "both to be gone", seconds=60)
        product.wait_until_rolled_out(PROXY)
    assert_all_complete(load)


def test_scaling_up_and_down_fails_no_request(product: Product, provider: Provider, clients: Loader) -> None:
    with clients("messages", at_once=20, pause=0.05) as load:
        for number in (1, 2, 1, 3):
            product.scale(number)
            wait_for_number(product, number)
    assert_all_complete(load)


def test_a_new_configuration_rolls_the_proxies(product: Product, provider: Provider, clients: Loader) -> None:
    before = product.pod_names(PROXY)
    with clients("messages", at_once=20, pause=0.05) as load:
        product.apply(proxy_toml=provider.proxy_toml("max_connections = 900"))
        wait_until(lambda: not set(before) & set(all_pods(product)), "the old pods to be gone", seconds=60)
    assert_all_complete(load)


def test_back_to_the_version_before_and_up_again(
    product: Product,
    provider: Provider,
    clients: Loader,
    images: Images,
    previous_images: Images,
    previous_source: Path,
) -> None:
    """With the manifests that each was shipped with."""
    with clients("messages", at_once=10, pause=0.1) as messages, clients("streams", at_once=50) as streams:
        for wanted, source in ((previous_images, previous_source), (images, ROOT)):
            product.apply(images=wanted, source=source)
            wait_until(partial(only_runs, product, wanted), f"only {wanted.tag} to run", seconds=60)
    assert_all_complete(messages)
    assert_all_complete(streams)
    for name in ("alice", "bob"):  # nobody had to log in
        assert product.columns(name)["STATUS"] == "Available"
    # what a version before may have left, as RUNBOOK.md says it ("Update from before 0.1.0")
    left = ("validatingadmissionpolicybinding", "validatingadmissionpolicy")
    for kind in left:
        product.kubectl("delete", kind, "oauth-pool-proxy-reports", "--ignore-not-found")
    product.kubectl("delete", "pvc", "oauth-access", "--ignore-not-found", "--timeout=60s")


def wait_for_load(provider: Provider, number: int = STREAMS) -> None:
    wait_until(lambda: len(provider.simulator.requests("/v1/messages")) >= number, f"{number} requests", every=0.5)


def assert_all_complete(load: Load) -> None:
    assert load.complete > 0 and not load.others, load


def all_pods(product: Product, app: str | None = None) -> list[str]:
    """Those that were told to end included."""
    chosen = ["-l", f"app={app}"] if app else []
    return product.kubectl("get", "pods", *chosen, "-o", "jsonpath={.items[*].metadata.name}").split()


def wait_for_number(product: Product, number: int) -> None:
    wait_until(lambda: len(all_pods(product, PROXY)) == number, f"{number} proxies", seconds=60, every=0.5)


def evict(product: Product, pod: str) -> None:
    """As `kubectl drain` does it; that would also close the only node."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    product.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def has_room(product: Product) -> bool:
    allowed: int = product.kubectl.json("get", "poddisruptionbudget", PROXY)["status"]["disruptionsAllowed"]
    return allowed > 0


def only_runs(product: Product, images: Images) -> bool:
    names = product.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.containers[*].image}").split()
    return bool(names) and all(name.endswith(f":{images.tag}") for name in names)
