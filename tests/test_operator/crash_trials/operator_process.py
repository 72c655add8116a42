"""One life of the operator's process: started, watched, and killed."""

import asyncio
import os
import resource
from collections import deque
from pathlib import Path

from .nursery import Nursery, is_running, kill


class OperatorProcess:
    """The real operator, with a saboteur inside. Its lines go through a pipe, as in a container: they do not fail when the disk
    is full."""

    def __init__(
        self, nursery: Nursery, pipe: Path, config: Path, kubeconfig: Path, sabotage: Path, *, lines: deque[str]
    ) -> None:
        self._lines = lines
        self._rest = b""
        os.mkfifo(pipe)
        self._reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # before the writer, whose opening waits for it
        environment = {"KUBECONFIG": str(kubeconfig), "LOG_LEVEL": "info", "SABOTAGE": str(sabotage)}
        self._pid = nursery.bear(("--config", str(config)), environment, pipe)
        self._pipe = pipe
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    @property
    def is_running(self) -> bool:
        return is_running(self._pid)

    def kill(self) -> None:
        """SIGKILL; on return the process is gone, and what it has done is done."""
        kill(self._pid)
        self._read()
        self.close()
        self._pipe.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop listening to it; the guard ends it."""
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    def limit_file_size(self, size: int | None) -> None:
        """No file may be written beyond this offset (EFBIG), which needs no rights and stops root, too; None lifts it.

        The limit ends with the process.
        """
        if not self.is_running:
            return
        hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def _read(self) -> None:
        while self._reader >= 0:
            try:
                data = os.read(self._reader, 65536)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(line.decode(errors="replace") for line in lines)
