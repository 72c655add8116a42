"""The watch of accounts, through a gateway that refuses it, lets it go silent, or loses what it says."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.api_relay import ApiRelay, Fault, Request, refusal
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.declared_proxies import DeclaredProxy
from tests.support.relayed_stack import RelayedStack
from tests.support.stack import Stack

# The operator's own program. The times are shorter than those that are shipped, and stand to each other as those do.
HASTY = """
import sys
from oauth_pool_operator import cli, controller, handlers, upkeep
from oauth_pool_operator.cluster import watch

handlers.BOOKMARK_SECONDS, controller.SILENT_SECONDS, upkeep.RELIST_SECONDS = {bookmark}, {silent}, {relist}
watch.FIRST_LOGIN_WAIT = 0.1
sys.exit(cli.main())
"""
NEVER = 100_000


def is_watch(request: Request) -> bool:
    return request.is_watch and "/oauthaccounts" in request.target


@pytest.fixture
def relay(control_plane: ControlPlane) -> Iterator[ApiRelay]:
    with ApiRelay(control_plane.server, control_plane.tls).running() as relay:
        yield relay


class HastyStack(RelayedStack):
    """Whose operator has less patience."""

    def start_hasty(self, *, bookmark: float = NEVER, silent: float = NEVER, relist: float = NEVER) -> None:
        program = HASTY.format(bookmark=bookmark, silent=silent, relist=relist)
        self._operator = (sys.executable, "-c", program)
        self.start(with_proxy=False)


@pytest.fixture
def stack(control_plane: ControlPlane, relay: ApiRelay, tmp_path: Path) -> Iterator[HastyStack]:
    stack = HastyStack(control_plane, tmp_path)
    stack.relay = relay
    yield stack
    relay.faults = []
    stack.close()


def health(stack: Stack, page: str) -> tuple[int, str]:
    answer = httpx2.get(f"{stack.health_url}/{page}", timeout=5)
    return answer.status_code, answer.text


def metric(stack: Stack, name: str) -> float:
    text = httpx2.get(f"{stack.metrics_url}/metrics").text
    return float(text.partition(f"\n{name} ")[2].split()[0])


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_watch_that_is_refused_for_a_moment_is_begun_again(stack: HastyStack, relay: ApiRelay, status: int) -> None:
    stack.start_hasty()
    relay.faults = [Fault(is_watch, answers=refusal(status, "Because"), times=2)]
    relay.cut(is_watch)
    wait_until(lambda: len(relay.faults[0].met) == 2, "the watch to be refused")
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")
    assert stack.operator.is_running


def test_a_watch_that_falls_silent_is_begun_anew(stack: HastyStack, relay: ApiRelay) -> None:
    stack.start_hasty(bookmark=2)
    wait_until(lambda: any(map(is_watch, relay.open_requests)), "the watch")
    deaf = next(request for request in relay.open_requests if is_watch(request))
    relay.faults = [Fault(lambda request: request is deaf, stalls=True)]  # that connection only, as behind a lost route
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")


def test_a_watch_that_stays_silent_while_the_api_server_answers_is_told_and_ends_the_operator(
    stack: HastyStack, relay: ApiRelay
) -> None:
    stack.start_hasty(silent=3, relist=1)
    assert health(stack, "healthz")[0] == 200
    relay.faults = [
        Fault(is_watch, stalls=True),
        Fault(lambda request: request.method == "GET" and not is_watch(request)),
    ]
    wait_until(lambda: metric(stack, "pool_watch_silent_seconds") > 3, "the metric")
    wait_until(lambda: health(stack, "healthz")[0] == 500, "the liveness probe to fail")
    assert "the watch of accounts has been silent for" in health(stack, "healthz")[1]
    assert "the watch of accounts has been silent for" in health(stack, "readyz")[1]
    wait_until(lambda: "needs list and watch on oauthaccounts" in stack.operator.output, "the line in the log")
    relay.faults = []
    stack.apply(stack.account("alice"))
    wait_until(lambda: health(stack, "healthz")[0] == 200, "the watch to be heard again")


def test_a_watch_of_proxies_that_is_alive_does_not_hide_that_the_watch_of_accounts_is_not(
    stack: HastyStack, relay: ApiRelay
) -> None:
    stack.tokens = "sealed"
    stack.start_hasty(relist=NEVER)
    relay.faults = [Fault(is_watch, stalls=True)]
    silent = metric(stack, "pool_watch_silent_seconds")
    wait_until(lambda: any("/oauthproxies" in one.target and one.is_watch for one in relay.open_requests), "its watch")
    for number in range(3):
        stack.kubectl("apply", "-f", "-", stdin=json.dumps(DeclaredProxy(f"proxy-{number}").manifest))
    wait_until(lambda: metric(stack, 'pool_proxies{state="served"}') == 3, "the proxies to be seen")
    assert metric(stack, "pool_watch_silent_seconds") > silent


def test_an_api_server_that_is_away_altogether_is_no_reason_to_end_the_operator(
    stack: HastyStack, relay: ApiRelay
) -> None:
    stack.start_hasty(silent=1)
    relay.faults = [Fault(stalls=True)]
    wait_until(lambda: metric(stack, "pool_watch_silent_seconds") > 20, "longer than a Lease lasts", seconds=60)
    assert health(stack, "healthz")[0] == 200


def test_an_account_that_the_watch_does_not_tell_of_is_found_by_the_list(stack: HastyStack, relay: ApiRelay) -> None:
    stack.start_hasty(relist=1)
    relay.faults = [Fault(is_watch, stalls=True)]
    stack.apply(stack.account("alice"))
    stack.log_in("alice", "alice@example.com")


def test_a_deletion_that_the_watch_does_not_tell_of_leaves_no_ghost_in_the_index(
    stack: HastyStack, relay: ApiRelay
) -> None:
    stack.start_hasty(relist=3)
    for name in ("alice", "bob"):
        stack.apply(stack.account(name))
        stack.log_in(name, f"{name}@example.com")
    uid = stack.get("alice")["metadata"]["uid"]
    relay.faults = [Fault(is_watch, stalls=True)]
    api, path = (
        stack.control_plane.api,
        f"/apis/oauthpool.dev/v1alpha1/namespaces/{stack.namespace}/oauthaccounts/alice",
    )
    assert api.delete(path).is_success  # both at once, so that no list falls between them
    patch = {"content-type": "application/merge-patch+json"}
    assert api.patch(path, json={"metadata": {"finalizers": None}}, headers=patch).is_success
    wait_until(lambda: list(stack.index()) == ["bob"], "the ghost to leave the index")
    wait_until(lambda: not (stack.state_dir / uid).exists(), "what is held of it to go")
    assert "alice: it is gone, but the watch did not say so" in stack.operator.output
    assert stack.index()["bob"]["status"] == "Available"
