"""Where operators are born: one process has imported everything, and each life is a fork of it. Starting Python anew for each
would take more of the machine than the rotations do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SABOTEUR = Path(__file__).with_name("sabotage.py")


class Nursery:
    """Use `bear` for one life after another; all of them end with `close`, or with this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, str(SABOTEUR)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def bear(self, arguments: Sequence[str], environment: dict[str, str], output: Path) -> int:
        """The PID of a new operator, whose lines go to the file."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"arguments": list(arguments), "environment": environment, "output": str(output)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def is_running(pid: int) -> bool:
    """The nursery leaves no zombies."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int) -> None:
    """SIGKILL; on return the process is gone, and what it has done is done."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    while is_running(pid):
        time.sleep(0.001)
