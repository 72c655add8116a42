"""Other controllers write conditions on the same objects, and the operator leaves them alone."""

import json
from collections.abc import Iterator

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack


@pytest.fixture
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    with running_stack(control_plane, with_proxy=False) as stack:
        yield stack


def test_a_condition_of_another_controller_survives_every_write_of_ours(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.authorization_url("alice")
    theirs = {
        "type": "example.com/Audited",
        "status": "True",
        "reason": "Passed",
        "message": "by another controller",
        "lastTransitionTime": "2026-11-20T12:00:00Z",
    }
    patch = [{"op": "add", "path": "/status/conditions/-", "value": theirs}]
    arguments = ("oauthaccount", "alice", "--subresource=status", "--type=json", "-p", json.dumps(patch))
    stack.kubectl("patch", *arguments)
    stack.log_in("alice", "alice@example.com")
    assert stack.condition("alice", "example.com/Audited") == theirs
    stack.kubectl("patch", "oauthaccount", "alice", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    stack.wait_for_reason("alice", "Ready", "Suspended")
    assert stack.condition("alice", "example.com/Audited") == theirs
    wait_until(lambda: stack.index()["alice"]["status"] == "Suspended", "the index")
