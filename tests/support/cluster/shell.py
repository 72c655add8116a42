"""A shell that commands are typed into, one after the other: variables, functions and jobs stay, as with a person."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support.control_plane import wait_until


class Shell:
    """bash in a folder of its own. Nothing typed reads standard input; what it starts ends with `close`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._typed = folder / ".typed"
        self._typed.mkdir()
        self._count = 0
        self._bash = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, text=True, cwd=folder, env=environment, start_new_session=True
        )

    def run(self, command: str, *, seconds: float = 200) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        self._count += 1
        typed, printed, code = (self._typed / f"{self._count}.{kind}" for kind in ("sh", "out", "code"))
        typed.write_text(command + "\n")
        assert self._bash.stdin is not None
        self._bash.stdin.write(f". {typed} </dev/null >{printed} 2>&1; echo $? >{code}.new; mv {code}.new {code}\n")
        self._bash.stdin.flush()
        wait_until(code.exists, command, seconds=seconds)
        return int(code.read_text()), printed.read_text(errors="replace")

    def close(self) -> None:
        with self._bash:
            # a session of its own: bash and its jobs, and nothing else
            os.killpg(self._bash.pid, signal.SIGKILL)
