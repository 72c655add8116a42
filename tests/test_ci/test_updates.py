"""renovate.json and the files that it has to find versions in. Its own validator is in CONTRIBUTING.md; it needs Node.js 24."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_ci.repository import ROOT

SETTINGS: dict[str, Any] = json.loads((ROOT / "renovate.json").read_text())
LOCKS = sorted((ROOT / "requirements").iterdir())
UV_VERSION = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def found_by(manager: dict[str, Any]) -> dict[str, set[str]]:
    """file -> the versions that a custom manager of Renovate finds in it."""
    patterns = [re.compile(pattern.strip("/")) for pattern in manager["managerFilePatterns"]]
    files = [path for path in ROOT.iterdir() if any(pattern.search(path.name) for pattern in patterns)]
    (match,) = manager["matchStrings"]
    expression = re.compile(match.replace("(?<", "(?P<"))
    return {path.name: {found["currentValue"] for found in expression.finditer(path.read_text())} for path in files}


def test_the_uv_is_the_same_everywhere() -> None:
    files = ("Makefile", "Dockerfile.proxy", "Dockerfile.operator")
    assert found_by(SETTINGS["customManagers"][0]) == {file: set(UV_VERSION) for file in files}
    assert [SETTINGS["constraints"]["uv"]] == UV_VERSION


def test_the_base_of_the_images_is_found() -> None:
    assert found_by(SETTINGS["customManagers"][1]) == {"Makefile": {"3.13-slim"}}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_each_lock_says_how_it_is_written_in_words_that_renovate_understands(lock: Path) -> None:
    """It takes no option that it does not know, and none whose value is a word of its own."""
    file = lock.relative_to(ROOT).as_posix()
    (pattern,) = SETTINGS["pip-compile"]["managerFilePatterns"]
    assert re.search(pattern.strip("/"), file)
    command = lock.read_text().splitlines()[1].removeprefix("#    ").split()
    assert command[:3] == ["uv", "pip", "compile"]
    flags = {word for word in command if re.fullmatch(r"--[a-z-]+", word)}
    options = {word.partition("=")[0] for word in command if "=" in word}
    assert flags == {"--universal", "--generate-hashes"}
    assert options <= {"--python-version", "--extra", "--group", "--constraints", "--output-file"}
    assert f"--output-file={file}" in command
