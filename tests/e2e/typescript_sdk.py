"""The provider's official TypeScript SDK, in a Node.js process that plays the scenarios of `typescript/runner.js`."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.tools import node

_FOLDER = Path(__file__).parent / "typescript"
_INSTALLED = _FOLDER / "node_modules" / ".installed"


class Reachable(Protocol):
    """What the SDK is told of whom it asks."""

    @property
    def url(self) -> str: ...
    @property
    def key(self) -> str: ...


class TypeScriptSdk:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def play(self, scenario: str, gateway: Reachable, **parameters: object) -> dict[str, Any]:
        """What the SDK's user had in hands under `seen`, and under `error`, if there is one, what was raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"scenario": scenario, "url": gateway.url, "key": gateway.key, "parameters": parameters}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the Node.js process ended; its last words are on standard error"
        result: dict[str, Any] = json.loads(line)
        return result


def is_there() -> bool:
    """Node.js, and the SDK: who has neither can do without."""
    return bool(shutil.which("node") and shutil.which("npm")) and _INSTALLED.exists()


@contextmanager
def running_typescript_sdk(*, is_quiet: bool = False) -> Iterator[TypeScriptSdk]:
    """The tests of it are left out where there is no Node.js. `is_quiet` leaves out what the SDK complains of on stderr."""
    command = [node(), str(_FOLDER / "runner.js")]
    if not _INSTALLED.exists():
        pytest.fail("the TypeScript SDK is not installed: `make test` does it, with npm")
    pipe, errors = subprocess.PIPE, subprocess.DEVNULL if is_quiet else None
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process:
        try:
            yield TypeScriptSdk(process)
        finally:
            # its end is the end of its input; one that hangs does not get to hold up the tests
            process.kill()
