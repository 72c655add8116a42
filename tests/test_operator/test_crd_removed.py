"""The CRD is removed while accounts exist: everything goes, nothing hangs, and it can come back."""

import json
from pathlib import Path

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import running_stack, serve_accounts


def test_removing_the_crd_first_removes_the_accounts_and_does_not_hang(control_plane_binaries: Path) -> None:
    with ControlPlane(assets=control_plane_binaries) as control_plane:
        serve_accounts(control_plane)
        with running_stack(control_plane, with_proxy=False) as stack:
            for name in ("alice", "bob"):
                stack.apply(stack.account(name))
                stack.log_in(name, f"{name}@example.com")
            control_plane.kubectl("delete", "crd", "oauthaccounts.oauthpool.dev", "--timeout=30s")
            assert stack.index() == {}
            assert [path.name for path in (*stack.state_dir.iterdir(), *stack.access_dir.iterdir())] == [".lock"]
            revoked = [json.loads(request["body"]) for request in stack.simulator.requests("/v1/oauth/revoke")]
            assert len(revoked) == 2

            serve_accounts(control_plane)
            stack.apply(stack.account("carol"))
            wait_until(lambda: stack.get("carol").get("status"), "carol to be served", seconds=60)
            assert stack.operator.stop() == 0  # it is the process of before
