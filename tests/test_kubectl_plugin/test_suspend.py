"""`suspend` and `resume`."""

from typing import Any

import pytest

from tests.test_kubectl_plugin.conftest import Objects, Plugin

TRACKED = {"annotations": {"argocd.argoproj.io/tracking-id": "pool:oauthpool.dev/OAuthAccount:a/alice"}}
LABELLED = {"labels": {"app.kubernetes.io/instance": "pool"}}


def test_accounts_are_suspended_and_resumed(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    objects.create("bob", priority=3)
    outcome = plugin("suspend", "alice", "bob")
    assert (outcome.code, outcome.out, outcome.err) == (0, "alice suspended\nbob suspended\n", "")
    assert objects.get("bob")["spec"] == objects.get("bob")["spec"] | {"suspend": True, "priority": 3}
    assert plugin("resume", "alice").out == "alice resumed\n"
    assert [objects.get(name)["spec"]["suspend"] for name in ("alice", "bob")] == [False, True]


def test_a_program_gets_the_accounts_as_they_are_then(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", suspend=True)
    objects.create("bob")
    outcome = plugin("suspend", "alice", "bob", "-o", "json")
    assert [(row["name"], row["suspend"]) for row in outcome.json] == [("alice", True), ("bob", True)]
    assert [row["suspend"] for row in plugin("resume", "bob", "-o", "json").json] == [False]


def test_what_is_so_already_is_not_written(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    before = objects.get("alice")["metadata"]["resourceVersion"]
    assert plugin("resume", "alice").out == "alice is not suspended\n"
    assert objects.get("alice")["metadata"]["resourceVersion"] == before


def test_a_mistyped_name_changes_nothing(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    outcome = plugin("suspend", "alice", "alicia")
    assert (outcome.code, outcome.out) == (1, "")
    assert "did you mean alice?" in outcome.err
    assert objects.get("alice")["spec"]["suspend"] is False


@pytest.mark.parametrize(
    ("metadata", "manager", "warns"),
    [
        pytest.param(TRACKED, "kubectl", True, id="tracked by annotation"),
        pytest.param(LABELLED, "argocd-controller", True, id="tracked by label"),
        pytest.param(LABELLED, "helm", False, id="the label is Helm's"),
    ],
)
def test_argocd_will_undo_it(
    objects: Objects, plugin: Plugin, metadata: dict[str, Any], manager: str, warns: bool
) -> None:
    objects.create("alice")
    objects.set_metadata("alice", metadata, manager)
    outcome = plugin("suspend", "alice")
    assert outcome.code == 0
    assert ("warning: ArgoCD manages alice" in outcome.err) is warns
