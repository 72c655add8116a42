"""`describe`, against accounts and Events on a real API server."""

import json
from typing import Any

from tests.support.control_plane import ControlPlane
from tests.test_kubectl_plugin.conftest import Objects, Plugin, condition

STATUS = {
    "subject": "alice@example.com",
    "token": {"generation": 3, "expirationTime": "2099-01-01T00:00:00Z", "nextRefreshTime": "2098-01-01T00:00:00Z"},
    "quota": {"windows": [{"name": "5h", "utilization": 0.28, "status": "allowed"}]},
    "conditions": [
        condition("Ready", "True", "Available", "all is well", since="2026-11-20T10:00:00Z"),
        condition("LoginRequired", "False", "NotRequired", since="2026-11-20T12:00:00Z"),
    ],
    "reports": [{"reporter": "proxy-0", "observedTime": "2026-11-20T10:00:00Z", "requestsPerMinute": 12}],
}


def post_event(plane: ControlPlane, namespace: str, name: str, reason: str, time: str, note: str = "") -> None:
    event: dict[str, Any] = {
        "metadata": {"generateName": f"{name}.", "namespace": namespace},
        "involvedObject": {"kind": "OAuthAccount", "name": name, "namespace": namespace},
        "type": "Warning",
        "reason": reason,
        "message": note,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 2,
    }
    answer = plane.api.post(f"/api/v1/namespaces/{namespace}/events", json=event)
    assert answer.is_success, answer.text


def test_conditions_and_events_are_one_history(control_plane: ControlPlane, objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", STATUS)
    post_event(control_plane, plugin.namespace, "alice", "GrantRevoked", "2026-11-20T11:00:00Z", "it is dead")
    post_event(control_plane, plugin.namespace, "somebody-else", "GrantRevoked", "2026-11-20T11:30:00Z")
    outcome = plugin("describe", "alice", "-o", "json")
    assert outcome.code == 0
    assert [(line["time"], line["source"], line["what"]) for line in outcome.json["history"]] == [
        ("2026-11-20T10:00:00Z", "Condition", "Ready=True Available"),
        ("2026-11-20T11:00:00Z", "Event", "GrantRevoked (x2)"),
        ("2026-11-20T12:00:00Z", "Condition", "LoginRequired=False NotRequired"),
    ]


def test_all_sections_are_there(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", STATUS)
    out = plugin("describe", "alice").out
    for part in ("alice@example.com", "28%", "all is well", "proxy-0", "generation 3", "tier 0, weight 1", "History"):
        assert part in out


def test_a_code_on_the_object_is_not_shown(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", STATUS)
    objects.set_metadata("alice", {"annotations": {"oauthpool.dev/authorization-code": "secret-code#state"}})
    for arguments in (("describe", "alice"), ("describe", "alice", "-o", "json"), ("top", "--once", "-o", "json")):
        outcome = plugin(*arguments)
        assert outcome.code == 0
        assert "secret-code" not in outcome.out + outcome.err


def test_text_from_the_cluster_cannot_command_the_terminal(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", {"conditions": [condition("Ready", "False", "Refreshing", "\x1b]0;mine\x07 [red]gone")]})
    for arguments in (("describe", "alice"), ("top", "--once")):
        out = plugin(*arguments).out
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[red]gone" in out  # nor is it markup


def test_an_account_that_the_operator_has_not_seen_is_described_too(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice")
    outcome = plugin("describe", "alice")
    assert outcome.code == 0
    assert "New" in outcome.out
    assert json.loads(plugin("describe", "alice", "-o", "json").out)["history"] == []
