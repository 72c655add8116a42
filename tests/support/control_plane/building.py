"""Go programs, built from modules that a go.mod pins: once per machine, by one process at a time."""

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.control_plane.errors import ControlPlaneError

Say = Callable[[str], object]


def cache_base() -> Path:
    """Where this project keeps what is built once per machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oauth-pool"


@contextmanager
def building_in(folder: Path, say: Say) -> Iterator[None]:
    """One build at a time in this folder. The lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is building in {folder}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(go: Path, package: str, program: Path, *, module: Path, flags: Sequence[str], say: Say) -> None:
    """Build one program of the module in that folder; it appears under its name only when it is complete."""
    name, folder, started = program.name, program.parent, time.monotonic()
    partial, log = folder / f".{name}.partial", folder / f"build-{name}.log"
    say(name)
    # Plain `go` would fetch another toolchain when go.mod asks for one; find_go has already settled that.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    command: list[str | Path] = [go, "build", "-trimpath", *flags, "-o", partial, package]
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=module, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        while _is_running_after(process, seconds=20):
            say(f"{name}, still building after {elapsed(started)}")
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise ControlPlaneError(f"`go build {package}` failed; the end of {log}:\n{tail}")
    partial.rename(program)
    say(f"{name}, built in {elapsed(started)} ({program.stat().st_size >> 20} MiB)")


def elapsed(started: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _is_running_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False
