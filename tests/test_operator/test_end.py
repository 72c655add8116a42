"""What the operator's last words are when something ends it that should not have happened."""

import json
import sys
from pathlib import Path

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack

# The operator's own program, in which two of its tasks fail.
FAILING = """
import sys
from oauth_pool_operator import cli
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.scheduler import Scheduler

async def fail(self):
    raise ZeroDivisionError("of a test")

Scheduler.run = IndexPublisher.run = fail
sys.exit(cli.main())
"""


def test_what_ended_the_operator_is_in_its_last_line_and_where_that_was_in_the_log(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    stack = Stack(control_plane, tmp_path, operator=(sys.executable, "-c", FAILING))
    try:
        stack.prepare_cluster()
        stack.start_simulator()
        stack.start_operator(wait=False)
        process = stack.operator
        wait_until(lambda: not process.is_running, "the operator to end")
        assert process.stop() == 1
        assert process.lines[-1] == "oauth-pool-operator: the operator ended: ZeroDivisionError: of a test"
        logged = [json.loads(line) for line in process.lines if line.startswith("{")]
        errors = [entry["message"] for entry in logged if entry["level"] == "ERROR"]
        assert any("where the operator failed" in message and "in fail" in message for message in errors)
    finally:
        stack.close()
