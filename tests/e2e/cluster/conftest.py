"""The product, deployed from nothing on the cluster that KUBECONFIG names, once for all tests; `make e2e` runs them.

`make test` leaves them out: they need a cluster, and images on its nodes.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster.images import check_out_previous
from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.load import Load, load
from tests.support.cluster.product import NAMESPACE, OPERATOR, PROXY, ROOT, Images, Product
from tests.support.cluster.provider import NAMESPACE as BESIDE
from tests.support.cluster.provider import Provider
from tests.support.cluster.usage import Usage
from tests.support.control_plane import binaries
from tests.support.control_plane.binaries import kubectl_in
from tests.support.control_plane.errors import KubectlError

HERE = Path(__file__).parent
Loader = Callable[..., AbstractContextManager[Load]]
SECONDS = 400  # for one test; a rollout alone may take a minute on a small machine


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if config.getoption("--image-tag", None) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(SECONDS))
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Of whoever runs the tests, who may do everything."""
    return Kubectl(kubectl_in(binaries()), "default")


@pytest.fixture(scope="session")
def images(pytestconfig: pytest.Config) -> Images:
    return Images(pytestconfig.getoption("--image-prefix"), pytestconfig.getoption("--image-tag"))


@pytest.fixture(scope="session")
def previous_images(pytestconfig: pytest.Config) -> Images:
    return Images(pytestconfig.getoption("--image-prefix"), pytestconfig.getoption("--previous-image-tag"))


@pytest.fixture(scope="session")
def previous_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commit before, as `previous_images` were built of it."""
    folder = tmp_path_factory.mktemp("previous")
    check_out_previous(folder)
    return folder


@pytest.fixture(scope="session")
def provider(kubectl: Kubectl, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    folder = tmp_path_factory.mktemp("provider")
    made = Provider(kubectl, folder, f"{images.prefix}oauth-pool-tests:{images.tag}")
    clean_up(kubectl)
    with made.running():
        yield made


@pytest.fixture(scope="session")
def product(
    kubectl: Kubectl, provider: Provider, images: Images, usage: Usage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """The overlay `default` as it is shipped, installed as README says it, in a namespace that was not there before."""
    made = Product(kubectl, tmp_path_factory.mktemp("product"), first_settings(provider, images))
    try:
        made.apply()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def usage(kubectl: Kubectl) -> Iterator[Usage]:
    looking = Usage(kubectl)
    looking.start()
    yield looking
    looking.stop()


@pytest.fixture(scope="session")
def clients(provider: Provider) -> Loader:
    """`with clients("streams", at_once=200) as load: …`"""
    return partial(load, provider.kubectl)


def first_settings(provider: Provider, images: Images) -> dict[str, Any]:
    """Those of `Manifests.write` that a pool on this cluster begins with."""
    return {
        "overlay": "default",
        "images": images,
        "proxy_toml": provider.proxy_toml(),
        "operator_toml": provider.operator_toml(),
        "ca": provider.ca,
    }


def clean_up(kubectl: Kubectl) -> None:
    """What a run that was cut off has left. Raises when the product is there and is not ours."""
    names = kubectl("get", "namespaces", "-o", "name").split()
    if f"namespace/{BESIDE}" not in names:
        assert f"namespace/{NAMESPACE}" not in names, f"somebody uses {NAMESPACE} on this cluster: take another cluster"
        return
    remove_by_force(kubectl, BESIDE, NAMESPACE)


def remove_by_force(kubectl: Kubectl, *namespaces: str) -> None:
    """What is of the cluster, and these namespaces, without an operator that would have to let go of accounts."""
    if "oauthaccounts.oauthpool.dev" in kubectl("get", "crd", "-o", "name"):
        for namespace in namespaces:
            accounts = kubectl.in_namespace(namespace)
            for name in accounts("get", "oauthaccounts", "-o", "name").split():
                accounts("patch", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    kubectl("delete", "-k", str(ROOT / "k8s/cluster"), "--ignore-not-found", "--timeout=60s")
    kubectl("delete", "namespace", *namespaces, "--ignore-not-found", "--timeout=90s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure comes with what the cluster says."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        for title, text in pictures(item):
            report.sections.append((title, text))  # type: ignore[attr-defined]
    return report


def pictures(item: pytest.Item) -> Iterator[tuple[str, str]]:
    kubectl = Kubectl(kubectl_in(binaries()), NAMESPACE)
    for title, arguments in {
        "pods": ("get", "pods", "-o", "wide"),
        "accounts": ("get", "oauthaccounts", "-o", "wide"),
        "events": ("get", "events", "--sort-by=.lastTimestamp"),
        OPERATOR: ("logs", "-l", f"app={OPERATOR}", "--tail=40", "--prefix"),
        PROXY: ("logs", "-l", f"app={PROXY}", "--tail=40", "--prefix"),
    }.items():
        try:
            yield title, kubectl(*arguments, seconds=20)
        except (KubectlError, subprocess.TimeoutExpired) as error:
            yield title, str(error)
