"""A client in a pod, as examples/clients has it: its ServiceAccount's token comes from the kubelet, and is its proof."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.cluster.conftest import Loader
from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import PROXY, ROOT, Images, Product
from tests.support.cluster.provider import Provider

EXAMPLES = ROOT / "examples/clients"
TEAM, RUNNER = "team-a", "runner"


@pytest.fixture
def team(product: Product, provider: Provider, kubectl: Kubectl, images: Images) -> Iterator[Kubectl]:
    """The pool serves nobody whom it does not know; and the pod of the example."""
    provider.simulator.reset()
    product.create_account("alice")
    product.log_in("alice", "alice@example.com", provider.simulator)
    product.apply(proxy_toml=provider.proxy_toml("[clients]", "require = true"))
    there = kubectl.in_namespace(TEAM)
    kubectl("create", "namespace", TEAM)
    try:
        kubectl("label", "namespace", TEAM, "oauthpool.dev/client=true")
        for manifest in yaml.safe_load_all((EXAMPLES / "pod.yaml").read_text()):
            there("apply", "-f", "-", stdin=json.dumps(with_image(manifest, images)))
        there("wait", "--for=condition=Ready", f"pod/{RUNNER}", "--timeout=60s")
        yield there
    finally:
        kubectl("delete", "namespace", TEAM, "--timeout=60s")
        product.remove_accounts()
        product.apply(proxy_toml=provider.proxy_toml())


def with_image(manifest: dict[str, Any], images: Images) -> dict[str, Any]:
    """One that is on the nodes, and has the SDK."""
    if manifest["kind"] == "Pod":
        image = f"{images.prefix}oauth-pool-tests:{images.tag}"
        manifest["spec"]["containers"][0] |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    return manifest


def test_a_pod_proves_who_it_is_and_a_stranger_is_told_how(team: Kubectl, product: Product, clients: Loader) -> None:
    answer = team("exec", "-i", f"pod/{RUNNER}", "--", "python", "-", stdin=(EXAMPLES / "ask.py").read_text())
    assert "TextBlock" in answer
    logged = product.kubectl("logs", "-l", f"app={PROXY}", "--tail=-1")
    assert f'"client":"{TEAM}/{RUNNER}"' in logged
    with clients("messages", at_once=1) as load:
        pass
    assert load.complete == 0 and "audience oauth-pool" in load.examples[0]
