"""The endurance trial for some seconds; `make trust` has a quarter of an hour."""

import asyncio

import pytest

from tests.support.control_plane import ControlPlane

from .endurance import run_on, short


@pytest.mark.timeout(240)  # half a minute on two cores
async def test_everything_at_once_fails_no_request_and_leaves_no_unexplained_line(control_plane: ControlPlane) -> None:
    report = await asyncio.to_thread(run_on, control_plane, short(), lambda _: None)
    assert not report.failures, "\n".join([*report.failures, report.table])
