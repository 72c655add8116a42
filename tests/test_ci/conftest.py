"""What the tests of the scripts share."""

from pathlib import Path

import pytest

from tests.test_ci.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")
