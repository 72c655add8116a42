"""Who gets through to the proxy, where the cluster enforces network policies; that it takes them is seen at installation."""

import json
from collections.abc import Iterator

import pytest

from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import URL, Images, Product
from tests.support.cluster.provider import Provider
from tests.support.control_plane import wait_until
from tests.support.control_plane.errors import KubectlError, NotInTime

STRANGERS = "oauth-pool-e2e-strangers"
CONNECT = "import sys, socket; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
DENY_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny-all"},
    "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
}


@pytest.fixture(scope="module")
def strangers(kubectl: Kubectl, images: Images) -> Iterator[Kubectl]:
    """A namespace without the label of clients, and a pod in it."""
    there = kubectl.in_namespace(STRANGERS)
    kubectl("create", "namespace", STRANGERS)
    try:
        image = f"--image={images.prefix}oauth-pool-tests:{images.tag}"
        there("run", "stranger", image, "--image-pull-policy=IfNotPresent", "--command", "--", "sleep", "infinity")
        there("wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s")
        yield there
    finally:
        kubectl("delete", "namespace", STRANGERS, "--timeout=60s")


def test_clients_get_through_and_strangers_do_where_nothing_is_enforced(
    product: Product, provider: Provider, strangers: Kubectl
) -> None:
    assert reaches(provider.kubectl, "deployment/client", *proxy())
    assert reaches(strangers, "pod/stranger", *proxy()) is not is_enforced(strangers)


def proxy() -> tuple[str, str]:
    return URL.removeprefix("http://"), "80"


def reaches(kubectl: Kubectl, where: str, host: str, port: str) -> bool:
    try:
        kubectl("exec", where, "--", "python", "-c", CONNECT, host, port)
    except KubectlError:
        return False
    return True


def is_enforced(strangers: Kubectl) -> bool:
    """Whether a policy that lets nothing out makes a difference."""
    target = ("kubernetes.default.svc", "443")
    assert reaches(strangers, "pod/stranger", *target)
    strangers("apply", "-f", "-", stdin=json.dumps(DENY_ALL))
    try:
        wait_until(lambda: not reaches(strangers, "pod/stranger", *target), "the policy in force", seconds=15)
    except NotInTime:
        return False
    finally:
        strangers("delete", "networkpolicy", "deny-all")
    wait_until(lambda: reaches(strangers, "pod/stranger", *target), "the policy gone", seconds=15)
    return True
