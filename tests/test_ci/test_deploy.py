"""`.ci/deploy`: the commit that lets main run what was built, beside people and other runs that push to main as well."""

from pathlib import Path

import pytest

from tests.test_ci.repository import IMAGES as KUSTOMIZATION
from tests.test_ci.repository import Repository

REFUSING = "#!/bin/sh\nexit 1\n"
# A server whose main moves while the first push is on its way: the second one comes upon a new main.
MOVES_ONCE = """\
#!/bin/sh
[ -e moved ] && exit 0
touch moved
env --unset=GIT_QUARANTINE_PATH git update-ref refs/heads/main refs/heads/next # the push has to wait for it
exit 1
"""


DIGESTS = {"proxy": f"sha256:{'a1' * 32}", "operator": f"sha256:{'b2' * 32}"}


class Server:
    """The repository that is pushed to, and a clone of it in which CI runs."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.folder, self.clone = folder, repository
        repository.git("clone", "--quiet", "--bare", repository.folder.as_posix(), folder.as_posix())
        repository.git("remote", "add", "origin", folder.as_posix())

    def push(self, message: str, files: dict[str, str], to: str = "main") -> str:
        """A commit of a person, on top of what is on the server. The clone stays at what it has checked out."""
        checked_out = self.clone.head()
        self.clone.git("fetch", "--quiet", "origin", "main")
        self.clone.git("checkout", "--quiet", "--detach", "FETCH_HEAD")
        pushed = self.clone.commit(message, files)
        self.clone.git("push", "--quiet", "origin", f"HEAD:refs/heads/{to}")
        self.clone.git("checkout", "--quiet", "--detach", checked_out)
        return pushed

    def deploy(self, commit: str, **other: str) -> tuple[int, str]:
        environment = {"GITHUB_SHA": commit, "GITHUB_REPOSITORY_OWNER": "Team"}
        environment |= {f"{program.upper()}_DIGEST": digest for program, digest in DIGESTS.items()} | other
        result = self.clone.run("deploy", **environment)
        return result.returncode, result.stdout + result.stderr

    def log(self) -> list[str]:
        """The messages of main, newest first."""
        return self.clone.git("--git-dir", self.folder.as_posix(), "log", "--format=%s", "main").splitlines()

    def show(self, file: str) -> str:
        return self.clone.git("--git-dir", self.folder.as_posix(), "show", f"main:{file}")

    def hook(self, name: str, script: str) -> None:
        hook = self.folder / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(script)
        hook.chmod(0o755)


@pytest.fixture
def server(tmp_path: Path, repository: Repository) -> Server:
    return Server(tmp_path / "server.git", repository)


def images(server: Server) -> set[str]:
    """newName:newTag of all images that main runs."""
    lines = [line.split() for line in server.show(KUSTOMIZATION).splitlines()]
    names = [words[1] for words in lines if words[:1] == ["newName:"]]
    tags = [words[1] for words in lines if words[:1] == ["newTag:"]]
    return {f"{name}:{tag}" for name, tag in zip(names, tags, strict=True)}


def images_of(commit: str) -> set[str]:
    return {f"ghcr.io/team/oauth-pool-{program}:sha-{commit[:7]}@{digest}" for program, digest in DIGESTS.items()}


def test_one_commit_sets_both_images_and_starts_no_run(server: Server) -> None:
    built = server.clone.head()
    code, output = server.deploy(built)
    assert code == 0, output
    assert images(server) == images_of(built)
    assert server.log() == [f"Deploy sha-{built[:7]} [skip ci]", "Start"]
    assert server.clone.git("show", "--format=%an", "--name-only", "FETCH_HEAD", "HEAD").split() == [
        *("somebody", *server.clone.git("show", "--format=", "--name-only", built).split()),
        *("github-actions[bot]", KUSTOMIZATION),
    ]


@pytest.mark.parametrize("digest", ["", "sha256:abc", "latest"])
def test_an_image_without_a_digest_is_not_deployed(server: Server, digest: str) -> None:
    code, output = server.deploy(server.clone.head(), OPERATOR_DIGEST=digest)
    assert (code, "the digest of oauth-pool-operator is not one" in output) == (1, True), output
    assert server.log() == ["Start"]


def test_a_main_that_has_moved_is_followed(server: Server) -> None:
    built = server.clone.head()
    server.push("Meanwhile", {"proxy/src/code.py": "more"})
    assert server.deploy(built)[0] == 0
    assert images(server) == images_of(built)
    assert server.log() == [f"Deploy sha-{built[:7]} [skip ci]", "Meanwhile", "Start"]


def test_a_main_that_moves_during_the_push_is_followed(server: Server) -> None:
    built = server.clone.head()
    server.push("Meanwhile", {KUSTOMIZATION: server.show(KUSTOMIZATION) + "\n# a comment\n"}, to="next")
    server.hook("pre-receive", MOVES_ONCE)
    code, output = server.deploy(built)
    assert code == 0, output
    assert "attempt 1: not pushed" in output
    assert images(server) == images_of(built)
    assert server.show(KUSTOMIZATION).endswith("# a comment")
    assert server.log() == [f"Deploy sha-{built[:7]} [skip ci]", "Meanwhile", "Start"]


def test_a_push_that_is_always_refused_is_a_failure(server: Server) -> None:
    server.hook("pre-receive", REFUSING)
    code, output = server.deploy(server.clone.head())
    assert code == 1
    assert output.count("not pushed") == 5
    assert server.log() == ["Start"]


def test_a_second_run_changes_nothing(server: Server) -> None:
    built = server.clone.head()
    assert server.deploy(built)[0] == 0
    assert server.deploy(built)[0] == 0
    assert len(server.log()) == 2


def test_a_run_that_is_late_does_not_bring_older_images_back(server: Server) -> None:
    older = server.clone.head()
    newer = server.push("Newer", {"proxy/src/code.py": "more"})
    assert server.deploy(newer)[0] == 0
    code, output = server.deploy(older)
    assert (code, images(server)) == (0, images_of(newer)), output


def test_newer_images_replace_older_ones(server: Server) -> None:
    assert server.deploy(server.clone.head())[0] == 0
    newer = server.push("Newer", {"proxy/src/code.py": "more"})
    assert server.deploy(newer)[0] == 0
    assert images(server) == images_of(newer)


def test_a_commit_that_is_not_on_main_is_not_deployed(server: Server) -> None:
    removed = server.clone.commit("Removed by a forced push", {"README.md": "more"})
    code, output = server.deploy(removed)
    assert code == 1
    assert "not, or no longer, a commit of main" in output
    assert server.log() == ["Start"]


def test_the_script_may_change_on_main_while_it_runs(server: Server) -> None:
    built = server.clone.head()
    script = (server.clone.folder / ".ci" / "deploy").read_text()
    server.push("Another script", {".ci/deploy": "#!/bin/sh\n" + "exit 77 # \n" * len(script.splitlines())})
    assert server.deploy(built)[0] == 0
    assert images(server) == images_of(built)
