"""Everything is applied at once, so the operator may be there before the kind is."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.declared_proxies import DeclaredProxy
from tests.support.stack import ROOT, Stack, serve_accounts


@pytest.fixture
def waiting(control_plane_binaries: Path, tmp_path: Path) -> Iterator[Stack]:
    """An operator on a control plane that does not know the kind yet."""
    with ControlPlane(assets=control_plane_binaries) as control_plane:
        stack = Stack(control_plane, tmp_path)
        try:
            stack.prepare_cluster()
            stack.start_simulator()
            stack.start_operator(wait=False)
            wait_until(
                lambda: "is the CRD of OAuthAccount installed?" in stack.operator.output, "the reason why it waits"
            )
            yield stack
        finally:
            stack.close()


def test_an_operator_that_is_there_before_the_crd_serves_it_when_it_comes(waiting: Stack) -> None:
    serve_accounts(waiting.control_plane)
    waiting.wait_for_operator()
    waiting.apply(waiting.account("alice"))
    waiting.log_in("alice", "alice@example.com")


def test_an_operator_that_misses_one_kind_only_says_which(control_plane_binaries: Path, tmp_path: Path) -> None:
    with ControlPlane(assets=control_plane_binaries) as control_plane:
        stack = Stack(control_plane, tmp_path, tokens="sealed")
        try:
            control_plane.apply(ROOT / "crds/oauthaccount.yaml")
            stack.prepare_cluster()
            stack.start_simulator()
            stack.start_operator(wait=False)
            wait_until(
                lambda: "is the CRD of OAuthProxy installed?" in stack.operator.output, "the reason why it waits"
            )
            answer = httpx2.get(f"{stack.health_url}/readyz")
            assert (answer.status_code, answer.json()["reason"]) == (
                *(503, "objects of kind OAuthProxy cannot be listed yet"),
            )
            serve_accounts(control_plane)
            stack.wait_for_operator()
            one = DeclaredProxy("proxy-1")
            stack.kubectl("apply", "-f", "-", stdin=json.dumps(one.manifest))
            stack.apply(stack.workload_account("alice"))
            wait_until(
                lambda: stack.kubectl("get", "configmaps", "-l", "oauthpool.dev/tokens=1", "-o", "name"), "tokens"
            )
        finally:
            stack.close()


def test_sigterm_while_waiting_for_the_crd_is_an_orderly_end(waiting: Stack) -> None:
    assert waiting.operator.stop() == 0
