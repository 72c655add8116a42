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


def test_one_volume_is_all_there_is_and_only_the_operator_has_it(product: Product) -> None:
    claims = product.kubectl.json("get", "persistentvolumeclaims")["items"]
    assert [(claim["metadata"]["name"], claim["spec"]["accessModes"]) for claim in claims] == [
        ("oauth-state", ["ReadWriteOnce"])
    ]
    (pod,) = product.pods(PROXY)
    assert not [volume for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume]


def test_a_proxy_has_declared_itself(product: Product) -> None:
    (pod,) = product.pods(PROXY)
    (found,) = product.kubectl.json("get", "oauthproxies")["items"]
    assert found["metadata"]["name"] == pod["metadata"]["name"]
    assert [owner["uid"] for owner in found["metadata"]["ownerReferences"]] == [pod["metadata"]["uid"]]


def test_both_run_as_the_same_user_on_a_disk_that_they_cannot_write(product: Product) -> None:
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
