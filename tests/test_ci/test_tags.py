"""`.ci/tags`: which images a run of CI pushes."""

import pytest

from tests.test_ci.repository import Repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(repository: Repository, ref: str, program: str = "proxy", owner: str = "team") -> tuple[int, str, str]:
    result = repository.run(
        "tags", program, GITHUB_REF=ref, GITHUB_SHA=COMMIT, GITHUB_REPOSITORY_OWNER=owner, GITHUB_OUTPUT="unused"
    )
    return result.returncode, result.stdout, result.stderr


PROGRAMS = ("proxy", "operator", "kubectl-oauthaccount")


def set_version(repository: Repository, version: str, *programs: str) -> None:
    files = {f"{name}/pyproject.toml": f'[project]\nversion = "{version}"\n' for name in programs or PROGRAMS}
    repository.commit("Version", files)


@pytest.mark.parametrize("program", ["proxy", "operator"])
def test_main_is_tagged_with_its_commit(repository: Repository, program: str) -> None:
    assert run(repository, "refs/heads/main", program) == (
        0,
        f"tags=ghcr.io/team/oauth-pool-{program}:sha-0123456\n",
        "",
    )


@pytest.mark.parametrize(
    ("version", "tags"),
    [
        pytest.param("0.1.0", ["0.1.0", "0.1"], id="release"),
        pytest.param("12.0.34", ["12.0.34", "12.0"], id="numbers of two digits"),
        pytest.param("1.0.0-rc.1", ["1.0.0-rc.1"], id="candidate"),
    ],
)
def test_a_release_is_tagged_with_its_version(repository: Repository, version: str, tags: list[str]) -> None:
    set_version(repository, version)
    images = ",".join(f"ghcr.io/team/oauth-pool-proxy:{tag}" for tag in tags)
    assert run(repository, f"refs/tags/v{version}") == (0, f"tags={images}\n", "")


@pytest.mark.parametrize("behind", PROGRAMS)
def test_a_release_that_a_program_knows_nothing_of_is_refused(repository: Repository, behind: str) -> None:
    set_version(repository, "0.2.0", *(program for program in PROGRAMS if program != behind))
    code, output, error = run(repository, "refs/tags/v0.2.0")
    assert (code, output) == (1, "")
    assert f'{behind}/pyproject.toml: version = "0.1.0"' in error


def test_a_version_is_not_a_pattern(repository: Repository) -> None:
    set_version(repository, "0x1x0")
    assert run(repository, "refs/tags/v0.1.0")[0] == 1


def test_another_setting_is_not_the_version(repository: Repository) -> None:
    for program in PROGRAMS:
        repository.commit("Setting", {f"{program}/pyproject.toml": 'version = "0.1.0"\nminimum-version = "0.0.9"\n'})
    assert run(repository, "refs/tags/v0.0.9")[0] == 1


@pytest.mark.parametrize(
    "ref",
    ["refs/pull/7/merge", "refs/heads/main2", "refs/heads/refs/heads/main", "refs/tags/0.1.0", "refs/heads/v0.1.0"],
)
def test_of_nothing_else_are_images_pushed(repository: Repository, ref: str) -> None:
    code, output, error = run(repository, ref)
    assert (code, output) == (1, "")
    assert ref in error


def test_names_of_images_are_in_small_letters(repository: Repository) -> None:
    output = run(repository, "refs/heads/main", owner="Some-Team")[1]
    assert output == "tags=ghcr.io/some-team/oauth-pool-proxy:sha-0123456\n"
