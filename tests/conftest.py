"""What all tests share: one control plane per run, and the logs of it in the report of a test that failed with it;
programs of Prometheus; an environment without settings of the person who runs them.

The control plane's modules are imported where they are used: most tests need none of it, and the proxy's own tests
also run where nothing but the proxy's dependencies is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane

pytest_plugins = ["tests.support.left_out"]

# How long something takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

BUILD_ERRORS = pytest.StashKey[dict[str, Exception]]()
_background: list[subprocess.Popen[bytes]] = []  # named until the end: Python warns of processes that are forgotten
READ_BY_OUR_PROGRAMS = ("CONFIG_PATH", "FORCE_COLOR", "LOG_LEVEL", "NAMESPACE", "NO_COLOR", "POD_NAME", "POD_UID")


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_person() -> Iterator[None]:
    """What our programs, and the provider's SDKs, would read from the environment of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name in READ_BY_OUR_PROGRAMS or name.startswith("ANTHROPIC_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def control_plane_binaries(pytestconfig: pytest.Config) -> Path:
    """The folder with etcd and kube-apiserver."""
    from tests.support.control_plane import binaries

    _raise_if_not_built(pytestconfig, "control_plane_binaries")
    return binaries()


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus's checker of rules."""
    return _of_prometheus("promtool")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """Prometheus itself."""
    return _of_prometheus("prometheus")


def _of_prometheus(name: str) -> Path:
    """It may still be building. Tests with it are left out where it could not be built."""
    from tests.support.prometheus_programs import HOW_TO_GET_IT, PROGRAMS, ProgramNotBuilt
    from tests.support.tools import leave_out

    try:
        return PROGRAMS[name].get()
    except ProgramNotBuilt:
        leave_out(f"no {name}, and none could be built", HOW_TO_GET_IT)


def _raise_if_not_built(config: pytest.Config, fixture: str) -> None:
    if error := config.stash.get(BUILD_ERRORS, {}).get(fixture):
        raise error


@pytest.fixture(scope="session")
def control_plane(control_plane_binaries: Path) -> Iterator[ControlPlane]:
    """A control plane that serves OAuthAccounts. All tests of a run share it: work in a `namespace` of your own."""
    from tests.support.control_plane import ControlPlane
    from tests.support.stack import serve_accounts

    with ControlPlane(assets=control_plane_binaries) as plane:
        serve_accounts(plane)
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A new namespace with its `default` ServiceAccount."""
    return control_plane.namespace()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that want a program of Prometheus before it is built come last and may wait; it is built beside the others."""
    from tests.support.prometheus_programs import PROGRAMS

    missing = {name for name, program in PROGRAMS.items() if not program.is_there()}
    wanting = [item for item in items if missing.intersection(getattr(item, "fixturenames", ()))]
    for item in wanting:
        item.add_marker(pytest.mark.timeout(1200))
    items.sort(key=lambda item: item in wanting)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build what is wanted before the first test: it takes longer than any test may, and a person wants to see why."""
    wanted = {fixture for item in session.items for fixture in getattr(item, "fixturenames", ())}
    if session.config.option.collectonly:
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if terminal:
            terminal.write_line(line)

    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
        _begin_with_prometheus(wanted)
    error = _build_control_plane(say) if "control_plane_binaries" in wanted else None
    session.config.stash[BUILD_ERRORS] = {"control_plane_binaries": error} if error else {}


def _begin_with_prometheus(wanted: set[str]) -> None:
    """In a process of its own, which outlives an xdist worker that has no more tests; the tests have the processors first."""
    from tests.support.prometheus_programs import PROGRAMS

    missing = [name for name, program in PROGRAMS.items() if name in wanted and not program.is_there()]
    if missing:
        command = ["nice", "-n", "10", sys.executable, "-m", "tests.support.prometheus_programs", *missing]
        folder, nothing = Path(__file__).parents[1], subprocess.DEVNULL
        _background.append(subprocess.Popen(command, cwd=folder, stdin=nothing, stdout=nothing))


def _build_control_plane(say: Callable[[str], None]) -> Exception | None:
    from tests.support.control_plane import ControlPlaneError, binaries

    try:
        binaries(say=lambda line: say(f"control plane: {line}"))
    except ControlPlaneError as error:
        return error
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    plane: ControlPlane | None = getattr(item, "funcargs", {}).get("control_plane")
    if report.failed and plane:
        report.sections.append(("control plane", plane.logs_tail()))
    return report
