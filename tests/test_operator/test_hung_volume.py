"""A volume that hangs under the real operator: its files are pipes that nobody writes to, so whoever opens one waits."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack

# The operator's own program, with less patience.
IMPATIENT = """
import sys
from oauth_pool_operator import cli
from oauth_pool_operator.storage import volume

volume.VOLUME_SECONDS = 2.0
sys.exit(cli.main())
"""
MANY = 9  # more than the access volume has threads, and more than the default executor has on two cores


@pytest.fixture
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    program = (sys.executable, "-c", IMPATIENT)
    with running_stack(control_plane, with_proxy=False, operator=program) as stack:
        yield stack


def hang(path: Path) -> None:
    """In place of the file, in one step."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    pipe.replace(path)


def end(path: Path) -> None:
    """The volume is back, and the file is gone. Whoever reads from the pipe has reached its end; nobody may."""
    with suppress(OSError):
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        path.unlink()
        os.close(writer)
    path.unlink(missing_ok=True)


def accounts(stack: Stack) -> str:
    return f"/apis/oauthpool.dev/v1alpha1/namespaces/{stack.namespace}/oauthaccounts"


def tokens(stack: Stack) -> list[Path]:
    return list(stack.access_dir.glob("*.json"))


def readiness(stack: Stack) -> tuple[int, str]:
    answer = httpx2.get(f"{stack.health_url}/readyz", timeout=5)
    return answer.status_code, answer.json().get("reason", "")


def unanswered(stack: Stack, volume: str) -> float:
    text = httpx2.get(f"{stack.metrics_url}/metrics").text
    return float(text.partition(f'\npool_volume_unanswered_seconds{{volume="{volume}"}} ')[2].split()[0])


def refreshes(stack: Stack) -> int:
    return len(stack.simulator.requests("/v1/oauth/token"))


def test_tokens_are_refreshed_and_the_lease_is_kept_while_the_access_volume_hangs(stack: Stack) -> None:
    names = [f"many-{number}" for number in range(MANY)]
    for name in names:
        stack.control_plane.api.post(accounts(stack), json=stack.workload_account(name)).raise_for_status()
    wait_until(lambda: len(tokens(stack)) == MANY, "every account's token", seconds=60)
    files = tokens(stack)
    for file in files:
        hang(file)
    wait_until(
        lambda: "the access volume has not answered" in readiness(stack)[1], "the operator to say so", seconds=60
    )
    assert readiness(stack)[0] == 503
    assert unanswered(stack, "access") > 2
    assert unanswered(stack, "state") < 2
    assert httpx2.get(f"{stack.health_url}/healthz").status_code == 200

    before = refreshes(stack)
    stack.report(names[0], "Unauthorized", generation=1)
    wait_until(lambda: refreshes(stack) > before, "the refresh of an account whose token is refused", seconds=60)
    uid = stack.get(names[0])["metadata"]["uid"]
    credential = stack.state_dir / uid / "credential.json"
    wait_until(lambda: '"generation":2' in credential.read_text(), "the new token on the state volume")
    assert metric(stack, "pool_operator_lease_held") == 1

    for file in files:
        end(file)
    wait_until(lambda: readiness(stack)[0] == 200, "the volume to be back", seconds=60)
    wait_until(lambda: stack.index()[names[0]]["generation"] == 2, "the new token for proxies", seconds=90)


def metric(stack: Stack, name: str) -> float:
    text = httpx2.get(f"{stack.metrics_url}/metrics").text
    return float(text.partition(f"\n{name} ")[2].split()[0])


def test_an_operator_starts_and_ends_while_the_access_volume_hangs(stack: Stack) -> None:
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    assert stack.operator.stop() == 0
    hang(stack.access_dir / ".probe.new")  # what a start writes first
    stack.start_operator(wait=False)
    wait_until(lambda: "the access volume has not answered" in stack.operator.output, "the start to go on")
    wait_until(lambda: "this operator leads now" in stack.operator.output, "the Lease")
    stack.apply(stack.account("bob"))
    stack.authorization_url("bob")
    assert stack.operator.stop() == 0
