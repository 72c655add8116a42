"""Programs of the control plane that this machine already has: setup-envtest's, or those on PATH, if their versions fit."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

Version = tuple[int, ...]

ASKED_WITH = {
    "etcd": ["--version"],
    "kube-apiserver": ["--version"],
    "kubectl": ["version", "--client", "--output=json"],
}
PLACES = (Path("/usr/local/kubebuilder/bin"),)  # where envtest looks by itself
OLDEST_ETCD = (3, 6)  # of this an API server of today is built; older ones do not know all flags that we start it with


def installed(names: Sequence[str], kubernetes: str) -> dict[str, Path]:
    """Those of the programs that are there and fit Kubernetes of that version (`v1.36.3`, say)."""
    folders = list(_folders())
    wanted = numbers(kubernetes)
    found = {}
    for name in names:
        candidates = (path for folder in folders if (path := folder / name).is_file())
        if fitting := next((path for path in candidates if fits(name, version_of(path, name), wanted)), None):
            found[name] = fitting
    return found


def fits(name: str, version: Version, kubernetes: Version) -> bool:
    """An API server of the same minor version, a kubectl one minor away at most (its own rule), any etcd of its line."""
    if name == "etcd":
        return OLDEST_ETCD <= version < (4,)
    if len(version) < 2 or version[0] != kubernetes[0]:
        return False
    away = abs(version[1] - kubernetes[1])
    return away <= (1 if name == "kubectl" else 0)


def version_of(program: Path, name: str) -> Version:
    """() if it does not say one: a program of another platform, or one that hangs."""
    try:
        answer = subprocess.run(
            [program, *ASKED_WITH[name]], check=False, capture_output=True, text=True, errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\d+\.\d+\.\d+", answer.stdout)
    return numbers(found[0]) if found and not answer.returncode else ()


def numbers(version: str) -> Version:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def setup_envtest_folder(home: Path, platform: str = sys.platform) -> Path:
    """Where `setup-envtest use` puts what it downloads."""
    if platform == "darwin":
        return home / "Library/Application Support/io.kubebuilder.envtest/k8s"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "kubebuilder-envtest/k8s"


def _folders() -> Iterator[Path]:
    downloaded = [path for path in setup_envtest_folder(Path.home()).glob("*-*-*") if path.is_dir()]
    yield from sorted(downloaded, key=lambda path: numbers(path.name), reverse=True)
    yield from PLACES
    yield from map(Path, os.get_exec_path())
