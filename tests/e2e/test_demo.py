"""The demo, as a person starts it."""

import subprocess

import pytest

from tests.support.stack import ROOT
from tests.support.tools import program


@pytest.mark.usefixtures("control_plane_binaries")  # building them may take longer than a test may
def test_the_demo_shows_the_main_job_and_ends_well() -> None:
    ended = subprocess.run(
        [program("make"), "--no-print-directory", "demo", "ARGS=--once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    stages = [line for line in ended.stdout.splitlines() if line.startswith("=== ")]
    assert len(stages) == 8, stages
    assert "cold start to first answer" in ended.stdout
    assert ended.stdout.count("CoolingDown") >= 2  # both ways of `kubectl get`, at the end


def test_the_demo_explains_itself() -> None:
    ended = subprocess.run(
        [program("make"), "--no-print-directory", "demo", "ARGS=--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--once" in ended.stdout
