"""Processes that are measured: pinned to their cores, ended with the runner, their logs read as a container runtime would."""

import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MIB_PER_PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20


Command = Sequence[str | Path]


class BenchmarkError(Exception):
    """Nothing can be measured; the message says why and what to do."""


class Process:
    """A running command. It may fork: what is measured is the whole family."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", started_at: float) -> None:
        self.name, self.started_at = name, started_at
        self._popen = popen
        self._log = Log(popen)

    def wait_until(self, is_ready: Callable[[], bool], seconds: float) -> float:
        """Seconds from its start until this is true; an error with its last lines if that takes too long."""
        while not is_ready():
            if self._popen.poll() is not None:
                raise BenchmarkError(f"{self.name} ended with exit code {self._popen.returncode}:\n{self.last_lines()}")
            if time.monotonic() - self.started_at > seconds:
                raise BenchmarkError(f"{self.name} was not ready within {seconds:.0f} s:\n{self.last_lines()}")
            time.sleep(0.002)
        return time.monotonic() - self.started_at

    def check(self) -> None:
        if self._popen.poll() is not None:
            raise BenchmarkError(f"{self.name} died with exit code {self._popen.returncode}:\n{self.last_lines()}")

    def first_line(self) -> bytes | None:
        return self._log.first_line()

    def last_lines(self, count: int = 15) -> str:
        return self._log.last_lines(count)

    def cpu_seconds(self) -> float:
        return sum(map(_cpu_seconds, self._family()))

    def rss_mib(self) -> float:
        return sum(map(rss_mib_of, self._family()))

    def end(self) -> None:
        assert self._popen.stdin
        self._popen.stdin.close()
        self._popen.terminate()
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._log.close()

    def _family(self) -> list[int]:
        found = [self._popen.pid]
        for pid in found:  # grows while it is walked
            found.extend(_children(pid))
        return found


class Log:
    """What a process prints, taken from its pipe every few milliseconds, so that no line of it wakes anybody up."""

    PERIOD = 0.01

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        assert popen.stdout is not None
        self._pipe = popen.stdout
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._first, self._last = b"", b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._pipe.fileno(), 1 << 20):
            if len(self._first) < 4096:
                self._first += data[:4096]
            self._last = (self._last + data)[-8192:]
            time.sleep(self.PERIOD)

    def first_line(self) -> bytes | None:
        line, end, _ = self._first.partition(b"\n")
        return line if end else None

    def last_lines(self, count: int) -> str:
        self._thread.join(0.2)  # of a process that ended, everything; of another, what has been read
        return "\n".join(f"    {line}" for line in self._last.decode(errors="replace").splitlines()[-count:])

    def close(self) -> None:
        self._thread.join(2)
        if not self._thread.is_alive():
            self._pipe.close()


@contextmanager
def started(
    load: Path,
    name: str,
    command: Command,
    cores: Iterable[int],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """A process on these cores for as long as the block lasts, and never longer than this one."""
    launch = [load, "run", ",".join(map(str, cores)), *command]
    started_at = time.monotonic()
    popen = subprocess.Popen(
        launch,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,  # the upstream ends with it
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is the runner's to handle
    )
    process = Process(name, popen, started_at)
    try:
        yield process
    finally:
        process.end()


class PeakRss:
    """The highest RSS of a process while the block lasts, looked at every 50 ms."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mib = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, self._process.rss_mib())
            if self._over.wait(0.05):
                return


def other_cpu_seconds(ours: Iterable[Process]) -> float:
    """What everything on this machine has used that is neither one of these, nor this process, nor a child that ended."""
    busy = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, busy[1:9])
    children = os.times()
    known = time.process_time() + children.children_user + children.children_system
    known += sum(process.cpu_seconds() for process in ours)
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND - known


def _cpu_seconds(pid: int) -> float:
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND if fields else 0


def rss_mib_of(pid: int) -> float:
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * MIB_PER_PAGE if fields else 0


def _children(pid: int) -> list[int]:
    texts = [_read(path) for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in texts for child in text.split()]


def _read(path: Path) -> str:
    """Empty for a process that has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
