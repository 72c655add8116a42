"""What all tests share: one control plane per run, and the logs of it in the report of a test that failed with it;
programs of Prometheus; an environment without settings of the person who runs them.

The control plane's modules are imported where they are used: most tests need none of it, and the proxy's own tests
also run where nothing but the proxy's dependencies is installed.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane

pytest_plugins = ["tests.support.left_out", "tests.support.builds"]

# How long something takes says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

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
    from tests.support.builds import built

    return built("control_plane_binaries", pytestconfig)


@pytest.fixture(scope="session")
def promtool(pytestconfig: pytest.Config) -> Path:
    """Prometheus's checker of rules."""
    return _of_prometheus("promtool", pytestconfig)


@pytest.fixture(scope="session")
def prometheus(pytestconfig: pytest.Config) -> Path:
    """Prometheus itself."""
    return _of_prometheus("prometheus", pytestconfig)


def _of_prometheus(name: str, config: pytest.Config) -> Path:
    """Tests with it are left out where it is not there and is not built, or could not be."""
    from tests.support.builds import built, has_to_be_built
    from tests.support.prometheus_programs import HOW_TO_GET_IT, PROGRAMS, ProgramNotBuilt
    from tests.support.tools import leave_out

    if not PROGRAMS[name].is_there() and not has_to_be_built(name):
        leave_out(f"no {name}", f"{HOW_TO_GET_IT}, or ALL_TESTS=1, which builds it")
    try:
        return built(name, config)
    except ProgramNotBuilt:
        leave_out(f"no {name}, and none could be built", HOW_TO_GET_IT)


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    plane: ControlPlane | None = getattr(item, "funcargs", {}).get("control_plane")
    if report.failed and plane:
        report.sections.append(("control plane", plane.logs_tail()))
    return report
