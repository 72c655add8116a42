"""The real operator with a saboteur inside, who reads a file at each call: what raises, what does not return, what time it is.

A program: the process of `nursery`, which has imported everything and forks an operator for each order. Without sabotage it
does nothing but shorten the operator's pauses, which a trial need not sit out.
"""

import ctypes
import functools
import inspect
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import httpx2
import msgspec

from oauth_pool_operator import cli, keeper, publication, rotation, scheduler, setbacks
from oauth_pool_operator.account import policies
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.storage.lock import VolumeLock
from oauth_pool_operator.storage.store import Store

PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Whatever a library, a disk or a mistake of ours might raise.
ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: KeyError("Content-Type"),
    lambda: RuntimeError("sabotage"),
    lambda: ValueError("sabotage"),
    lambda: OSError(5, "sabotage"),
    lambda: msgspec.ValidationError("sabotage"),
    lambda: TimeoutError(),
    lambda: OverflowError("date value out of range"),
    lambda: httpx2.RemoteProtocolError("sabotage"),
)


class Orders:
    """The file, as it is now."""

    def __init__(self, path: str) -> None:
        self._path, self._read_at, self._orders = path, -1, dict[str, Any]()

    def get(self, kind: str) -> Any:
        try:
            changed = os.stat(self._path).st_mtime_ns
            if changed != self._read_at:
                with open(self._path) as file:
                    self._orders = json.load(file)
                self._read_at = changed
        except FileNotFoundError:
            return None
        return self._orders.get(kind)


def sabotage(orders: Orders, owner: Any, name: str) -> None:
    """From now on the function does what the orders say of it: raise before or after its work, or wait for their end."""
    original, full_name = getattr(owner, name), f"{getattr(owner, '__name__', '')}.{name}"

    def fails(when: str) -> None:
        if (orders.get("raise") or {}).get(full_name) == when:
            raise random.choice(ERRORS)()

    def hang() -> None:
        while full_name in (orders.get("hang") or ()):
            time.sleep(0.02)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def failing(*arguments: Any, **keywords: Any) -> Any:
            fails("before")
            result = await original(*arguments, **keywords)
            fails("after")
            return result

        setattr(owner, name, failing)
        return

    @functools.wraps(original)  # which volume a method is about is told by its name
    def hanging(*arguments: Any, **keywords: Any) -> Any:
        fails("before")
        hang()
        result = original(*arguments, **keywords)
        fails("after")
        return result

    setattr(owner, name, hanging)


def install(orders: Orders) -> None:
    """The saboteur is everywhere."""
    for name in (
        *("credential", "session", "journal", "waits", "imported", "rescued", "access", "touched_access_files"),
        *(
            "begin_exchange",
            "save_credential",
            "end_journal",
            "save_session",
            "save_access",
            "save_waits",
            "save_owner",
        ),
        *("rescue", "remove_access"),
    ):
        sabotage(orders, Store, name)
    for name in ("patch_status", "patch_metadata", "remove_annotation", "remove_reports", "post_event", "write_index"):
        sabotage(orders, Cluster, name)
    sabotage(orders, VolumeLock, "acquire")
    sabotage(orders, IndexPublisher, "publish")
    sabotage(orders, TokenEndpoint, "refresh")
    sabotage(orders, policies, "next_check")
    sabotage(orders, publication, "render_entry")
    sabotage(orders, publication, "render_status")
    real = cli.now
    cli.now = lambda: real() + timedelta(seconds=orders.get("clock") or 0)


def hurry() -> None:
    """What only costs time here. A second opinion is still one, and a report is still followed once."""
    setbacks.SECOND_OPINION = timedelta(seconds=0.2)
    rotation.SAVE_RETRY_SECONDS = 0.1
    policies.FORCED_REFRESH_INTERVAL = timedelta(seconds=0.1)
    scheduler.LONGEST_SLEEP = 1.0
    scheduler.LAST_RETRY = timedelta(seconds=2)
    keeper.REPAIR_SECONDS = 2.0


def nursery() -> None:
    """One operator for each line of standard input; they end with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            live(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def live(order: dict[str, Any]) -> NoReturn:
    """A life that begins as one of a process of its own would, but for the imports."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    descriptor = os.open(order["output"], os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, descriptor), (2, descriptor)):
        os.dup2(source, target)
    random.seed()
    os.environ.update(order["environment"])
    install(Orders(os.environ["SABOTAGE"]))
    hurry()
    code = 1
    try:
        code = cli.main(order["arguments"])
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    nursery()
