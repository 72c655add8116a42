"""Proxies with an upstream of the program's own: passthrough, or with a pool of three accounts on disk."""

import resource
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.e2e.gateway import Mode
from tests.support.control_plane.processes import Processes
from tests.support.proxy_server import PoolFolder, rfc3339
from tests.support.sealing import FAR

from .proxy_process import ProxyProcess

ACCOUNTS = ("a", "b", "c")


class Proxies:
    """Use `start` for one after the other; all end with `running_proxies`."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes, self.folder = processes, folder
        self._started = 0

    def start(self, mode: Mode, upstream: str, settings: str = "") -> ProxyProcess:
        self._started += 1
        name = f"{mode}-{self._started}"
        more = ""
        if mode == "pool":
            root = self.folder / name
            root.mkdir()
            pool = PoolFolder(root)
            for account in ACCOUNTS:
                pool.write_token(account, expires=FAR)
                pool.write_entry(account, expires=rfc3339(FAR))
            more = f'[oauth]\nsource = "file"\nindex_dir = "{pool.index}"\naccess_dir = "{pool.access}"\n'
        return ProxyProcess(self._processes, self.folder, name, upstream=upstream, settings=settings, more=more)


@contextmanager
def running_proxies() -> Iterator[Proxies]:
    """They, and this process, may open as many files as the machine allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory(prefix="trust-") as folder,
        closing(Processes(Path(folder), keep=True)) as processes,
    ):
        yield Proxies(processes, Path(folder))
