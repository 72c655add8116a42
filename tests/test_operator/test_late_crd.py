"""Everything is applied at once, so the operator may be there before the kind is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, serve_accounts


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


def test_sigterm_while_waiting_for_the_crd_is_an_orderly_end(waiting: Stack) -> None:
    assert waiting.operator.stop() == 0
