"""`.ci/tools`: what CI installs, so that no test is left out there."""

import shutil
import subprocess
from pathlib import Path

from tests.support.tools import DEBIAN_PACKAGES, program
from tests.test_ci.repository import SCRIPTS


def packages_installed(folder: Path, *programs: str) -> set[str]:
    """By the script, on a machine with these programs, those that the script itself needs, and an apt-get that does nothing."""
    scripts = {
        "apt-get": f'[ "$1" = install ] && echo "$@" >> {folder}/installed',
        "sudo": 'exec "$@"',
        **dict.fromkeys(programs, "exit 1"),
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n:\n")
        (folder / name).chmod(0o755)
    for name in ("id", "env"):
        (folder / name).symlink_to(shutil.which(name) or name)
    subprocess.run([program("bash"), SCRIPTS / "tools"], env={"PATH": str(folder)}, check=True, capture_output=True)
    file = folder / "installed"
    return {word for word in file.read_text().split()[1:] if not word.startswith("-")} if file.exists() else set()


def test_on_an_empty_machine_it_installs_all_that_tests_are_left_out_without(tmp_path: Path) -> None:
    assert packages_installed(tmp_path) == set(DEBIAN_PACKAGES.values()) - {"bash"}  # which it is written in


def test_what_is_there_is_not_installed(tmp_path: Path) -> None:
    assert packages_installed(tmp_path, *(DEBIAN_PACKAGES.keys() - {"zsh", "node"})) == {"nodejs", "zsh"}


def test_on_a_machine_that_has_everything_it_does_nothing(tmp_path: Path) -> None:
    assert packages_installed(tmp_path, *DEBIAN_PACKAGES) == set()
