"""Docker or Podman, as far as the tests need them. Containers run as the manifests say: read-only, no capabilities, user 1000."""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

TIGHT = (
    *("--read-only", "--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"),
    "--memory=256m",
)


@dataclass(frozen=True)
class Engine:
    program: str

    @property
    def tight(self) -> list[str]:
        # By itself Podman puts writable folders over a read-only disk; the kubelet does not.
        return [*TIGHT, *["--read-only-tmpfs=false"] * self.program.endswith("podman")]

    def image(self, name: str) -> "Image":
        return Image(self, name)

    def run(self, *arguments: str) -> bytes:
        result = subprocess.run([self.program, *arguments], check=False, capture_output=True, timeout=100)
        assert result.returncode == 0, f"{self.program} {' '.join(arguments)}: {result.stderr.decode()}"
        return result.stdout

    def logs(self, container: str) -> str:
        """Both streams."""
        result = subprocess.run([self.program, "logs", container], check=True, capture_output=True, text=True)
        return result.stdout + result.stderr

    @contextmanager
    def container(self, command: str, *arguments: str) -> Iterator[str]:
        """A container that is removed at the end, whatever it does."""
        identity = self.run(command, *arguments).decode().strip().splitlines()[-1]
        try:
            yield identity
        finally:
            self.run("rm", "--force", identity)


class Image:
    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    @cached_property
    def description(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.engine.run("image", "inspect", self.name))[0]
        return found

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.description["Config"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    @cached_property
    def files(self) -> dict[str, tarfile.TarInfo]:
        """Everything in its file system, by path."""
        with self.engine.container("create", self.name) as container:
            exported = io.BytesIO(self.engine.run("export", container))
        with tarfile.open(fileobj=exported) as archive:
            return {f"/{member.name.removeprefix('./')}": member for member in archive}

    def output(self, *arguments: str, entrypoint: str | None = None) -> str:
        """What a container of it prints, run as tightly as in the cluster."""
        chosen = [f"--entrypoint={entrypoint}"] if entrypoint else []
        return self.engine.run("run", "--rm", *self.engine.tight, *chosen, self.name, *arguments).decode()

    @contextmanager
    def running(self, config: Path) -> Iterator[str]:
        """A container of it, with that file as its configuration."""
        mount = f"--volume={config}:{self.environment['CONFIG_PATH']}:ro"
        with self.engine.container("run", "--detach", *self.engine.tight, mount, self.name) as container:
            yield container
