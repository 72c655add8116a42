"""Reads one access file in a dedicated thread. A file's content is never in a message."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from oauth_pool_proxy.errors import TokenFileInvalid, TokenInvalid
from oauth_pool_proxy.pool.account import AccessToken
from oauth_pool_proxy.pool.token_document import MOST_BYTES, parse_token

READ_TIMEOUT = 1.0
"""The longest wait for one read. That includes a request's wait after a 401."""
THREADS = 4


def read_token_file(path: Path) -> AccessToken:
    """The access token in this file. Raises `TokenFileInvalid`, whose message never quotes the file."""
    try:
        # Follow no link, and do not wait for a pipe: only the operator writes here, and it writes files.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise TokenFileInvalid(error.strerror or "cannot be read") from None
    try:
        return parse_token(content)
    except TokenInvalid as error:
        raise TokenFileInvalid(str(error)) from None


class TokenReader:
    """Reads token files in dedicated threads: a network file system that hangs must not stop anything else.

    A read that takes longer than `timeout` seconds counts as hanging. Nothing waits for it any longer, and it is not started
    again before it has ended. `on_late` gets what it found in the end. If all threads hang, the volume is considered hanging, and
    no further reads are started.
    """

    def __init__(
        self, folder: Path, read: Callable[[Path], AccessToken] = read_token_file, timeout: float = READ_TIMEOUT
    ) -> None:
        self._folder, self._read, self.timeout = folder, read, timeout
        self._threads = ThreadPoolExecutor(THREADS, "token-file")
        self._reading: dict[str, asyncio.Future[AccessToken]] = {}
        self._hanging: set[str] = set()
        self.on_late: Callable[[str, AccessToken], None] = lambda uid, token: None

    def close(self) -> None:
        for reading in self._reading.values():
            reading.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def hangs(self) -> bool:
        return bool(self._hanging)

    async def read(self, uid: str) -> AccessToken:
        """The access token in this account's file. Raises `TokenFileInvalid`. Concurrent calls share one read."""
        if uid in self._hanging or len(self._hanging) >= THREADS:
            raise TokenFileInvalid("cannot be read: the volume does not answer")
        reading = self._reading.get(uid) or self._start(uid)
        done, _ = await asyncio.wait([reading], timeout=self.timeout)
        if not done:
            self._hanging.add(uid)
            raise TokenFileInvalid("was not read in time: the volume does not answer")
        return reading.result()

    def _start(self, uid: str) -> asyncio.Future[AccessToken]:
        path = self._folder / f"{uid}.json"
        reading = asyncio.get_running_loop().run_in_executor(self._threads, self._read, path)
        self._reading[uid] = reading
        reading.add_done_callback(lambda _: self._ended(uid))
        return reading

    def _ended(self, uid: str) -> None:
        reading, was_late = self._reading.pop(uid), uid in self._hanging
        self._hanging.discard(uid)
        # Always retrieve the exception: there may be no waiter left to do it.
        if not reading.cancelled() and reading.exception() is None and was_late:
            self.on_late(uid, reading.result())
