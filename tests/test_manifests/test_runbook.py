"""RUNBOOK.md fits the alerts, itself, and the test that follows it on a cluster (tests/e2e/cluster/test_runbook.py)."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.cluster.runbook import Command, Runbook, anchor
from tests.test_manifests.manifests import K8S

FOLLOWED_BY = Path(__file__).parents[1] / "e2e/cluster/test_runbook.py"
PARTS = ("**You see**", "**Why", "**It worked")


@pytest.fixture(scope="module")
def runbook() -> Runbook:
    return Runbook.read()


def alerts() -> list[str]:
    """Of the monitoring component."""
    rules = [
        document
        for file in (K8S / "components" / "monitoring").glob("*.yaml")
        for document in yaml.safe_load_all(file.read_text())
        if document["kind"] == "PrometheusRule"
    ]
    return [rule["alert"] for document in rules for group in document["spec"]["groups"] for rule in group["rules"]]


def test_every_alert_has_an_entry_with_its_name_that_says_what_why_and_when_it_is_over(runbook: Runbook) -> None:
    for alert in alerts():
        entry = runbook.entry(alert)
        assert [part for part in PARTS if part not in entry] == [] or "**Why, Do, It worked**" in entry, alert


def test_links_inside_lead_to_headings(runbook: Runbook) -> None:
    links = set(re.findall(r"\]\(#([^)]+)\)", runbook.text))
    assert links <= {anchor(heading) for heading in runbook.headings}
    assert len(set(runbook.headings)) == len(runbook.headings)


def test_every_entry_is_in_the_table_of_symptoms_or_below_it(runbook: Runbook) -> None:
    top = runbook.text.partition("\n## First look\n")[0]
    linked = set(re.findall(r"\]\(#([^)]+)\)", top))
    entries = re.findall(r"^### (.+)$", runbook.text, re.MULTILINE)
    assert [entry for entry in entries if anchor(entry) not in linked] == []


def test_every_command_is_followed_on_a_cluster_or_says_why_not(runbook: Runbook) -> None:
    followed = set(re.findall(r'\brun\(\s*"([^"]+)"', FOLLOWED_BY.read_text()))
    commanded = {block.heading for block in runbook.blocks if block.is_run}
    assert commanded - followed == set(), "neither followed by a test nor marked with `<!-- not run: REASON -->`"
    assert followed - commanded == set(), "a test follows what is not there"


def test_there_are_no_commands_but_in_console_blocks(runbook: Runbook) -> None:
    assert re.findall(r"^ *```(?!console$)\w+", runbook.text, re.MULTILINE) == []
    assert all(block.commands for block in runbook.blocks)


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (("a  b",), "x\n  a b\ny\n", True),
        (("a",), "ab\n", False),
        (("a…",), "ab c\n", True),
        (("one", "two"), "two\none\n", False),
        ((), "anything", True),
    ],
    ids=["spaces and other lines", "whole lines", "anything", "in order", "nothing shown"],
)
def test_what_is_shown_is_among_what_is_printed(shown: tuple[str, ...], printed: str, fits: bool) -> None:
    assert Command("command", shown).prints(printed) is fits


def test_blocks_know_their_heading_their_mark_and_here_documents() -> None:
    text = "# A\n\n<!-- not run: why -->\n```console\n$ x\n```\n\n## B\n\n1. y\n\n   ```console\n   $ y <<EOF\n   # Z\n   EOF\n   out\n   ```\n"
    first, second = Runbook(text).blocks
    assert (first.heading, first.is_run, first.comment) == ("A", False, "not run: why")
    assert (second.heading, second.is_run) == ("B", True)
    assert second.commands == (Command("y <<EOF\n# Z\nEOF", ("out",)),)
