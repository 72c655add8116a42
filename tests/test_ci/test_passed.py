"""`.ci/passed`: the one check that a branch rule requires."""

import pytest

from tests.test_ci.repository import Repository


@pytest.mark.parametrize("results", ["success", "success success", "success skipped skipped"])
def test_jobs_may_succeed_or_be_skipped(repository: Repository, results: str) -> None:
    assert repository.run("passed", results).returncode == 0


@pytest.mark.parametrize("results", ["failure", "success cancelled", "failure skipped", "success failure success", ""])
def test_anything_else_fails(repository: Repository, results: str) -> None:
    assert repository.run("passed", results).returncode != 0
