"""The proxy in the file system of its image: the Python, the OpenSSL and the C library that users run.

The image is built from a checkout, its file system is mounted or unpacked, and the program runs in it by chroot: no container
is in the way of what is measured. It needs root, and docker, podman or buildah.
"""

import os
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

from tests.bench.processes import BenchmarkError
from tests.support.stack import ROOT

IMAGE = "localhost/oauth-pool-proxy:bench"
PYTHON = "/opt/oauth-pool/bin/python"


class NoImage(BenchmarkError):
    """It cannot be built or entered on this machine; the message says why."""


@contextmanager
def image_python(engine: str, base: str, folder: Path, revision: str | None = None) -> Iterator[Path]:
    """A command that is the image's interpreter, of the files as they are or of another commit. Raises NoImage.

    It sees `folder`, where the benchmark's files are, and `/proc`.
    """
    if os.getuid() != 0:
        raise NoImage("only root can run a program in the file system of an image")
    if not engine:
        raise NoImage("there is no docker, podman or buildah to build an image with")
    with ExitStack() as stack:
        source = stack.enter_context(_checkout(revision)) if revision else ROOT
        name = f"image-{revision or 'here'}".replace("/", "-")
        _run(engine, "build", "-f", f"{source}/Dockerfile.proxy", "-t", IMAGE, f"--build-arg=BASE={base}", str(source))
        root = stack.enter_context(_file_system(engine, folder / name))
        for path in (str(folder), "/proc", "/etc/hosts"):
            stack.enter_context(_bound(path, root))
        command = folder / f"python-of-{name}"
        command.write_text(f'#!/bin/sh\nexec chroot {shlex.quote(str(root))} {PYTHON} "$@"\n')
        command.chmod(0o755)
        yield command


@contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="oauth-pool-bench-") as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], capture_output=True, check=False)
        if archive.returncode:
            raise BenchmarkError(
                f"{revision} is neither an interpreter nor a commit: {archive.stderr.decode().strip()}"
            )
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


@contextmanager
def _file_system(engine: str, folder: Path) -> Iterator[Path]:
    """Of the image that was just built."""
    if Path(engine).name == "buildah":
        container = _run(engine, "from", "--pull-never", IMAGE)
        try:
            yield Path(_run(engine, "mount", container))
        finally:
            _run(engine, "rm", container)
        return
    folder.mkdir()
    container = _run(engine, "create", IMAGE)
    try:
        with subprocess.Popen([engine, "export", container], stdout=subprocess.PIPE) as export:
            subprocess.run(["tar", "-x", "-C", str(folder)], stdin=export.stdout, check=True)
    finally:
        _run(engine, "rm", container)
    yield folder


@contextmanager
def _bound(path: str, root: Path) -> Iterator[None]:
    """The path of this machine, under the same name below the root."""
    target = root / path.lstrip("/")
    if Path(path).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.touch()
    _run("mount", "--bind", path, str(target))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(target))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoImage(f"{shlex.join(command)}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()
