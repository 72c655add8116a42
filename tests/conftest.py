"""What all tests share: one control plane per run, and the logs of it in the report of a test that failed with it.

The control plane's modules are imported where they are used: most tests need none of it, and the proxy's own tests
also run where nothing but the proxy's dependencies is installed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.control_plane import ControlPlane

BUILD_ERROR = pytest.StashKey[Exception]()


@pytest.fixture(scope="session")
def control_plane_binaries(pytestconfig: pytest.Config) -> Path:
    """The folder with etcd and kube-apiserver."""
    from tests.support.control_plane import binaries

    if error := pytestconfig.stash.get(BUILD_ERROR, None):
        raise error
    return binaries()


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


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build the control plane before the first test: it takes longer than any test may, and a person wants to see why."""
    wanted = any("control_plane_binaries" in getattr(item, "fixturenames", ()) for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    from tests.support.control_plane import ControlPlaneError, binaries

    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    try:
        binaries(say=lambda line: terminal.write_line(f"control plane: {line}") if terminal else None)
    except ControlPlaneError as error:
        session.config.stash[BUILD_ERROR] = error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    plane: ControlPlane | None = getattr(item, "funcargs", {}).get("control_plane")
    if report.failed and plane:
        report.sections.append(("control plane", plane.logs_tail()))
    return report
