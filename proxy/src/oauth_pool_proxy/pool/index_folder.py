"""The pool index in a folder: on a laptop, or a mounted ConfigMap (`index_source.py` says what it promises)."""

import asyncio
import logging
import time
from pathlib import Path

from oauth_pool_proxy.pool.index_source import GONE, OnIndex, Outage

log = logging.getLogger(__name__)

_MOUNTED = "..data"
"""The kubelet's link to what a mounted ConfigMap holds now, even if that is nothing."""


class FolderIndex:
    """Looks into a folder about once a second: a file per account, named like its key. Works for a mounted ConfigMap.

    A folder without any file is an index that is gone, unless a ConfigMap without data is mounted there.
    """

    def __init__(self, folder: Path, on_index: OnIndex) -> None:
        self._folder, self._on_index = folder, on_index
        self._outage = Outage("the pool index")
        self._signature: object = None
        self._has_accounts = False
        self._is_gone = False
        self.last_success: float | None = None
        """When the index was last seen; not while one that was there is gone."""
        self.lists = 0
        """How often the whole index was read."""

    async def run(self, every: float = 1) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(every)

    async def poll(self) -> None:
        """Hand the state on if it is another than the last time."""
        try:
            signature, data = await asyncio.to_thread(self._read)
        except OSError as error:
            self._outage.failed(error)
            return
        self._outage.worked()
        if data is None and self._has_accounts:
            self._note_gone()
            return
        self._is_gone = False
        self.last_success = time.time()
        if signature != self._signature:
            self.lists += 1
            self._has_accounts = bool(data)
            self._on_index(data or {})
            self._signature = signature

    def _note_gone(self) -> None:
        if not self._is_gone:
            log.warning(GONE, extra={"fields": {"folder": str(self._folder)}})
        self._is_gone = True

    def _read(self) -> tuple[object, dict[str, str] | None]:
        """The folder's state, and its contents if that state is new; none if nothing is there."""
        # Hidden names are a mounted ConfigMap's own (`..data`), or a file that somebody is still writing.
        paths = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
        signature = [
            (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path in paths if (stat := path.stat())
        ]
        if not paths and not (self._folder / _MOUNTED).exists():
            return signature, None
        if signature == self._signature:
            return signature, {}
        return signature, {path.name: path.read_bytes().decode("utf-8", "replace") for path in paths}
