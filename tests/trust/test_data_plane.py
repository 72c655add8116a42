"""The data plane's trial in its short form; `make trust` has outages of minutes."""

from pathlib import Path

import pytest

from .data_plane import program
from .program import Report


@pytest.mark.timeout(300)  # half a minute on two cores
def test_clients_notice_nothing_of_what_happens_beside_the_data_plane(control_plane_binaries: Path) -> None:
    report: Report = program().run(True, lambda _: None)
    assert not report.failures, "\n".join([*report.failures, report.table])
    assert len(report.rows) == 6
    assert all(requests > 0 for _, _, requests, *_ in report.rows)  # type: ignore[operator]
