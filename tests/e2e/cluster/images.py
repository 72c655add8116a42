"""The images of the end-to-end tests: the product as it stands, the product of the commit before, and what is beside it."""

import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
TAG, PREVIOUS = "e2e", "e2e-previous"
PROGRAMS = ("oauth-pool-proxy", "oauth-pool-operator")


class ImageError(Exception):
    """An image cannot be built or brought into the cluster; the message says why."""


@dataclass(frozen=True)
class Builder:
    engine: str
    base: str
    uv_version: str
    prefix: str
    load: str
    """The command that brings an image to the nodes, with the image's name after it."""
    say: Callable[[str], None]

    def make_all(self) -> None:
        """Raises ImageError."""
        self._make_product(ROOT, TAG)
        with tempfile.TemporaryDirectory() as folder:
            check_out_previous(Path(folder))
            self._make_product(Path(folder), PREVIOUS)
        with tempfile.TemporaryDirectory() as folder:
            self._make_tests(Path(folder))

    def _make_product(self, source: Path, tag: str) -> None:
        variables = [f"ENGINE={self.engine}", f"BASE={self.base}", f"IMAGE_PREFIX={self.prefix}", f"TAG={tag}"]
        self._run(f"building both images, tag {tag}", ["make", "-C", str(source), "images", *variables])
        for program in PROGRAMS:
            self._load(f"{self.prefix}{program}:{tag}")

    def _make_tests(self, folder: Path) -> None:
        image = f"{self.prefix}oauth-pool-tests:{TAG}"
        shutil.copy(ROOT / "requirements/dev.txt", folder / "requirements.txt")
        (folder / "tests").mkdir()
        (folder / "tests/__init__.py").touch()
        shutil.copytree(
            ROOT / "tests/simulator", folder / "tests/simulator", ignore=shutil.ignore_patterns("__pycache__")
        )
        arguments = [f"--build-arg=BASE={self.base}", f"--build-arg=UV_VERSION={self.uv_version}"]
        command = [self.engine, "build", "-f", str(HERE / "Dockerfile"), "-t", image, *arguments, str(folder)]
        self._run("building the simulator's image", command)
        self._load(image)

    def _load(self, image: str) -> None:
        self._run(f"bringing {image} into the cluster", [*shlex.split(self.load), image])

    def _run(self, what: str, command: list[str]) -> None:
        begin = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise ImageError(f"{what}: {shlex.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")
        self.say(f"{what}: {time.monotonic() - begin:.0f} s")


def check_out_previous(folder: Path) -> None:
    """The commit before the one that is checked out: what an upgrade to this one starts from."""
    ended = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD^1"], capture_output=True, check=False)
    if ended.returncode != 0:
        raise ImageError(
            "the commit before this one is needed, to upgrade from: git fetch --deepen 1\n" + ended.stderr.decode()
        )
    with tarfile.open(fileobj=BytesIO(ended.stdout)) as archive:
        archive.extractall(folder, filter="data")
