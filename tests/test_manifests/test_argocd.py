"""k8s/argocd/: the health of accounts, in Lua as ArgoCD runs it, and what the Applications rely on.

tests/e2e/argocd/ has the same cases, and the Applications, with ArgoCD itself.
"""

import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from oauth_pool_operator.account import conditions as c
from tests.test_manifests.account_health import CASES, HEALTH_KEY, Case
from tests.test_manifests.documentation import localised
from tests.test_manifests.manifests import (
    K8S,
    POOLS,
    ROOT,
    WITH_KUSTOMIZE,
    Manifest,
    cluster_part,
    kustomize,
    of_kind,
    one,
    overlay,
)

pytestmark = WITH_KUSTOMIZE

ARGOCD = K8S / "argocd"
LUA: dict[str, str] = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())["data"]
REASONS = {
    value for name, value in vars(c).items() if name.isupper() and isinstance(value, str) and value not in c.OURS
}
WAVE = "argocd.argoproj.io/sync-wave"
IGNORED = "argocd.argoproj.io/ignore-healthcheck"
OPTIONS = "argocd.argoproj.io/sync-options"


def health(document: Manifest, key: str = HEALTH_KEY) -> dict[str, Any]:
    """What the script says of it, run with no more of Lua's library than ArgoCD allows."""
    lua = LuaRuntime()
    lua.execute("string, math, io, debug, coroutine = nil, nil, nil, nil, nil; getmetatable('').__index = nil")
    lua.globals().obj = lua.table_from(document, recursive=True)
    return dict(lua.execute(LUA[key]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_health_of_an_account(case: Case) -> None:
    said = health(case.object)
    assert (said["status"], said["message"].startswith(case.reason)) == (case.health, True), said["message"]


def test_the_message_of_an_account_that_waits_says_what_to_do() -> None:
    (waiting,) = [case for case in CASES if case.name == "first login"]
    assert "kubectl annotate oauthaccount claude-1" in health(waiting.object)["message"]


def test_a_suspended_account_still_says_that_it_is_stalled() -> None:
    (both,) = [case for case in CASES if case.name == "suspended, stalled"]
    assert health(both.object)["message"].startswith("spec.suspend is true; StorageUnavailable: ")


def test_a_status_of_another_version_of_the_operator_makes_nothing_healthy_or_degraded() -> None:
    (case,) = [case for case in CASES if case.name == "token has expired"]
    case.object["status"]["conditions"][0]["reason"] = "NeverHeardOf"
    assert health(case.object)["status"] == "Progressing"


def test_every_reason_is_the_reason_of_some_case() -> None:
    found = {condition["reason"] for case in CASES for condition in case.object.get("status", {}).get("conditions", [])}
    assert REASONS - found == set()


@pytest.mark.parametrize("case", [case for case in CASES if case.reason in REASONS], ids=lambda case: case.name)
def test_the_documentation_says_the_same(case: Case) -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", (ROOT / "docs" / "gitops.md").read_text(), re.MULTILINE)
    named = {(row_health, reason) for row_health, text in rows for reason in re.findall(r"`(\w+)`", text)}
    assert (case.health, case.reason) in named


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, "Progressing", id="new"),
        pytest.param({"health": {}}, "Progressing", id="not compared yet"),
        pytest.param({"health": {"status": "Missing"}}, "Missing", id="nothing is there"),
        pytest.param({"health": {"status": "Healthy"}}, "Healthy", id="healthy"),
    ],
)
def test_health_of_an_application_is_its_own(status: dict[str, Any], expected: str) -> None:
    key = "resource.customizations.health.argoproj.io_Application"
    assert health({"metadata": {}, "status": status}, key)["status"] == expected


def annotation(document: Manifest, name: str) -> str:
    found: str = document.get("metadata", {}).get("annotations", {}).get(name, "")
    return found


def applications() -> dict[str, Manifest]:
    files = (ARGOCD / "applications").glob("*.yaml")
    return {found["metadata"]["name"]: found for file in files for found in yaml.safe_load_all(file.read_text())}


