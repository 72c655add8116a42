"""`top`: the pool, live. Fed by a watch; drawn again when something changed, and every interval for the countdowns."""

from __future__ import annotations

import argparse
import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import ConsoleDimensions
from rich.live import Live

from kubectl_oauthaccount.account import AccountView
from kubectl_oauthaccount.errors import PluginError, UsageError
from kubectl_oauthaccount.options import Commands, add_command, add_output, session
from kubectl_oauthaccount.table import by_urgency, picture, rows
from kubectl_oauthaccount.terminal import Terminal

if TYPE_CHECKING:
    from kubectl_oauthaccount.cluster import Cluster


SHORTEST_PAUSE = 0.2  # between two drawings, however much changes
WATCH_SECONDS = 290.0
FIRST_RETRY, LAST_RETRY = 0.5, 10.0

EXAMPLE = """\
  kubectl oauthaccount top
  kubectl oauthaccount top --once -o json"""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "top", "show the pool, live; Ctrl-C ends it", EXAMPLE, run)
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="SECONDS", help="between two drawings (default 2)"
    )
    parser.add_argument("--once", action="store_true", help="print it once, as without a terminal")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    if options.output and not options.once:
        raise UsageError("-o json needs --once")
    with session(options) as (cluster, terminal):
        if options.once or not terminal.out.is_terminal:
            _print_once(cluster, terminal, as_json=options.output == "json")
            return 0
        with suppress(KeyboardInterrupt):
            _draw(Pool(cluster), terminal, options.interval)
    return 0


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds


def _print_once(cluster: Cluster, terminal: Terminal, *, as_json: bool) -> None:
    accounts, now = cluster.accounts(), datetime.now(UTC)
    if as_json:
        terminal.show_json(json.dumps(rows(by_urgency(accounts), now), indent=2))
    else:
        terminal.show(picture(accounts, now, namespace=cluster.namespace, width=terminal.out.width))


def _draw(pool: Pool, terminal: Terminal, interval: float) -> None:
    """Until Ctrl-C, on a screen of its own, as `less` does."""
    pool.start()
    with Live(console=terminal.out, screen=True, auto_refresh=False) as live:
        while True:
            pool.changed.clear()
            accounts, trouble = pool.state()
            size = terminal.out.size
            live.update(
                picture(
                    accounts,
                    datetime.now(UTC),
                    namespace=pool.namespace,
                    width=size.width,
                    height=size.height,
                    trouble=trouble,
                ),
                refresh=True,
            )
            _pause(pool, terminal, size, interval)


def _pause(pool: Pool, terminal: Terminal, size: ConsoleDimensions, interval: float) -> None:
    """Until the interval is over, or the pool or the terminal's size has changed. (SIGWINCH would tell of the size, but a
    handler of it may not touch what the thread it interrupts is waiting on.)"""
    end = time.monotonic() + interval
    time.sleep(SHORTEST_PAUSE)
    while time.monotonic() < end and terminal.out.size == size:
        if pool.changed.wait(SHORTEST_PAUSE):
            return


class Pool:
    """The accounts as last seen, kept by a thread that lists and watches, and lists again when the watch ends."""

    def __init__(self, cluster: Cluster) -> None:
        self.namespace = cluster.namespace
        self.changed = threading.Event()
        self._cluster = cluster
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._accounts: dict[str, AccountView] = {}
        self._trouble = ""
        self._version = ""

    def start(self) -> None:
        """List, so that what cannot work is told at once; then follow in the background."""
        self._list()
        threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Follow no longer than until the next event."""
        self._stopping.set()

    def state(self) -> tuple[list[AccountView], str]:
        """The accounts, and what is wrong with the watch, if anything is."""
        with self._lock:
            return list(self._accounts.values()), self._trouble

    def _follow(self) -> None:
        pause = FIRST_RETRY
        while not self._stopping.is_set():
            try:
                for kind, account in self._cluster.watch(self._version, seconds=WATCH_SECONDS):
                    self._take(kind, account)
                self._list()
                pause = FIRST_RETRY
            except PluginError as error:
                self._tell(f"{error} (shown is what was last seen)")
                self._stopping.wait(pause)
                pause = min(pause * 2, LAST_RETRY)
                self._try_list()

    def _try_list(self) -> None:
        with suppress(PluginError):
            self._list()

    def _list(self) -> None:
        accounts, version = self._cluster.listed()
        with self._lock:
            self._accounts = {account.name: account for account in accounts}
            self._version, self._trouble = version, ""
        self.changed.set()

    def _take(self, kind: str, account: AccountView) -> None:
        with self._lock:
            if kind == "DELETED":
                self._accounts.pop(account.name, None)
            else:
                self._accounts[account.name] = account
        self.changed.set()

    def _tell(self, trouble: str) -> None:
        with self._lock:
            self._trouble = trouble
        self.changed.set()
