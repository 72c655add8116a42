"""`.ci/sign`: what cosign is told of an image that was pushed."""

import os
from pathlib import Path

import pytest

from tests.test_ci.repository import Repository

DIGEST = "sha256:" + "a" * 64
IMAGE = f"ghcr.io/team/oauth-pool-proxy@{DIGEST}"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """With a cosign that writes down what it is told, and a docker that knows an SBOM."""
    programs = {
        "cosign": f'echo "$@" >> {tmp_path}/told; case $1 in attest) cat "${{@: -2:1}}" >> {tmp_path}/attested;; esac',
        "docker": 'case "$*" in *without*) echo null;; *) echo "{\\"spdxVersion\\": \\"$6\\"}";; esac',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


def sign(repository: Repository, path: str, program: str = "proxy") -> tuple[int, str]:
    result = repository.run("sign", program, PATH=path, DIGEST=DIGEST, GITHUB_REPOSITORY_OWNER="Team")
    return result.returncode, result.stdout + result.stderr


def test_the_image_is_signed_and_the_sbom_of_each_platform_attested(
    repository: Repository, path: str, tmp_path: Path
) -> None:
    code, output = sign(repository, path)
    assert code == 0, output
    assert output.startswith(f"proxy={DIGEST}\n")  # and nothing else on standard output before it
    first, *others = (tmp_path / "told").read_text().splitlines()
    assert first == f"sign --yes --recursive {IMAGE}"
    assert len(others) == 2
    for told in others:
        assert told.startswith("attest --yes --type spdxjson --predicate ") and told.endswith(IMAGE)
    attested = (tmp_path / "attested").read_text()
    assert "linux/amd64" in attested and "linux/arm64" in attested


def test_an_image_without_an_sbom_is_a_failure(repository: Repository, path: str, tmp_path: Path) -> None:
    code, output = sign(repository, path, "without")
    assert code == 1
    assert "has no SBOM" in output
    assert "attest" not in (tmp_path / "told").read_text()
