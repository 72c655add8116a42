"""The pool index in a folder: on a laptop, or a mounted ConfigMap. `index_source.py` states the guarantees."""

import asyncio
import logging
import time
from pathlib import Path

from oauth_pool_proxy.pool.index_source import GONE, OnIndex, Outage

log = logging.getLogger(__name__)

_MOUNTED = "..data"
"""The kubelet's link to the current contents of a mounted ConfigMap. It exists even if they are empty."""


class FolderIndex:
    """Checks a folder about once a second. It has one file per account, named like its key. Works for a mounted ConfigMap.

    A folder without files means that the index is gone, unless a ConfigMap without data is mounted there.
    """

    def __init__(self, folder: Path, on_index: OnIndex) -> None:
        self._folder, self._on_index = folder, on_index
        self._outage = Outage("the pool index")
        self._signature: object = None
        self._has_accounts = False
        self._is_gone = False
        self.last_success: float | None = None
        """When the index was last seen. It stands still while the index is gone."""
        self.lists = 0
        """How many times the whole index was read."""

    async def run(self, every: float = 1) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(every)

    async def poll(self) -> None:
        """Pass the state on if it has changed since the last time."""
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
        """The folder's state, and its contents if that state is new. None if there is nothing."""
        # Hidden names belong to a mounted ConfigMap (`..data`), or to a file that is still being written.
        paths = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
        signature = [
            (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path in paths if (stat := path.stat())
        ]
        if not paths and not (self._folder / _MOUNTED).exists():
            return signature, None
        if signature == self._signature:
            return signature, {}
        return signature, {path.name: path.read_bytes().decode("utf-8", "replace") for path in paths}
