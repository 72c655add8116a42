"""A sample of the crash trials; `make crash-trials N=10000` runs as many as one likes."""

import secrets

import pytest

from tests.support.control_plane import ControlPlane
from tests.test_operator.crash_trials.run import run

TRIALS = 200


@pytest.mark.timeout(400)  # 20 to 60 s are usual, by how busy the machine is
async def test_a_kill_at_any_instant_of_a_rotation_loses_nothing(control_plane: ControlPlane) -> None:
    outcome = await run(control_plane, trials=TRIALS, seed=secrets.randbelow(2**32))
    assert not outcome.failures, "\n\n".join([*outcome.failures, outcome.summary])
    assert len(outcome.trials) >= TRIALS
