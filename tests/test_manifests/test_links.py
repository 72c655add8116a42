"""Links between the pages lead somewhere: to a file that is there, and to a heading that it has."""

import re
from pathlib import Path

import pytest

from tests.support.cluster.runbook import anchor
from tests.test_manifests.manifests import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Of its headings; a heading that comes again has a number."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_linked_from_readme_or_from_a_page_that_is() -> None:
    """Nobody finds a page by listing a folder."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix != ".md" or page in reached or not page.exists():
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link))
        waiting += [(page.parent / link).resolve() for link in links if link]
    assert {page for page in PAGES if page not in reached} == set()


def test_the_tests_that_the_security_page_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/security.md").read_text()))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 15
    assert named - defined == set()


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_a_page_begins_with_whom_it_is_for(page: Path) -> None:
    if page.name not in ("README.md", "SECURITY.md"):
        assert re.search(r"^For ", "\n".join(prose(page).splitlines()[:4]), re.MULTILINE)


@every_page
def test_no_cell_of_a_table_is_longer_than_two_lines(page: Path) -> None:
    """What is longer is a paragraph: in a table nobody reads it."""
    rows = [line for line in prose(page).splitlines() if line.lstrip().startswith("|")]
    cells = [re.sub(r"\]\([^)]*\)", "]", cell).strip() for row in rows for cell in row.strip("| ").split(" | ")]
    assert [cell for cell in cells if len(cell) > 200] == []


@every_page
def test_prose_is_wrapped_at_100_columns(page: Path) -> None:
    """What is longer is a table, a link or a picture that has no place to be broken at, or a comment, which nobody reads."""
    lines = [line for line in prose(page).splitlines() if len(line) > 100]
    assert [line for line in lines if not line.lstrip().startswith(("|", "<!--")) and can_be_broken(line)] == []


def can_be_broken(line: str) -> bool:
    """Somewhere before its 101st column, but for its indent, the mark of a list, and text of a link or a picture."""
    text = re.sub(r"^ *(?:[*-] |\d+\. |#+ )?", "", line)
    return " " in re.sub(r"!?\[[^\]]*\]\([^)]*\)", lambda link: "_" * len(link[0]), text)[:100]
