"""`.ci/release`: which commit becomes a release."""

import pytest

from tests.test_ci.repository import BEFORE_THE_FIRST_DEPLOYMENT, IMAGES, Repository


@pytest.fixture
def repository(repository: Repository) -> Repository:
    """Main has been deployed once."""
    repository.commit("Deploy sha-0123456 [skip ci]", {IMAGES: images("team", "sha-0123456")})
    return repository


def images(owner: str, tag: str) -> str:
    text = BEFORE_THE_FIRST_DEPLOYMENT.replace("ghcr.io/OWNER/", f"ghcr.io/{owner}/")
    return text.replace("newTag: 0.1.0", f"newTag: {tag}")


def test_the_release_is_the_newest_commit_that_ci_builds_with_the_images_of_its_version(repository: Repository) -> None:
    """A tag on a deploy commit would start no run; and a tag without the images of its version would run others."""
    release = repository.commit("Prepare 0.1.0", {"README.md": "more"})
    main = repository.commit("Deploy sha-1234567 [skip ci]", {IMAGES: images("team", "sha-1234567")})
    result = repository.run("release")
    assert result.returncode == 0, result.stderr
    assert repository.git("rev-parse", "v0.1.0^{commit}^") == release
    assert repository.git("diff", "--name-only", release, "v0.1.0") == IMAGES
    assert repository.git("show", f"v0.1.0:{IMAGES}") + "\n" == images("team", "0.1.0")
    assert "[skip ci]" not in repository.git("log", "-1", "--format=%B", "v0.1.0")
    assert "git push origin v0.1.0" in result.stdout
    assert "Prepare 0.1.0" in result.stdout
    # main and what is checked out stay as they were
    assert (repository.head(), repository.git("status", "--porcelain")) == (main, "")
    assert len(repository.git("worktree", "list").splitlines()) == 1


def test_a_release_is_somebodys(repository: Repository) -> None:
    repository.commit("Nobody yet", {IMAGES: BEFORE_THE_FIRST_DEPLOYMENT})
    result = repository.run("release")
    assert (result.returncode, repository.git("tag")) == (1, "")
    assert "says OWNER" in result.stderr


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
