"""What there is to say when all the other tests have run."""

import pytest

from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import NAMESPACE, OPERATOR, PROXY, Product
from tests.support.cluster.provider import Provider
from tests.support.cluster.usage import Usage
from tests.support.control_plane import wait_until

pytestmark = pytest.mark.last
LIMITS = {"proxy": (128, 0.5), "operator": (256, 0.5)}  # MiB and cores, as in the Deployments


def test_no_container_was_killed_or_came_near_its_limit(
    product: Product, usage: Usage, capsys: pytest.CaptureFixture[str]
) -> None:
    for app in (PROXY, OPERATOR):
        for pod in product.pods(app):
            (state,) = pod["status"]["containerStatuses"]
            assert state["restartCount"] == 0 and not state["lastState"], state
    most = usage.most()
    with capsys.disabled():
        for name, use in most.items():
            print(f"\n{name}: at most {use.memory:.0f} MiB and {use.cpu:.2f} cores", end="")  # noqa: T201
    assert most.keys() >= LIMITS.keys()  # and those of pods that a person starts for a moment
    for name, (memory, cores) in LIMITS.items():
        assert most[name].memory < 0.9 * memory
        assert most[name].cpu < 1.2 * cores  # the kubelet's figure is of a moment


def test_nothing_secret_was_logged(product: Product, provider: Provider) -> None:
    logs = "".join(product.kubectl("logs", "-l", f"app={app}", "--tail=-1") for app in (PROXY, OPERATOR))
    seen = product.kubectl("get", "oauthaccounts,events,configmaps", "-o", "yaml")
    for secret in provider.simulator.secrets():
        assert secret not in logs and secret not in seen


def test_uninstalling_leaves_nothing_behind(product: Product, kubectl: Kubectl) -> None:
    """The commands of README; with an account that was never logged in, and whose provider is nobody."""
    product.create_account("left", provider="nobody")
    product.wait_for_status("left", "UnknownProvider")
    product.remove_accounts()
    product.remove()
    assert f"namespace/{NAMESPACE}" not in kubectl("get", "namespaces", "-o", "name").split()
    kinds = (
        "crd",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "clusterroles",
        "clusterrolebindings",
    )
    for kind in kinds:
        assert "oauth" not in kubectl("get", kind, "-o", "name")

    def volumes_are_gone() -> bool:
        claims = kubectl("get", "persistentvolumes", "-o", "jsonpath={.items[*].spec.claimRef.namespace}")
        return NAMESPACE not in claims.split()

    # the cluster's provisioner removes them, in its own time, when their claims are gone
    wait_until(volumes_are_gone, "the product's volumes are gone", seconds=120)
