"""examples/cluster/: the API server and the operator take them as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from oauth_pool_operator.config import load_config
from tests.support.control_plane import ControlPlane, wait_until
from tests.test_manifests.manifests import NAMESPACE, OPERATOR, ROOT, Manifest, of_kind, one
from tests.test_manifests.test_on_api_server import is_allowed

EXAMPLES = ROOT / "examples" / "cluster"
CRD = yaml.safe_load((ROOT / "crds" / "oauthaccount.yaml").read_text())
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
GRANTS: list[str] = SPEC["properties"]["grant"]["enum"]


def example(grant: str) -> list[Manifest]:
    """The file whose account has this grant."""
    files = [list(yaml.safe_load_all(file.read_text())) for file in EXAMPLES.glob("*.yaml")]
    (found,) = [
        objects
        for objects in files
        if [account["spec"]["grant"] for account in of_kind(objects, "OAuthAccount")] == [grant]
    ]
    return found


@pytest.mark.parametrize("grant", GRANTS)
def test_there_is_an_example_of_every_grant_and_it_is_in_order(cluster: ControlPlane, grant: str) -> None:
    objects = example(grant)
    assert {found["metadata"]["namespace"] for found in objects} == {NAMESPACE}
    answer = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-f", "-"), input=yaml.safe_dump_all(objects)
    )
    assert len(answer.splitlines()) == len(objects)


def test_the_example_of_workload_identity_lets_the_operator_create_tokens_of_its_service_account_only(
    cluster: ControlPlane,
) -> None:
    objects = example("WorkloadIdentity")
    names = of_kind(objects, "OAuthAccount")[0]["spec"]["workloadIdentity"]
    one(objects, "ServiceAccount", names["serviceAccountName"])
    for kind in ("ServiceAccount", "Role", "RoleBinding"):
        cluster.apply(of_kind(objects, kind)[0])

    def may_create_tokens_of(name: str) -> bool:
        return is_allowed(cluster, OPERATOR, "create", "", "serviceaccounts/token", name)

    wait_until(lambda: may_create_tokens_of(names["serviceAccountName"]), "the Role is in force")
    assert not [name for name in ("oauth-pool-operator", "default", "") if may_create_tokens_of(name)]
    # other tests look at what the operator may do
    cluster.kubectl("delete", "rolebinding/oauth-pool-tokens", "-n", NAMESPACE)
    wait_until(lambda: not may_create_tokens_of(names["serviceAccountName"]), "the Role is not in force any more")


def test_the_example_configuration_has_a_profile_for_the_accounts() -> None:
    command: list[str | Path] = [
        Path(sys.executable).parent / "oauth-pool-operator",
        "--check",
        "--namespace",
        NAMESPACE,
    ]
    check = subprocess.run(
        [*command, "--config", EXAMPLES / "operator.toml"], check=False, capture_output=True, text=True, env={}
    )
    assert (check.returncode, check.stderr) == (0, "")
    profile = load_config(EXAMPLES / "operator.toml", namespace=NAMESPACE).providers["anthropic"]
    assert profile.grants == set(GRANTS)
