"""The liveness probe of the real operator process, whose event loop a test blocks."""

import signal
import sys

import httpx2

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import running_stack

# The operator's own program, in which a signal blocks the thread of the loop. The times are shorter than those that are
# shipped, and stand to each other as those do: a loop that sleeps as long as it may is not stuck.
BLOCKABLE = """
import signal, sys, time
from oauth_pool_operator import cli
from oauth_pool_operator import health
from oauth_pool_operator import scheduler

health.STUCK_SECONDS, scheduler.LONGEST_SLEEP = 3.0, 1.0
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))
sys.exit(cli.main())
"""


def test_a_blocked_loop_fails_the_liveness_probe(control_plane: ControlPlane) -> None:
    program = (sys.executable, "-c", BLOCKABLE)
    with running_stack(control_plane, with_proxy=False, operator=program) as stack:

        def liveness() -> tuple[int, str]:
            answer = httpx2.get(f"{stack.health_url}/healthz", timeout=5)
            return answer.status_code, answer.json()["loop"]

        assert liveness() == (200, "turning")
        stack.operator.signal(signal.SIGUSR1)
        wait_until(lambda: liveness() == (500, "stuck"), "the probe to fail")
        assert stack.operator.is_running
        stack.operator.stop(seconds=0)  # as the kubelet ends it: SIGTERM says nothing to a blocked loop
        stack.start_operator()
        assert liveness() == (200, "turning")
