"""A real proxy in a process of its own, and what can be seen of it from outside: metrics, memory, descriptors, log lines."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from tests.bench.processes import rss_mib_of
from tests.support.control_plane import wait_until
from tests.support.control_plane.plane import free_port
from tests.support.control_plane.processes import Processes
from tests.support.stack import Process

PROXY = (str(Path(sys.executable).with_name("oauth-pool-proxy")),)


class ProxyProcess:
    """Started at once; returns when it listens. `settings` are lines of its `[proxy]` table, `more` whole tables."""

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        name: str,
        *,
        upstream: str,
        settings: str = "",
        more: str = "",
        command: Sequence[str] = PROXY,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.port, self._metrics_port = name, free_port(), free_port()
        config = folder / f"{name}.toml"
        config.write_text(
            f'[proxy]\nlisten_addr = "127.0.0.1:{self.port}"\nmetrics_addr = "127.0.0.1:{self._metrics_port}"\n'
            f'upstream_url = "{upstream}"\n{settings}\n{more}'
        )
        own = {"LOG_LEVEL": "info", "POD_NAME": name, "POD_UID": f"uid-of-{name}", **(environment or {})}
        self.process = Process(processes, name, [*command, "--config", str(config)], environment=own, on_line=None)
        wait_until(self._listens, f"{name} to listen")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_ready(self) -> bool:
        return httpx2.get(f"{self.url}/ready", timeout=10, trust_env=False, verify=False).status_code == 200

    def metrics(self) -> dict[str, float]:
        """All samples, each under its name and labels as they are written."""
        text = httpx2.get(
            f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=30, trust_env=False, verify=False
        ).text
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def troubles(self) -> list[str]:
        """Its lines of level WARNING and higher, without what changes from one to the next: level, message."""
        return troubles(self.process.lines)

    def stop(self) -> int | None:
        return self.process.stop()

    def _listens(self) -> bool:
        assert self.process.is_running, f"{self.name} ended:\n{self.process.output}"
        return "accepting requests" in self.process.output


def troubles(lines: Sequence[str]) -> list[str]:
    """The log lines that a person may care about. What is no JSON (a traceback) is one, too."""
    return [line for line in lines if line and _level(line) not in ("TRACE", "DEBUG", "INFO")]


def _level(line: str) -> str:
    try:
        document: dict[str, Any] = json.loads(line)
    except ValueError:
        return ""
    return str(document.get("level", "")).upper()


def descriptors(pid: int) -> int:
    """How many are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_mib(pid: int) -> float:
    return rss_mib_of(pid)