def test_the_accounts_come_last_and_alone() -> None:
    """ArgoCD waits for ever for what is Suspended, unless it comes last."""
    waves = {name: int(annotation(found, WAVE)) for name, found in applications().items()}
    assert max(waves, key=lambda name: waves[name]) == "oauth-pool-accounts"
    for file in (ROOT / "examples" / "cluster").glob("*.yaml"):
        assert not [found for found in yaml.safe_load_all(file.read_text()) if annotation(found, WAVE)]


def test_every_application_is_told_of_the_same_repository() -> None:
    root = yaml.safe_load((ARGOCD / "root.yaml").read_text())
    sources = [found["spec"]["source"] for found in [root, *applications().values()]]
    assert len({(source["repoURL"], source["targetRevision"]) for source in sources}) == 1
    assert root["spec"]["source"]["path"] == "k8s/argocd/applications"
    assert (ROOT / applications()["oauth-pool-system"]["spec"]["source"]["path"] / "kustomization.yaml").exists()


@pytest.mark.parametrize("name", POOLS)
def test_the_pool_comes_at_once(name: str) -> None:
    """A claim that waits for its first pod would hold up a later wave with that pod for ever; a new CRD would fail one."""
    assert {annotation(found, WAVE) for found in [*cluster_part(), *overlay(name)]} == {""}


@pytest.mark.parametrize("name", POOLS)
def test_health_counts_but_of_what_may_rightly_lack_it(name: str) -> None:
    ignored = {found["kind"] for found in [*cluster_part(), *overlay(name)] if annotation(found, IGNORED) == "true"}
    assert ignored == {"CustomResourceDefinition", "Ingress"}


@pytest.mark.parametrize("name", POOLS)
def test_what_holds_logins_outlives_its_application(name: str) -> None:
    assert kept(overlay(name)) == {("Namespace", "anthropic-oauth-proxy"), ("PersistentVolumeClaim", "oauth-state")}
    # and what another pool may need: without the kinds there are no accounts, without the policies proxies are trusted
    assert kept(cluster_part()) == {(found["kind"], found["metadata"]["name"]) for found in cluster_part()}


def kept(objects: list[Manifest]) -> set[tuple[str, str]]:
    return {
        (found["kind"], found["metadata"]["name"])
        for found in objects
        if {"Prune=false", "Delete=false"} <= set(annotation(found, OPTIONS).split(","))
    }


def test_an_object_of_git_is_never_one_that_the_operator_writes() -> None:
    """Or the two would undo each other's work."""
    written = one(kustomize(K8S), "Role", "oauth-pool-operator")["rules"]
    names = {name for rule in written for name in rule.get("resourceNames", []) if "patch" in rule["verbs"]}
    in_git = {found["metadata"]["name"] for kind in ("ConfigMap", "Lease") for found in of_kind(kustomize(K8S), kind)}
    assert names and not names & in_git


def test_a_repository_of_ones_own_is_what_the_page_says(tmp_path: Path) -> None:
    """The commands of docs/gitops.md, typed in an empty folder beside a checkout; every path of an Application is there."""
    (tmp_path / "oauth-pool").symlink_to(ROOT)
    mine = tmp_path / "mine"
    mine.mkdir()
    page = (ROOT / "docs" / "gitops.md").read_text()
    typed = [line for line in re.findall(r"^   \$ (.+)$", page, re.MULTILINE) if line.startswith(("cp ", "sed "))]
    assert len(typed) == 3
    subprocess.run(["bash", "-ec", "\n".join(typed)], cwd=mine, check=True)
    (system,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "../pool" in text]
    for folder, text in (("system", textwrap.dedent(system)), ("pool", (mine / "pool/kustomization.yaml").read_text())):
        (mine / folder / "kustomization.yaml").write_text(localised(text, mine / folder))
    objects = kustomize(mine / "system")
    assert {found["kind"] for found in objects} >= {"CustomResourceDefinition", "Deployment"}
    for file in (mine / "argocd").rglob("*.yaml"):
        text = file.read_text()
        assert "git.example.com/team" not in text
        for path in re.findall(r"^ +path: (\S+)$", text, re.MULTILINE):
            assert list((mine / path).glob("*.yaml")), f"{file.name}: {path}"
