"""`.ci/changed`: what a push or a pull request needs. A mistake here leaves code unchecked, or main without new images."""

import pytest

from tests.test_ci.repository import Repository

ZEROS = "0" * 40  # what GitHub calls the commit before the first one


def change_since(base: str, repository: Repository) -> dict[str, str]:
    result = repository.run("changed", base)
    assert result.returncode == 0, result.stderr
    return dict(line.split("=") for line in result.stdout.splitlines())


NOTHING = {"code": "false", "tests": "false", "e2e": "false"}
ONLY_TESTS = {"code": "false", "tests": "true", "e2e": "false"}
FOLLOWED = {"code": "false", "tests": "true", "e2e": "true"}
EVERYTHING = {"code": "true", "tests": "true", "e2e": "true"}


@pytest.fixture
def repository(repository: Repository) -> Repository:
    files = {
        "docs/page.md": "a page",
        "docs/tested.md": "a page that a test reads",
        "FOLLOWED.md": "a page that a test follows on a cluster",
        "tests/support/cluster/runbook.py": 'FOLLOWED = ROOT / "FOLLOWED.md"',
        "proxy/src/code.py": "code",
        "tests/test_page.py": 'PAGE = ROOT / "docs" / "tested.md"',
    }
    repository.commit("What there is", files)
    return repository


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"README.md": "more"}, NOTHING, id="README"),
        pytest.param({"LICENSE": "more"}, NOTHING, id="licence"),
        pytest.param({"docs/page.md": "more", "CHANGELOG.md": "more"}, NOTHING, id="several pages"),
        pytest.param({"docs/picture.svg": "a picture"}, NOTHING, id="picture"),
        pytest.param({"k8s/argocd/README.md": "more"}, NOTHING, id="page beside code"),
        pytest.param({"docs/größe und maß.md": "a page"}, NOTHING, id="name that Git quotes"),
        pytest.param({"docs/tested.md": "more"}, ONLY_TESTS, id="page that a test reads"),
        pytest.param({"FOLLOWED.md": "more"}, FOLLOWED, id="page that a test follows"),
        pytest.param({"proxy/src/code.py": "more"}, EVERYTHING, id="code"),
        pytest.param({"README.md": "more", "proxy/src/code.py": "more"}, EVERYTHING, id="code and page"),
        pytest.param({"requirements/proxy.txt": "more"}, EVERYTHING, id="text that is code"),
        pytest.param({"k8s/docs/page.yaml": "more"}, EVERYTHING, id="another folder named docs"),
        pytest.param({"tools/README.md.py": "more"}, EVERYTHING, id="name with .md in it"),
        pytest.param({".github/workflows/ci.yml": "more"}, EVERYTHING, id="workflow"),
        pytest.param({}, EVERYTHING, id="no file at all"),
    ],
)
def test_what_a_commit_is(repository: Repository, files: dict[str, str], expected: dict[str, str]) -> None:
    base = repository.head()
    repository.commit("Change", files)
    assert change_since(base, repository) == expected


def test_all_commits_of_a_push_count(repository: Repository) -> None:
    base = repository.head()
    repository.commit("Code", {"proxy/src/code.py": "more"})
    repository.commit("Page", {"README.md": "more"})
    assert change_since(base, repository) == EVERYTHING


def test_code_that_was_deleted_is_code(repository: Repository) -> None:
    base = repository.head()
    (repository.folder / "proxy/src/code.py").unlink()
    repository.commit("Delete", {})
    assert change_since(base, repository) == EVERYTHING


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        pytest.param("docs/page.md", NOTHING, id="page"),
        pytest.param("docs/tested.md", ONLY_TESTS, id="page that a test reads"),
    ],
)
def test_a_page_that_was_deleted_is_documentation(repository: Repository, page: str, expected: dict[str, str]) -> None:
    base = repository.head()
    (repository.folder / page).unlink()
    repository.commit("Delete", {})
    assert change_since(base, repository) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("proxy/src/code.py", "docs/code.py", id="code that became documentation"),
        pytest.param("docs/page.md", "proxy/src/page.py", id="documentation that became code"),
    ],
)
def test_a_rename_is_both_names(repository: Repository, old: str, new: str) -> None:
    base = repository.head()
    repository.git("mv", old, new)
    repository.commit("Move", {})
    assert change_since(base, repository) == EVERYTHING


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(ZEROS, id="first push, or a tag"),
        pytest.param("", id="no base"),
        pytest.param("deadbeef" * 5, id="base that a forced push removed"),
    ],
)
def test_without_a_base_everything_has_changed(repository: Repository, base: str) -> None:
    assert change_since(base, repository) == EVERYTHING


def test_the_first_commit_has_no_parent(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "--orphan", "new")
    repository.commit("The only commit", {"README.md": "# A pool\n"})
    assert change_since("HEAD^1", repository) == EVERYTHING


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"README.md": "more"}, NOTHING, id="page"),
        pytest.param({"proxy/src/other.py": "code"}, EVERYTHING, id="code"),
    ],
)
def test_a_pull_request_is_what_its_merge_adds(
    repository: Repository, files: dict[str, str], expected: dict[str, str]
) -> None:
    """HEAD is the merge commit that GitHub makes; code that came to main meanwhile is not of the pull request."""
    repository.git("checkout", "--quiet", "-b", "topic")
    repository.commit("Topic", files)
    repository.git("checkout", "--quiet", "main")
    repository.commit("Meanwhile", {"proxy/src/code.py": "more"})
    repository.git("merge", "--quiet", "--no-ff", "--message", "Merge", "topic")
    assert change_since("HEAD^1", repository) == expected


def test_a_merge_that_is_pushed_is_all_that_it_brings(repository: Repository) -> None:
    before = repository.head()
    repository.git("checkout", "--quiet", "-b", "topic")
    repository.commit("Topic", {"proxy/src/code.py": "more"})
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "--message", "Merge", "topic")
    assert change_since(before, repository) == EVERYTHING
