"""A program on a terminal of its own, as a person sits before it."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.support.control_plane import wait_until

# Makes standard input the terminal that Ctrl-C comes from, then becomes the program. Tests that a shell runs in the background
# are born deaf to Ctrl-C, and so are their children.
_OWN_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.login_tty(0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class PseudoTerminal:
    """What was printed so far, and keys to press."""

    def __init__(self, command: list[str], environment: Mapping[str, str], size: tuple[int, int]) -> None:
        self._master, slave = os.openpty()
        self.resize(*size)
        start = [sys.executable, "-c", _OWN_TERMINAL, *command]
        self.process = subprocess.Popen(start, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self._printed = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def printed(self) -> str:
        return self._printed.decode(errors="replace")

    def wait_for(self, text: str, *, after: int = 0) -> None:
        """Until it has been printed, after so many characters if it may have been printed before."""
        wait_until(lambda: text in self.printed[after:] or self._must_run(text), repr(text), seconds=20)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def press_ctrl_c(self) -> None:
        self.type("\x03")

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait(self) -> int:
        """The exit code."""
        code = self.process.wait(timeout=20)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._reader.join(5)
        os.close(self._master)

    def _must_run(self, text: str) -> bool:
        if self.process.poll() is not None:
            self._reader.join(5)
            assert text in self.printed, f"{text!r} never came; ended with {self.process.returncode}:\n{self.printed}"
        return False

    def _read(self) -> None:
        with suppress(OSError):  # the other end was closed
            while chunk := os.read(self._master, 65536):
                self._printed += chunk


@contextmanager
def on_terminal(
    *command: str, environment: dict[str, str], size: tuple[int, int] = (140, 40)
) -> Iterator[PseudoTerminal]:
    # a shell does not export its size, but what runs the tests may: it would win over the terminal's own
    environment = {name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES"}}
    terminal = PseudoTerminal(list(command), environment | {"TERM": "xterm-256color"}, size)
    try:
        yield terminal
    finally:
        terminal.close()
