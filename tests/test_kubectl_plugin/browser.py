"""A browser that writes down what it opens, for the plugin on a terminal; the test goes on from there."""

import os
import sys
from pathlib import Path

from tests.support.control_plane import wait_until
from tests.support.stack import Stack


def environment_with_browser(stack: Stack, folder: Path) -> dict[str, str]:
    """In which kubectl finds the plugin, the cluster and the browser."""
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {folder}/opened\n')
    browser.chmod(0o755)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kubeconfig = str(stack.control_plane.kubeconfig)
    return os.environ | {"PATH": path, "KUBECONFIG": kubeconfig, "BROWSER": f"{browser} %s"}


def opened(folder: Path, number: int) -> str:
    """The URL that was opened as the `number`-th."""
    file = folder / "opened"
    lines = wait_until(
        lambda: lines if file.exists() and len(lines := file.read_text().split()) >= number else None, "the browser"
    )
    return lines[number - 1]
