"""The namespace is deleted with all that is in it: nothing in it may wait for an operator that has gone already."""

import json
from collections.abc import Iterator

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack


@pytest.fixture
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    """With an account that is logged in, and one that waits for a person. Nobody removes what the namespace holds: the
    control plane has no controller for that, so a test does it, in the order in which it wants to see it done."""
    with running_stack(control_plane, with_proxy=False) as stack:
        stack.apply(stack.account("alice"))
        stack.log_in("alice", "alice@example.com")
        stack.apply(stack.account("bob"))
        stack.authorization_url("bob")
        stack.kubectl("delete", "namespace", stack.namespace, "--wait=false")
        wait_until(lambda: is_going(stack), "the namespace to go")
        yield stack


def is_going(stack: Stack) -> bool:
    """The API server's own word: it makes nothing new any more."""
    refused = stack.control_plane.kubectl("-n", stack.namespace, "create", "configmap", "new", check=False)
    return "created" not in refused


def must_have_left_nothing(stack: Stack) -> None:
    assert [path.name for path in (*stack.state_dir.iterdir(), *stack.access_dir.iterdir())] == [".lock"]
    revoked = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/revoke")]
    assert len(revoked) == 1


def test_an_operator_whose_pod_goes_first_lets_go_of_its_accounts(stack: Stack) -> None:
    assert stack.operator.stop() == 0
    for name in ("alice", "bob"):
        assert "finalizers" not in stack.get(name)["metadata"]
    stack.kubectl("delete", "oauthaccounts", "--all", "--timeout=5s")
    must_have_left_nothing(stack)


def test_accounts_that_go_first_do_not_wait_for_an_index_that_cannot_be_made_again(stack: Stack) -> None:
    stack.kubectl("delete", "configmaps", "--all")
    stack.kubectl("delete", "oauthaccounts", "--all", "--timeout=30s")
    must_have_left_nothing(stack)


def test_an_operator_whose_role_went_first_ends_in_time_and_says_what_stays(stack: Stack) -> None:
    stack.kubectl("delete", "rolebinding", "oauth-pool-operator")
    wait_until(lambda: "yes" not in may_write(stack), "the API server to know it")
    assert stack.operator.stop(seconds=55) == 0
    assert "the finalizers of its 2 accounts stay until somebody removes them" in stack.operator.output


def may_write(stack: Stack) -> str:
    user = f"--as=system:serviceaccount:{stack.namespace}:oauth-pool-operator"
    arguments = ("-n", stack.namespace, "auth", "can-i", "create", "configmaps", user)
    return stack.control_plane.kubectl(*arguments, check=False)
