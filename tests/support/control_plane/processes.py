"""The parent's side of `guard.py`: processes that cannot outlive this one."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.control_plane.errors import ControlPlaneError


class Processes:
    """Named processes with one log file each in `folder`; all ended, and the folder removed, by `close` or with this process."""

    def __init__(self, folder: Path, keep: bool) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        # A session of its own keeps Ctrl-C in a terminal from reaching the guard before it has done its work.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(folder), *["--keep"] * keep],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> int:
        """Start a process, and return its id; its output goes to `log_file(name)`."""
        if self.is_running(name):
            raise ControlPlaneError(f"{name} is running already")
        arguments = {"command": [str(part) for part in command], "environment": environment or {}}
        pid: int = self._order("start", name, log=str(self.log_file(name)), **arguments)
        return pid

    def stop(self, name: str, seconds: float) -> int | None:
        """End a process, and return its exit code when it is gone: ask and wait for `seconds`, then kill.

        None if there is none of that name; the exit code of one that ended by itself is kept until it is asked for.
        """
        code: int | None = self._order("stop", name, seconds=seconds)
        return code

    def is_running(self, name: str) -> bool:
        return bool(self._order("poll", name))

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """End everything, and return when it is gone."""
        with self._lock:
            self._guard.communicate()

    def _order(self, order: str, name: str, **arguments: Any) -> Any:
        with self._lock:
            if self._guard.stdin is None or self._guard.stdout is None or self._guard.stdin.closed:
                raise ControlPlaneError("the control plane is closed")
            self._guard.stdin.write(json.dumps({"order": order, "name": name, **arguments}) + "\n")
            self._guard.stdin.flush()
            answer = self._guard.stdout.readline()
        if not answer:
            raise ControlPlaneError(f"the guard process of {self.folder} is gone")
        return json.loads(answer)
