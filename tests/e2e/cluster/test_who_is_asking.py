"""A client in a pod, as examples/clients has it: its ServiceAccount's token comes from the kubelet, and is its proof."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.cluster.conftest import Loader
from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import PROXY, ROOT, Images, Product
from tests.support.cluster.provider import Provider
from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import KubectlError

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
    """One that is on the nodes."""
    if manifest["kind"] == "Pod":
        image = f"{images.prefix}oauth-pool-tests:{images.tag}"
        manifest["spec"]["containers"][0] |= {"image": image, "imagePullPolicy": "IfNotPresent"}
    return manifest


# as the SDKs do it, which are not in the image
ASK = """
import os, urllib.request
token = open("/var/run/secrets/oauth-pool/token").read().strip()
body = b'{"model": "claude-test", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}'
headers = {"authorization": "Bearer " + token, "content-type": "application/json", "anthropic-version": "2023-06-01"}
url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
print(urllib.request.urlopen(urllib.request.Request(url, body, headers)).read().decode())
"""


def test_a_pod_proves_who_it_is_and_a_stranger_is_told_how(team: Kubectl, product: Product, clients: Loader) -> None:
    answer = team("exec", "-i", f"pod/{RUNNER}", "--", "python", "-", stdin=ASK)
    assert json.loads(answer)["type"] == "message"
    wait_until(lambda: asked(product, f"{TEAM}/{RUNNER}"), "the pod to have asked under its name")
    with clients("messages", at_once=1) as load:
        time.sleep(3)
    assert load.complete == 0 and "audience oauth-pool" in load.examples[0]


def asked(product: Product, client: str) -> bool:
    try:
        return f'"client":"{client}"' in product.kubectl("logs", "-l", f"app={PROXY}", "--tail=-1")
    except KubectlError:  # the last pod of before has just gone
        return False
