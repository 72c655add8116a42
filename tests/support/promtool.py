"""promtool, Prometheus's own checker of rules: what it takes, a Prometheus takes, and what it computes, one computes.

The program that PROMTOOL names, else the user's cache, else the one on PATH if it is new enough, else a build from the Go
modules that `tests/support/prometheus/go.mod` pins: once per machine and version. `python -m tests.support.promtool` builds it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.control_plane import ControlPlaneError
from tests.support.control_plane.binaries import go_toolchain
from tests.support.control_plane.building import Say, build, building_in, cache_base

MODULE = Path(__file__).parent / "prometheus"
PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"
HOW_TO_GET_IT = "apt-get install prometheus"
OLDEST = (2, 42)  # of Debian 12


class PromtoolMissing(Exception):
    """PROMTOOL names no program; the message says what to do."""


class PromtoolNotBuilt(Exception):
    """There is no promtool and none could be built; the message says why, and how to get one."""


def say_on_stderr(line: str) -> None:
    sys.stderr.write(f"promtool: {line}\n")


def promtool(say: Say = say_on_stderr) -> Path:
    """The program. Builds it when nobody has; `say` is told how it goes."""
    if named := os.environ.get("PROMTOOL"):
        if not os.access(named, os.X_OK):
            raise PromtoolMissing(f"PROMTOOL is {named}, which is no program: {HOW_TO_GET_IT}; unset builds one")
        return Path(named)
    if program := found():
        return program
    program = cached()
    try:
        with building_in(program.parent, say):
            if not program.exists():
                _build(program, say)
    except ControlPlaneError as error:
        raise PromtoolNotBuilt(f"it could not be built: {HOW_TO_GET_IT}\n{error}") from error
    return program


def found() -> Path | None:
    """One that need not be built."""
    if cached().exists():
        return cached()
    on_path = shutil.which("promtool")
    return Path(on_path) if on_path and _version_of(on_path) >= OLDEST else None


def is_there() -> bool:
    """Whether nobody would have to wait for a build."""
    return bool(os.environ.get("PROMTOOL") or found())


def cached() -> Path:
    return cache_base() / f"promtool-{_version()}" / "promtool"


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


def _build(program: Path, say: Say) -> None:
    say(f"building promtool {_version()} in {program.parent}")
    say(f"this happens once: 3 to 5 minutes on two cores without a Go build cache, 50 MiB. Without it: {HOW_TO_GET_IT}")
    # Service discovery is half of it, and no business of rules.
    flags = ["-ldflags", "-s -w", "-tags", "remove_all_sd"]
    build(go_toolchain(say), PACKAGE, program, module=MODULE, flags=flags, say=say)


def _version() -> str:
    (pinned,) = re.findall(r"(?m)^require github\.com/prometheus/prometheus (v\S+)$", (MODULE / "go.mod").read_text())
    return str(pinned)


def _version_of(program: str) -> tuple[int, ...]:
    """`promtool, version 2.42.0+ds (branch: …)`; () for one that does not start."""
    try:
        answer = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    version = re.search(r"version (\d+)\.(\d+)\.", answer.stdout + answer.stderr)
    return (int(version[1]), int(version[2])) if version else ()


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{promtool()}\n")
    except (PromtoolMissing, PromtoolNotBuilt) as error:
        sys.exit(f"promtool: {error}")
