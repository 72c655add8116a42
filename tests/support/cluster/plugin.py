"""`kubectl oauthaccount …`, as a person types it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cluster.kubectl import Kubectl
from tests.support.pseudo_terminal import PseudoTerminal, on_terminal


def environment() -> dict[str, str]:
    """With the plugin of this checkout on the PATH, where kubectl looks for it, and no browser."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "BROWSER": "false"}


def plugin(kubectl: Kubectl, *arguments: str, stdin: str = "") -> str:
    """What it prints, outside a terminal; fails when it does."""
    command = [str(kubectl.program), "oauthaccount", "-n", kubectl.namespace, *arguments]
    ended = subprocess.run(
        command, input=stdin, capture_output=True, text=True, env=environment(), timeout=100, check=False
    )
    assert ended.returncode == 0, f"{arguments}: {ended.returncode}: {ended.stderr}"
    return ended.stdout


@contextmanager
def plugin_on_terminal(kubectl: Kubectl, *arguments: str) -> Iterator[PseudoTerminal]:
    command = (str(kubectl.program), "oauthaccount", "-n", kubectl.namespace, *arguments)
    with on_terminal(*command, environment=environment()) as terminal:
        yield terminal
