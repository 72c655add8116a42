"""Two operators in one namespace, as a mistake makes them: real processes, a real API server, a provider that rotates."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack


@pytest.fixture
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    """One operator, and an account whose tokens live a few seconds and whose refresh tokens are good for one use."""
    with running_stack(control_plane, with_proxy=False) as stack:
        stack.simulator.set(expires_in=3)
        stack.apply(stack.account("alice"))
        stack.log_in("alice", "alice@example.com")
        yield stack


def lease(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.kubectl("get", "lease", "oauth-pool-operator", "-o", "json"))["spec"]
    return found


def generation(stack: Stack) -> int:
    found: int = stack.index()["alice"]["generation"]
    return found


def wait_for_refreshes(stack: Stack, number: int, *, seconds: float = 30) -> None:
    goal = generation(stack) + number
    wait_until(lambda: generation(stack) >= goal, f"{number} refreshes", seconds=seconds)


def must_be_unharmed(stack: Stack) -> None:
    """Every refresh token was sent once, and the account works."""
    sent = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/token")]
    tokens = [body["refresh_token"] for body in sent if "refresh_token" in body]
    assert len(tokens) == len(set(tokens))
    assert stack.index()["alice"]["status"] == "Available"


def readiness(url: str) -> tuple[int, str]:
    answer = httpx2.get(f"{url}/readyz")
    return answer.status_code, answer.json().get("reason", "")


def test_a_second_on_the_same_volume_waits_and_takes_over_when_the_first_ends(stack: Stack) -> None:
    holder = lease(stack)["holderIdentity"]
    health = stack.start_second_operator()
    second = stack.processes["second-operator"]
    wait_until(lambda: "holds the lock on the state volume" in second.output, "the second to say so")
    wait_for_refreshes(stack, 2)
    assert readiness(health) == (503, "another operator holds the lock on the state volume")
    assert httpx2.get(f"{health}/healthz").status_code == 200
    assert lease(stack)["holderIdentity"] == holder
    must_be_unharmed(stack)

    assert stack.operator.stop() == 0
    wait_for_refreshes(stack, 2)
    assert readiness(health)[0] == 200
    must_be_unharmed(stack)
    assert second.stop() == 0
    assert lease(stack).get("holderIdentity", "") == ""


def test_a_second_on_the_same_volume_takes_over_from_one_that_is_killed(stack: Stack) -> None:
    # A kill in the middle of a request is another matter (RefreshOutcomeUnknown): here nothing is in flight for hours.
    stack.simulator.set(expires_in=None)
    wait_for_refreshes(stack, 1)
    health = stack.start_second_operator()
    stack.operator.stop(seconds=0)
    wait_until(lambda: readiness(health)[0] == 200, "the second to lead", seconds=10)  # sooner than the Lease expires
    stack.apply(stack.account("bob"))
    stack.log_in("bob", "bob@example.com")
    must_be_unharmed(stack)


def test_a_second_on_a_volume_of_its_own_touches_nothing_while_the_first_lives(stack: Stack, tmp_path: Path) -> None:
    health = stack.start_second_operator(tmp_path)
    wait_until(lambda: "holds the Lease" in readiness(health)[1], "the second to say so")
    wait_for_refreshes(stack, 5)  # longer than the Lease lasts
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    must_be_unharmed(stack)


def test_a_holder_that_was_overtaken_spends_nothing_until_it_holds_the_lease_again(stack: Stack) -> None:
    patch = {"spec": {"holderIdentity": "somebody-else"}}
    stack.kubectl("patch", "lease", "oauth-pool-operator", "--type=merge", "-p", json.dumps(patch))
    wait_until(lambda: readiness(stack.health_url)[0] == 503, "the operator to notice")
    stood, asked = generation(stack), list[int]()

    def leads_again() -> bool:
        number = len(stack.simulator.requests("/v1/oauth/token"))
        if readiness(stack.health_url)[0] == 200:
            return True
        asked.append(number)
        return False

    wait_until(leads_again, "the Lease to expire", seconds=40)
    assert asked[-1] == asked[0]  # for longer than a token lives
    wait_until(lambda: generation(stack) > stood, "the next refresh")
    must_be_unharmed(stack)


def test_a_holder_that_was_stopped_looks_before_it_spends(stack: Stack, tmp_path: Path) -> None:
    stack.operator.signal(signal.SIGSTOP)
    health = stack.start_second_operator(tmp_path)
    wait_until(lambda: readiness(health)[0] == 200, "the second to lead", seconds=40)
    asked = len(stack.simulator.requests("/v1/oauth/token"))
    stack.operator.signal(signal.SIGCONT)
    wait_until(lambda: readiness(stack.health_url)[0] == 503, "the first to notice")
    assert len(stack.simulator.requests("/v1/oauth/token")) == asked
