"""What a run says at its end about tests that were not run, and how it ends: pytest as a person and as CI start it, on a few tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.left_out import ALL_TESTS
from tests.support.prometheus_programs import HOW_TO_GET_IT
from tests.support.stack import ROOT

TESTS = {
    "conftest.py": 'pytest_plugins = ["tests.support.left_out"]',
    "test_shells.py": """
        import pytest
        from tests.support.tools import program

        def test_of_a_shell_that_is_there():
            assert program("bash").endswith("/bash")

        def test_of_one_that_is_not():
            program("zsh")
        """,
    "test_node.py": """
        import pytest
        from tests.support.tools import node

        @pytest.fixture(scope="module")
        def sdk():
            return node()

        @pytest.mark.parametrize("number", [1, 2])
        def test_of_it(sdk, number):
            assert sdk
        """,
    "test_all_of_a_file.py": """
        import pytest
        pytest.skip("not today", allow_module_level=True)
        """,
}
LEFT_OUT = (
    "Not run: no Node.js 20 or newer with npm (apt-get install nodejs npm, of Debian 13 or newer): test_node.py (2 tests); "
    "no zsh (apt-get install zsh): test_shells.py::test_of_one_that_is_not; not today: test_all_of_a_file.py"
)


def run(tests: dict[str, str], folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    """How pytest ends, and its last line, on a machine whose PATH has bash and a Node.js that is too old."""
    for name, text in tests.items():
        (folder / name).write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()))
    for name in ("bash", "node", "npm"):
        script(folder / name, "echo v18.20.4")
    settings = {"PATH": str(folder), "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}
    return pytest_in(folder, "-p", "xdist.plugin", *options, ".", **settings)


def pytest_in(folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_") and name != ALL_TESTS}
    ended = subprocess.run(command, cwd=folder, env=outer | environment, check=False, capture_output=True, text=True)
    return ended.returncode, ended.stdout.splitlines()[-1]


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


ways = pytest.mark.parametrize("options", [[], ["-n", "2", "--dist", "loadfile"]], ids=["alone", "in processes"])


@ways
def test_the_last_line_says_what_was_left_out_and_how_to_have_it(tmp_path: Path, options: list[str]) -> None:
    assert run(TESTS, tmp_path, *options) == (0, LEFT_OUT)


@ways
def test_where_all_tests_are_asked_for_it_is_a_failure(tmp_path: Path, options: list[str]) -> None:
    assert run(TESTS, tmp_path, *options, ALL_TESTS="1") == (1, f"FAILED, since ALL_TESTS is set: {LEFT_OUT}")


def test_where_nothing_is_left_out_nothing_is_said(tmp_path: Path) -> None:
    tests = {"conftest.py": TESTS["conftest.py"], "test_one.py": "def test_it(): pass"}
    code, last_line = run(tests, tmp_path, ALL_TESTS="1")
    assert (code, "1 passed in" in last_line) == (0, True)


def test_what_fails_besides_is_still_a_failure(tmp_path: Path) -> None:
    failing = {"test_failing.py": "def test_it(): assert False"}
    assert run(TESTS | failing, tmp_path) == (1, LEFT_OUT)


ALERTS = "tests/test_monitoring/test_alerts.py::test_prometheus_takes_the_rules"


@pytest.mark.parametrize(
    ("environment", "code", "last_line"),
    [
        pytest.param(
            {}, 0, f"Not run: no promtool ({HOW_TO_GET_IT}, or ALL_TESTS=1, which builds it): {ALERTS}", id="as it is"
        ),
        pytest.param(
            {ALL_TESTS: "1"},
            1,
            f"FAILED, since ALL_TESTS is set: Not run: no promtool, and none could be built ({HOW_TO_GET_IT}): {ALERTS}",
            id="all tests",
        ),
    ],
)
def test_promtool_is_built_for_all_tests_only_and_where_there_is_none_alerts_are_left_out(
    control_plane_binaries: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    code: int,
    last_line: str,
) -> None:
    script(
        tmp_path / "go", '[ "$1" = env ] && { echo go9.9.9; exit; }; touch "${0}-was-asked"; echo no luck today; exit 1'
    )
    script(tmp_path / "promtool", "echo promtool, version 1.8.2")  # too old
    monkeypatch.delenv("PROMTOOL", raising=False)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "XDG_CACHE_HOME": str(tmp_path), "KUBEBUILDER_ASSETS": str(control_plane_binaries)}
    assert pytest_in(ROOT, ALERTS, **settings, **environment) == (code, last_line)
    assert (tmp_path / "go-was-asked").exists() is bool(environment)
