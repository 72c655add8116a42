"""The product and its accounts, from a Git repository, by ArgoCD; `make e2e-argocd` runs these tests.

They go together, in the order of their files: what stands in the cluster is what the Git repository of the run says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.cluster.conftest import (
    SECONDS,
    first_settings,
    images,
    kubectl,
    pictures,
    provider,
    pytest_ignore_collect,
    remove_by_force,
)
from tests.support.cluster.argocd import ACCOUNTS, ROOT, SYSTEM, ArgoCD, Record
from tests.support.cluster.argocd import NAMESPACE as ARGOCD
from tests.support.cluster.git import Repository, account
from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.product import NAMESPACE, Images, Product
from tests.support.cluster.provider import Provider
from tests.support.control_plane import binaries
from tests.support.control_plane.binaries import kubectl_in
from tests.support.stack import ORGANIZATION, RULE, WORKLOAD

__all__ = ["images", "kubectl", "provider", "pytest_ignore_collect"]

HERE = Path(__file__).parent
ROOT_FOLDER = Path(__file__).parents[3]
K8S = ROOT_FOLDER / "k8s"
ELSEWHERE = "elsewhere"
OURS = (ROOT, ACCOUNTS, SYSTEM, ELSEWHERE)
SAID = '{range .items[*]}{.metadata.name}: {.status.sync} {.status.health} {.status.conditions} {.status.operationState}{"\\n"}{end}'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(SECONDS))


@dataclass
class Pool:
    """What was installed, and what ArgoCD has said since."""

    argocd: ArgoCD
    repository: Repository
    product: Product
    provider: Provider
    record: Record

    def commit(self, message: str) -> None:
        """ArgoCD hears of it, as it does from a Git server that is told to tell it."""
        self.repository.commit(message)
        self.argocd.look_now(ACCOUNTS)

    def log_in(self, name: str, subject: str) -> None:
        pasted = self.provider.simulator.approve(self.product.login_url(name), subject)
        self.product.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/authorization-code={pasted}")
        self.product.wait_for_status(name, "Available")


@pytest.fixture(scope="session")
def argocd(kubectl: Kubectl) -> Iterator[ArgoCD]:
    """It knows of accounts, and has no Application of ours."""
    found = ArgoCD(kubectl)
    found.forget(OURS)
    settings = found.settings()
    found.kubectl("patch", "configmap", "argocd-cm", "--type=merge", f"--patch-file={K8S}/argocd/argocd-cm.yaml")
    assert settings.items() <= found.settings().items(), "ArgoCD has lost settings of its own"
    yield found
    found.forget(OURS)
    for key in found.settings().keys() - settings.keys():
        found.kubectl(
            "patch", "configmap", "argocd-cm", "--type=json", "-p", f'[{{"op": "remove", "path": "/data/{key}"}}]'
        )


@pytest.fixture(scope="session")
def pool(
    argocd: ArgoCD, kubectl: Kubectl, provider: Provider, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    """Installed from nothing: the root Application is all that was applied. Nobody has logged in yet."""
    settings = first_settings(provider, images)
    remove_by_force(kubectl, NAMESPACE, ELSEWHERE)  # of Applications that were forgotten, and not deleted
    repository = Repository(tmp_path_factory.mktemp("repository"), settings)
    for name in ("claude-1", "claude-2"):
        repository.write_account(name)
    repository.write_account("device", grant="DeviceCode")
    repository.write("accounts/inference.yaml", *workload())
    repository.commit("A pool and its accounts")
    product = Product(kubectl, tmp_path_factory.mktemp("product"), settings)
    try:
        with argocd.watched() as record:
            argocd.kubectl("apply", "-f", str(repository.root_application))
            try:
                for name in (ROOT, ACCOUNTS):
                    argocd.wait_for(name, seconds=180, sync="Synced", operation="Succeeded")
            except AssertionError as error:  # before it is all gone
                error.add_note(product.kubectl("get", "pods,events"))
                raise
            yield Pool(argocd, repository, product, provider, record)
    finally:
        argocd.forget(OURS)
        remove_by_force(kubectl, NAMESPACE, ELSEWHERE)


def workload() -> list[dict[str, object]]:
    """The example of a WorkloadIdentity account, with the names of this cluster's provider."""
    documents = list(yaml.safe_load_all((ROOT_FOLDER / "examples/cluster/workload-identity.yaml").read_text()))
    names = {"serviceAccountName": WORKLOAD, "federationRuleID": RULE, "organizationID": ORGANIZATION}
    return [
        account("inference", grant="WorkloadIdentity", workloadIdentity=names)
        if document["kind"] == "OAuthAccount"
        else document
        for document in documents
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure comes with what ArgoCD and the cluster say."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        applications = Kubectl(kubectl_in(binaries()), ARGOCD)("get", "applications", "-o", f"jsonpath={SAID}")
        report.sections.append(("applications", applications))  # type: ignore[attr-defined]
        for title, text in pictures(item):
            report.sections.append((title, text))  # type: ignore[attr-defined]
    return report
