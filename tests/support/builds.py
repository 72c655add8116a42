"""Programs that take minutes to build are built beside the tests that do not need them. A pytest plugin.

A test says what it needs by the fixture that it asks for. What is missing is built by one process of its own, behind the tests:
they have the processors first. Tests that need it come last, file by file, and wait for it outside of their time limits.
`python -m tests.support.builds control_plane_binaries promtool` builds those that it is told, one after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.left_out import all_are_wanted

if TYPE_CHECKING:
    from tests.support.control_plane.building import Say

FIXTURES = ("control_plane_binaries", "promtool", "prometheus")
"""Each is a program or a folder of them, in the order in which they are built: most tests wait for the first."""

ON_API_SERVER = 40
"""How many times as long as the others a test with the control plane takes, about."""

MISSING = pytest.StashKey[frozenset[str]]()
ERRORS = pytest.StashKey[dict[str, Exception | None]]()
_background: list[subprocess.Popen[bytes]] = []  # named until the end: Python warns of processes that are forgotten


def has_to_be_built(fixture: str) -> bool:
    """Whether it is missing and so much wanted: Prometheus takes minutes, for few tests, so only with ALL_TESTS."""
    from tests.support.control_plane import binaries_are_there
    from tests.support.prometheus_programs import PROGRAMS

    if fixture in PROGRAMS:
        return all_are_wanted() and not PROGRAMS[fixture].is_there()
    return not binaries_are_there()


def built(fixture: str, config: pytest.Config) -> Path:
    """Its value. Raises what its build ended with, if that failed: nobody tries again for each test."""
    if error := config.stash[ERRORS].get(fixture):
        raise error
    return _get(fixture)


def pytest_configure(config: pytest.Config) -> None:
    """What is missing is found out once per run: workers that looked for themselves could differ in the order of tests."""
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    missing = told["missing"] if told else [fixture for fixture in FIXTURES if has_to_be_built(fixture)]
    config.stash[MISSING], config.stash[ERRORS] = frozenset(missing), {}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a worker of xdist."""
    node.workerinput["missing"] = sorted(node.config.stash[MISSING])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """By file: a worker that has begun with one would wait in the middle of it.

    Files that need long come first for xdist (`--no-loadscope-reorder` leaves the order to us): one that begins when the
    other workers are almost done is waited for.
    """
    sizes: Counter[Path] = Counter()
    if hasattr(config, "workerinput"):
        for item in items:
            sizes[item.path] += ON_API_SERVER if "control_plane" in getattr(item, "fixturenames", ()) else 1
        for item in items:
            sizes[item.path] = max(sizes[item.path], _seconds(item))
    waits: Counter[Path] = Counter()
    for item in items:
        waits[item.path] = max([waits[item.path], *(1 + FIXTURES.index(name) for name in _wanted(item))])
    items.sort(key=lambda item: (waits[item.path], -sizes[item.path]))


def _seconds(item: pytest.Item) -> int:
    """The time limit that the test has of its own; 0 if it has none."""
    mark = item.get_closest_marker("timeout")
    return int(mark.args[0]) if mark and mark.args else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    wanted = {name for item in session.items for name in _wanted(item)}
    is_first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if not wanted or not is_first or session.config.option.collectonly:
        return
    # It outlives an xdist worker that has no more tests. What it has to say goes to standard error.
    command = ["nice", "-n", "10", sys.executable, "-m", __name__, *(name for name in FIXTURES if name in wanted)]
    folder, nothing = Path(__file__).parents[2], subprocess.DEVNULL
    _background.append(subprocess.Popen(command, cwd=folder, stdin=nothing, stdout=nothing))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of pytest-timeout's: a build takes longer than any test may
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    errors = item.config.stash[ERRORS]
    for name in _wanted(item) - errors.keys():
        errors[name] = _wait_for(name, item.config)
    return (yield)


def _wanted(item: pytest.Item) -> frozenset[str]:
    return item.config.stash[MISSING].intersection(getattr(item, "fixturenames", ()))


def _wait_for(fixture: str, config: pytest.Config) -> Exception | None:
    from tests.support.control_plane import ControlPlaneError
    from tests.support.prometheus_programs import ProgramNotBuilt

    terminal = config.pluginmanager.get_plugin("terminalreporter")  # xdist's workers have none

    def say(line: str) -> None:
        if terminal:
            terminal.write_line(line)

    try:
        _get(fixture, say)
    except (ControlPlaneError, ProgramNotBuilt) as error:
        return error
    return None


# The modules that know the programs are imported where they are used: most tests need none of them, and the proxy's own
# tests also run where nothing but the proxy's dependencies is installed.


def _get(fixture: str, say: Say | None = None) -> Path:
    from tests.support.control_plane import binaries
    from tests.support.prometheus_programs import PROGRAMS

    get = PROGRAMS[fixture].get if fixture in PROGRAMS else binaries
    return get(say) if say else get()


def main(fixtures: Sequence[str]) -> int:
    from tests.support.control_plane import ControlPlaneError
    from tests.support.prometheus_programs import ProgramNotBuilt

    failed = 0
    for fixture in fixtures:
        try:
            _get(fixture)
        except (ControlPlaneError, ProgramNotBuilt) as error:
            sys.stderr.write(f"{fixture}: {error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
