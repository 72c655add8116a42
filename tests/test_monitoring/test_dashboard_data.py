"""Every panel of the dashboard shows something of a real pool under load, and says so where a pool at rest has nothing to show."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane
from tests.test_manifests.manifests import Manifest
from tests.test_monitoring.component import panels
from tests.test_monitoring.panel_answers import lines
from tests.test_monitoring.pool_under_load import Watched, pool_under_load

SECONDS = 25

pytestmark = pytest.mark.timeout(300)  # the first test has the whole load in it
every_panel = pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])


@pytest.fixture(scope="module")
def watched(control_plane: ControlPlane, prometheus: Path) -> Iterator[Watched]:
    with pool_under_load(control_plane, prometheus, seconds=SECONDS) as watched:
        yield watched


@every_panel
def test_every_query_of_a_panel_has_values_under_load(watched: Watched, panel: Manifest) -> None:
    found = lines(watched.prometheus, panel, watched.stack.namespace, watched.rest_ended, watched.ended)
    answered = {line.reference for line in found if line.has_values}
    assert {target["refId"] for target in panel["targets"]} - answered == set()


@every_panel
def test_every_label_of_a_legend_is_filled_and_no_two_lines_have_the_same_name(
    watched: Watched, panel: Manifest
) -> None:
    found = list(lines(watched.prometheus, panel, watched.stack.namespace, watched.rest_ended, watched.ended))
    assert [line.missing for line in found if line.missing] == []
    names = [(line.reference, line.name) for line in found]
    assert panel["type"] == "table" or len(names) == len(set(names))


@every_panel
def test_a_panel_that_has_nothing_to_show_at_rest_says_why(watched: Watched, panel: Manifest) -> None:
    before = watched.rest_ended
    found = lines(watched.prometheus, panel, watched.stack.namespace, before - 2, before - 1)
    assert any(line.has_values for line in found) or panel["fieldConfig"]["defaults"].get("noValue")


def test_accounts_that_run_out_are_seen_to_leave_and_to_come_back(watched: Watched) -> None:
    (panel,) = (panel for panel in panels() if panel["title"] == "Accounts over time")
    found = lines(watched.prometheus, panel, watched.stack.namespace, watched.rest_ended, watched.ended)
    words = {line.name: [value for _, value in line.answer.points] for line in found}
    assert set(words["claude-1"]) == {2}
    assert set(words["claude-4"]) == set(words["spare"]) == {0}
    assert set(words["claude-2"]) == {2, 1} and words["claude-2"][-1] == 2
