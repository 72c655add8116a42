"""Programs that some tests need and a machine may lack. A test of one that is not there is left out.

Nothing else skips a test for want of a program: so each says what is missing and how to get it, and the last line of the
run (`left_out.py`) tells a person.
"""

import shutil
import subprocess
from typing import NoReturn

import pytest

DEBIAN_PACKAGES = {
    "bash": "bash",
    "chromium": "chromium",
    "curl": "curl",
    "fish": "fish",
    "git": "git",
    "make": "make",
    "node": "nodejs",
    "npm": "npm",
    "zsh": "zsh",
}
"""What brings each program. `.ci/tools` installs all of them."""

OLDEST_NODE = 20


def program(name: str) -> str:
    """Where it is on PATH; the test that asks is left out if it is not there."""
    return shutil.which(name) or leave_out(f"no {name}", f"apt-get install {DEBIAN_PACKAGES[name]}")


def node() -> str:
    """Node.js that is new enough, and has npm beside it."""
    found = shutil.which("node")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else "v0"
    if not found or not shutil.which("npm") or int(version[1:].partition(".")[0]) < OLDEST_NODE:
        packages = f"{DEBIAN_PACKAGES['node']} {DEBIAN_PACKAGES['npm']}"
        leave_out(f"no Node.js {OLDEST_NODE} or newer with npm", f"apt-get install {packages}, of Debian 13 or newer")
    return found


def leave_out(reason: str, how_to_get_it: str) -> NoReturn:
    """End the test that asks, or all tests of the fixture that asks, as not run."""
    pytest.skip(f"{reason} ({how_to_get_it})")
