"""A Git repository in a temporary folder that has the scripts of `.ci/`, and a way to run them as CI would."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.tools import program

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / ".ci"
IMAGES = "k8s/components/images/kustomization.yaml"
BEFORE_THE_FIRST_DEPLOYMENT = re.sub(
    r"newTag: .*", "newTag: 0.1.0", re.sub(r"ghcr\.io/[^/]+/", "ghcr.io/OWNER/", (ROOT / IMAGES).read_text())
)
# Nobody's own Git configuration, and nothing of the workflow that runs these tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GITHUB_"))} | {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.com",
    "GIT_COMMITTER_NAME": "somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.com",
}


class Repository:
    """On branch main, with one commit, which has the scripts and the files that they read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main", folder.as_posix())
        shutil.copytree(SCRIPTS, folder / ".ci")
        self.commit(
            "Start",
            {
                "README.md": "# A pool\n",
                "CHANGELOG.md": "# Changelog\n\n## [0.1.0]\n",
                "proxy/pyproject.toml": '[project]\nversion = "0.1.0"\n',
                "operator/pyproject.toml": '[project]\nversion = "0.1.0"\n',
                "kubectl-oauthaccount/pyproject.toml": '[project]\nversion = "0.1.0"\n',
                IMAGES: BEFORE_THE_FIRST_DEPLOYMENT,
            },
        )

    def git(self, *arguments: str) -> str:
        result = subprocess.run(
            [program("git"), *arguments], cwd=self.folder, env=ENVIRONMENT, check=False, capture_output=True, text=True
        )
        assert result.returncode == 0, f"git {' '.join(arguments)}: {result.stderr}"
        return result.stdout.strip()

    def commit(self, message: str, files: dict[str, str]) -> str:
        """Write the files and commit everything; answers with the new commit."""
        for name, content in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        program("bash")  # what they are written in
        return subprocess.run(
            [self.folder / ".ci" / script, *arguments],
            env=ENVIRONMENT | environment,
            check=False,
            capture_output=True,
            text=True,
        )
