"""`.ci/release`: which commit becomes a release."""

import pytest

from tests.test_ci.repository import Repository


def test_the_tag_is_on_the_newest_commit_that_ci_builds(repository: Repository) -> None:
    """A tag on a deploy commit would start no run."""
    release = repository.commit("Release 0.1.0", {"README.md": "more"})
    repository.commit("Deploy sha-0123456 [skip ci]", {"k8s/kustomization.yaml": "more"})
    result = repository.run("release")
    assert result.returncode == 0, result.stderr
    assert repository.git("rev-parse", "v0.1.0^{commit}") == release
    assert "git push origin v0.1.0" in result.stdout
    assert "Release 0.1.0" in result.stdout


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param(
            {"operator/pyproject.toml": 'version = "0.2.0"\n'}, "proxy is 0.1.0, operator is not", id="two versions"
        ),
        pytest.param(
            {"kubectl-oauthaccount/pyproject.toml": 'version = "0.2.0"\n'},
            "proxy is 0.1.0, kubectl-oauthaccount is not",
            id="another version of the plugin",
        ),
        pytest.param({"CHANGELOG.md": "## [Unreleased]\n"}, "no section for 0.1.0", id="nothing to read about it"),
    ],
)
def test_what_is_not_ready_is_not_tagged(repository: Repository, files: dict[str, str], reason: str) -> None:
    repository.commit("Not ready", files)
    result = repository.run("release")
    assert result.returncode == 1
    assert reason in result.stderr
    assert repository.git("tag") == ""


def test_a_version_is_released_once(repository: Repository) -> None:
    assert repository.run("release").returncode == 0
    first = repository.git("rev-parse", "v0.1.0")
    repository.commit("More", {"README.md": "more"})
    assert repository.run("release").returncode != 0
    assert repository.git("rev-parse", "v0.1.0") == first


def test_releases_are_made_of_main(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "topic")
    result = repository.run("release")
    assert result.returncode == 1
    assert "not main" in result.stderr
