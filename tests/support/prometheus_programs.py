"""Prometheus, and promtool, its checker of rules: what they take, a Prometheus takes, and what they compute, one computes.

The program that PROMETHEUS or PROMTOOL names, else the user's cache, else the one on PATH if it is new enough, else a build
from the Go modules that `tests/support/prometheus/go.mod` pins: once per machine and version.
`python -m tests.support.prometheus_programs promtool prometheus` builds those that it is told.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.control_plane import ControlPlaneError
from tests.support.control_plane.binaries import go_toolchain
from tests.support.control_plane.building import Say, build, building_in, cache_base

MODULE = Path(__file__).parent / "prometheus"
HOW_TO_GET_IT = "apt-get install prometheus"
OLDEST = (2, 42)  # of Debian 12


class ProgramMissing(Exception):
    """The environment names no program; the message says what to do."""


class ProgramNotBuilt(Exception):
    """There is none and none could be built; the message says why, and how to get one."""


def say_on_stderr(line: str) -> None:
    sys.stderr.write(f"prometheus: {line}\n")


@dataclass(frozen=True)
class Program:
    """One command of Prometheus's module."""

    name: str

    def get(self, say: Say = say_on_stderr) -> Path:
        """The program. Builds it when nobody has; `say` is told how it goes."""
        if named := os.environ.get(self.variable):
            if not os.access(named, os.X_OK):
                why = f"{self.variable} is {named}, which is no program"
                raise ProgramMissing(f"{why}: {HOW_TO_GET_IT}; unset builds one")
            return Path(named)
        if program := self.found():
            return program
        program = self.cached()
        try:
            with building_in(program.parent, say):
                if not program.exists():
                    _build(program, say)
        except ControlPlaneError as error:
            raise ProgramNotBuilt(f"it could not be built: {HOW_TO_GET_IT}\n{error}") from error
        return program

    @property
    def variable(self) -> str:
        return self.name.upper()

    def found(self) -> Path | None:
        """One that need not be built."""
        if self.cached().exists():
            return self.cached()
        on_path = shutil.which(self.name)
        return Path(on_path) if on_path and _version_of(on_path) >= OLDEST else None

    def is_there(self) -> bool:
        """Whether nobody would have to wait for a build."""
        return bool(os.environ.get(self.variable) or self.found())

    def cached(self) -> Path:
        return cache_base() / f"{self.name}-{_version()}" / self.name


PROMTOOL, PROMETHEUS = Program("promtool"), Program("prometheus")
PROGRAMS = {program.name: program for program in (PROMTOOL, PROMETHEUS)}


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


def _build(program: Path, say: Say) -> None:
    say(f"building {program.name} {_version()} in {program.parent}")
    say(f"this happens once: 1 to 5 minutes on two cores, 50 MiB. Without it: {HOW_TO_GET_IT}")
    # Service discovery is half of it, and no business of rules or of targets whose addresses are known.
    flags = ["-ldflags", "-s -w", "-tags", "remove_all_sd"]
    package = f"github.com/prometheus/prometheus/cmd/{program.name}"
    build(go_toolchain(say), package, program, module=MODULE, flags=flags, say=say)


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
        for wanted in sys.argv[1:]:
            sys.stdout.write(f"{PROGRAMS[wanted].get()}\n")
    except (ProgramMissing, ProgramNotBuilt) as error:
        sys.exit(f"prometheus: {error}")
