"""What stands in the cluster after `kubectl apply -k`."""

import httpx2

from tests.support.cluster.product import NAMESPACE, OPERATOR, PROXY, Product


def test_everything_is_up_without_a_restart(product: Product) -> None:
    for app, kind in ((PROXY, "proxy"), (OPERATOR, "operator")):
        (pod,) = product.pods(app)
        (container,) = pod["status"]["containerStatuses"]
        assert container["ready"] and container["restartCount"] == 0, kind


def test_pod_security_restricted_is_enforced_and_there_is_no_secret(product: Product) -> None:
    labels = product.kubectl.json("get", "namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert product.kubectl.json("get", "secrets")["items"] == []


def test_operator_and_proxy_share_files_by_their_user_alone(product: Product) -> None:
    users = {}
    for app in (PROXY, OPERATOR):
        (pod,) = product.pods(app)
        code = "import os; print(os.getuid(), os.getgid(), os.access('/', os.W_OK))"
        users[app] = product.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", code).split()
    assert users[PROXY] == users[OPERATOR] == ["1000", "1000", "False"]


def test_the_proxy_says_in_health_that_it_has_no_accounts_yet(product: Product) -> None:
    with product.kubectl.forwarded(f"deployment/{PROXY}", 9090) as port:
        health = httpx2.get(f"http://127.0.0.1:{port}/health").json()
    assert health["status"] == "unhealthy", health
