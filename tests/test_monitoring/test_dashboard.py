"""The dashboard: that Grafana can load it, and that what it asks are queries."""

from itertools import combinations
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus_programs import run
from tests.test_manifests.manifests import Manifest, mappings
from tests.test_monitoring.component import COMPONENT, dashboard, panels, queries

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

every_panel = pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])


def test_it_can_be_loaded_as_it_is() -> None:
    document = dashboard()
    assert document["uid"] and document["title"] and isinstance(document["schemaVersion"], int)
    assert "id" not in document  # Grafana's own number
    assert "__inputs" not in document  # an export for somebody else, which would ask
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))


def test_the_datasource_and_the_namespace_can_be_chosen() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert [(name, variable["type"]) for name, variable in variables.items()] == [
        ("datasource", "datasource"),
        ("namespace", "query"),
    ]
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["namespace"]["definition"] == "label_values(proxy_build_info, namespace)"
    named = [part["datasource"] for part in mappings(dashboard()) if "datasource" in part]
    assert all(source == DATASOURCE for source in named)


@every_panel
def test_a_panel_says_what_it_shows_and_asks_the_chosen_datasource_about_the_chosen_namespace(panel: Manifest) -> None:
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["datasource"] == DATASOURCE
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references))
    for target in panel["targets"]:
        assert target["datasource"] == DATASOURCE
        assert 'namespace="$namespace"' in target["expr"]


def test_rates_look_at_more_than_two_scrapes_whatever_grafana_thinks_of_the_data_source() -> None:
    """It takes four times the step that a query says; of one that says none, four times 15 s: two scrapes, or one."""
    (interval,) = {
        endpoint["interval"]
        for monitor in yaml.safe_load_all((COMPONENT / "pod-monitors.yaml").read_text())
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    }
    steps = [
        target.get("interval")
        for panel in panels()
        for target in panel["targets"]
        if "$__rate_interval" in target["expr"]
    ]
    assert steps and set(steps) == {interval}


def test_no_two_panels_have_the_same_place_and_all_are_on_the_page() -> None:
    places = {panel["title"]: panel["gridPos"] for panel in dashboard()["panels"]}
    assert len(places) == len(dashboard()["panels"])
    for place in places.values():
        assert place["x"] >= 0 and place["w"] > 0 and place["h"] > 0 and place["x"] + place["w"] <= WIDTH
    overlapping = [
        (one, other)
        for (one, a), (other, b) in combinations(places.items(), 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    assert overlapping == []


def test_there_is_no_gap() -> None:
    """Grafana closes gaps when it loads a dashboard, and then it is another one than in the file."""
    covered = {
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }
    height = max(y for _, y in covered) + 1
    assert covered == {(x, y) for x in range(WIDTH) for y in range(height)}


def test_every_query_is_one(promtool: Path, tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(queries())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = run(promtool, "check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
