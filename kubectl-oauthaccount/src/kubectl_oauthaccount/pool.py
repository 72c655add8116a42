"""The accounts as last seen, kept up to date by a watch in the background, and how old that is when the watch fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from kubectl_oauthaccount.display import span
from kubectl_oauthaccount.errors import PluginError

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView
    from kubectl_oauthaccount.cluster import Cluster

WATCH_SECONDS = 290.0
FIRST_RETRY, LAST_RETRY = 0.5, 10.0
# A watch has a bookmark about once a minute, and is given up 90 s after the last: what is older is told to be so.
QUIET_SECONDS = 100.0


class Pool:
    """Kept by a thread that lists and watches, and lists again when the watch ends, however it ends."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        selector: str | None = None,
        everywhere: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace = None if everywhere else cluster.namespace
        self.changed = threading.Event()
        self._cluster, self._selector, self._everywhere = cluster, selector, everywhere
        self._clock = clock
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, str], AccountView] = {}
        self._trouble = ""
        self._heard = clock()
        self._version = ""

    def start(self) -> None:
        """List, so that errors show at once; then follow in the background."""
        self.reload()
        threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Follow no longer than until the next event."""
        self._stopping.set()

    def state(self) -> tuple[list[AccountView], str]:
        """The accounts, and what is wrong with the watch, if anything is: why, and how old they are."""
        with self._lock:
            silent = self._clock() - self._heard
            trouble = self._trouble or ("the API server is silent" if silent > QUIET_SECONDS else "")
            old = f"{trouble} (this is the state of {span(timedelta(seconds=silent))} ago)" if trouble else ""
            return list(self._accounts.values()), old

    def _follow(self) -> None:
        pause, is_listed = FIRST_RETRY, True
        while not self._stopping.is_set():
            try:
                if not is_listed:
                    self.reload()
                is_listed = False
                for kind, account in self._cluster.watch(
                    self._version, seconds=WATCH_SECONDS, selector=self._selector, everywhere=self._everywhere
                ):
                    self._take(kind, account)
                    pause = FIRST_RETRY
            except Exception as error:  # noqa: BLE001 (whatever a library raises: a screen that stands still looks alive)
                what = (
                    str(error)
                    if isinstance(error, PluginError)
                    else f"the watch failed ({type(error).__name__}) and is being restarted"
                )
                self._tell(what)
            self._stopping.wait(pause)  # also after a watch that ended well: some server may end each at once
            pause = min(pause * 2, LAST_RETRY)

    def reload(self) -> None:
        """List the accounts anew."""
        accounts, version = self._cluster.listed(selector=self._selector, everywhere=self._everywhere)
        with self._lock:
            self._accounts = {(account.namespace, account.name): account for account in accounts}
            self._version, self._trouble, self._heard = version, "", self._clock()
        self.changed.set()

    def _take(self, kind: str, account: AccountView) -> None:
        with self._lock:
            self._heard = self._clock()
            if kind == "BOOKMARK":
                return
            if kind == "DELETED":
                self._accounts.pop((account.namespace, account.name), None)
            else:
                self._accounts[account.namespace, account.name] = account
        self.changed.set()

    def _tell(self, trouble: str) -> None:
        with self._lock:
            self._trouble = trouble
        self.changed.set()
