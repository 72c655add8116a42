"""kubectl, on the cluster that KUBECONFIG names."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.control_plane.errors import KubectlError


class Kubectl:
    def __init__(self, program: Path, namespace: str) -> None:
        self.program = program
        self.namespace = namespace

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 100) -> str:
        """What it printed. Raises KubectlError with what it complained of, subprocess.TimeoutExpired after `seconds`."""
        command = self.command(*arguments)
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
        if ended.returncode != 0:
            raise KubectlError(arguments, ended.stderr)
        return ended.stdout

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), "-n", self.namespace, *arguments]

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def in_namespace(self, namespace: str) -> "Kubectl":
        return Kubectl(self.program, namespace)

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[int]:
        """The local port that leads to that port of a pod or Service."""
        command = self.command("port-forward", target, f":{port}", "--address=127.0.0.1")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        try:
            line = process.stdout.readline()
            found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
            if found is None:
                process.terminate()
                raise KubectlError(("port-forward", target), process.stderr.read())
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate()
