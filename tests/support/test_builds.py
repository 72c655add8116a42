"""How tests wait for programs that are built beside them: pytest on a few tests, with a script that stands for Go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT

CONFTEST = """
from pathlib import Path

import pytest

from tests.support.prometheus_programs import PROMTOOL

pytest_plugins = ["tests.support.builds"]


@pytest.fixture(scope="session")
def promtool(pytestconfig):
    from tests.support.builds import built

    return built("promtool", pytestconfig)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item, settings):
    if "promtool" in item.fixturenames and not (Path(__file__).parent / "began").exists():
        (Path(__file__).parent / "began").write_text("built" if PROMTOOL.cached().exists() else "not built")
"""
WANTS_IT = """
import pytest


@pytest.mark.parametrize("number", range(3))
def test_with_the_program(promtool, number):
    assert promtool.read_text() == "built"
"""
DOES_WITHOUT = """
from pathlib import Path


def test_without_it():
    (Path(__file__).parent / "ran").touch()
"""
GO = """#!/bin/sh
[ "$1" = env ] && { echo go9.9.9; exit; }
echo "$@" >> built.log
while [ "$1" != -o ]; do shift; done
"""
ONCE_A_TEST_RAN = 'tries=600; until [ -e ran ]; do sleep 0.1; tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; done\nprintf built > "$2"\n'
NO_LUCK = "echo no luck today; exit 1\n"

ways = pytest.mark.parametrize(
    "options", [[], ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]], ids=["alone", "in processes"]
)


def pytest_with_go(folder: Path, go: str, options: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it where nothing is there but a Go that does this, in the folder of the tests."""
    tests = {"conftest.py": CONFTEST, "test_a.py": WANTS_IT, "test_z.py": DOES_WITHOUT}
    programs = {"go": GO.replace("\n", f"\ncd {folder}\n", 1) + go, "promtool": "#!/bin/sh\nexit 1\n"}
    (folder / "bin").mkdir()
    for name, text in tests.items():
        (folder / name).write_text(text)
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    unset = ("PROMTOOL", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "KUBEBUILDER_ASSETS": str(folder),
        "PROMETHEUS": str(folder / "bin/promtool"),
        "ALL_TESTS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=100", *options, "."]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


@ways
def test_what_needs_no_build_runs_beside_it_and_what_does_waits_outside_its_time_limit(
    tmp_path: Path, options: list[str]
) -> None:
    done = pytest_with_go(tmp_path, ONCE_A_TEST_RAN, options)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "began").read_text() == "built"
    assert len((tmp_path / "built.log").read_text().splitlines()) == 1


@ways
def test_a_build_that_fails_fails_the_tests_that_need_it_and_is_not_tried_for_each(
    tmp_path: Path, options: list[str]
) -> None:
    done = pytest_with_go(tmp_path, NO_LUCK, options)
    assert "1 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    assert "no luck today" in done.stdout
    assert (
        len((tmp_path / "built.log").read_text().splitlines()) <= 2
    )  # the process beside the tests, and who waits for it
