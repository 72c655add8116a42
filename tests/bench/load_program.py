"""The Go program in `load/`: built, started as upstream, run as load generator."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Figures
from tests.bench.processes import BenchmarkError, Process, started
from tests.support.control_plane import ControlPlaneError, building
from tests.support.control_plane.binaries import go_toolchain

NO_GIT = ["-buildvcs=false"]
"""Go would ask Git for the commit, and fail where Git does: in a hook, or in a checkout that is somebody else's."""

LONGEST = 300
"""Seconds. Every run of the generator ends long before, with failures if it must."""


@dataclass(frozen=True)
class Upstream:
    http: str
    https: str
    ca_file: Path
    process: Process


@dataclass(frozen=True)
class Target:
    """Where load goes. `direct` has no process."""

    address: str
    path: str = "/v1/messages"
    bearer: str = field(default="none", repr=False)
    """Several, with commas, for as many clients."""
    ca_file: Path | None = None
    process: Process | None = None
    ready_seconds: float = 0


def build(folder: Path) -> Path:
    """Built as the control plane is: where Go has just built that, most of this is in its cache."""
    program, module = folder / "load", Path(__file__).parent / "load"
    try:
        building.build(go_toolchain(_silent), ".", program, module=module, flags=NO_GIT, say=_silent)
    except ControlPlaneError as error:
        raise BenchmarkError(str(error)) from error
    return program


def _silent(line: str) -> None:
    pass


@contextmanager
def upstream(load: Path, folder: Path, cores: Sequence[int]) -> Iterator[Upstream]:
    ca_file = folder / "ca.pem"
    with started(load, "upstream", [load, "upstream", "--ca-file", ca_file], cores) as process:
        process.wait_until(lambda: process.first_line() is not None, 10)
        addresses = json.loads(process.first_line() or b"")
        yield Upstream(addresses["http"], addresses["https"], ca_file, process)
        process.check()


class Generator:
    """Sends load to one target, and says what came of it."""

    def __init__(self, load: Path, cores: Sequence[int], target: Target) -> None:
        self._command = [str(load), "run", ",".join(map(str, cores)), str(load)]
        self._flags = ["--to", target.address, "--path", target.path, "--bearer", target.bearer]
        if target.ca_file:
            self._flags += ["--ca-file", str(target.ca_file)]

    def run(self, kind: str, **flags: float) -> Figures:
        more = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        # Its first few errors go to the runner's standard error.
        command = [*self._command, kind, *self._flags, *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LONGEST, check=False, start_new_session=True)
        if done.returncode:
            raise BenchmarkError(f"the load generator ended with exit code {done.returncode}")
        figures: Figures = json.loads(done.stdout)
        return figures
