"""A pasted code leaves the object whatever becomes of it: the real operator process on a real API server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack

CODE = "a-pasted-code-of-a-test"


@pytest.fixture(scope="module")
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    with running_stack(control_plane, with_proxy=False) as stack:
        yield stack


@pytest.fixture(autouse=True)
def tidy(stack: Stack) -> Iterator[None]:
    yield
    stack.kubectl("delete", "oauthaccounts", "--all", "--timeout=30s")
    stack.simulator.reset()


def accounts(stack: Stack) -> dict[str, dict[str, Any]]:
    return {
        "unknown provider": stack.account("alice", provider="nobody"),
        "broken profile": stack.account("alice", provider="broken"),
        "suspended": stack.account("alice", suspend=True),
        "waiting for a code": stack.account("alice"),
        "waiting for a device": stack.account("alice", grant="DeviceCode"),
        "needs no login": stack.workload_account("alice"),
    }


def must_be_gone(stack: Stack) -> None:
    def is_gone() -> bool:
        return CODE not in stack.kubectl("get", "oauthaccount", "alice", "-o", "json", "--show-managed-fields")

    wait_until(is_gone, "the code to leave the object")
    assert CODE not in stack.kubectl("get", "events,configmaps", "-o", "json")
    assert CODE not in stack.operator.output
    assert CODE not in httpx2.get(f"{stack.metrics_url}/metrics").text


@pytest.mark.parametrize(
    "kind",
    [
        "unknown provider",
        "broken profile",
        "suspended",
        "waiting for a code",
        "waiting for a device",
        "needs no login",
    ],
)
def test_whatever_the_account_is(stack: Stack, kind: str) -> None:
    stack.apply(accounts(stack)[kind])
    wait_until(lambda: stack.get("alice").get("status"), "the operator to look at it")
    stack.paste("alice", f"{CODE}#a-state")
    must_be_gone(stack)


def test_also_when_no_login_is_open(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    stack.paste("alice", f"{CODE}#a-state")
    must_be_gone(stack)
    assert stack.condition("alice", "Ready")["reason"] == "Available"


def test_also_from_an_account_that_the_operator_sees_for_the_first_time(stack: Stack) -> None:
    manifest = stack.account("alice")
    manifest["metadata"]["annotations"] = {"oauthpool.dev/authorization-code": f"{CODE}#a-state"}
    stack.kubectl("create", "-f", "-", stdin=json.dumps(manifest))  # `apply` would keep a copy of the manifest
    must_be_gone(stack)


def test_also_when_it_was_pasted_while_no_operator_ran(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    url = stack.authorization_url("alice")
    assert stack.operator.stop() == 0
    pasted = stack.simulator.approve(url, "alice@example.com")
    stack.paste("alice", pasted)
    stack.start_operator()
    stack.wait_for_reason("alice", "Ready", "Available")
    assert "oauthpool.dev/authorization-code" not in stack.get("alice")["metadata"].get("annotations", {})
