"""Everything is applied at once, so the operator may be there before the kind is."""

from pathlib import Path

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import ROOT, Stack


def test_an_operator_that_is_there_before_the_crd_serves_it_when_it_comes(
    control_plane_binaries: Path, tmp_path: Path
) -> None:
    with ControlPlane(assets=control_plane_binaries) as control_plane:
        stack = Stack(control_plane, tmp_path)
        try:
            stack.prepare_cluster()
            stack.start_simulator()
            stack.start_operator(wait=False)
            wait_until(lambda: "is the CRD installed?" in stack.operator.output, "the reason why it waits")
            control_plane.apply(ROOT / "crds")
            control_plane.kubectl("wait", "--for=condition=Established", "crd/oauthaccounts.oauthpool.dev")
            stack.wait_for_operator()
            stack.apply(stack.account("alice"))
            stack.log_in("alice", "alice@example.com")
        finally:
            stack.close()


def test_sigterm_while_waiting_for_the_crd_is_an_orderly_end(control_plane_binaries: Path, tmp_path: Path) -> None:
    with ControlPlane(assets=control_plane_binaries) as control_plane:
        stack = Stack(control_plane, tmp_path)
        try:
            stack.prepare_cluster()
            stack.start_simulator()
            stack.start_operator(wait=False)
            wait_until(lambda: "is the CRD installed?" in stack.operator.output, "the reason why it waits")
            assert stack.operator.stop() == 0
        finally:
            stack.close()
