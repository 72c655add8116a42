"""Checks regularly, whatever events say: the list of accounts, the access files, folders without an account."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Protocol

import httpx2

from oauth_pool_operator.account.spec import PLURAL, Account
from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.errors import StoreFailed
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

RELIST_SECONDS = 300.0
# How long a folder is kept whose account was deleted with `deletionPolicy: Retain`, or is gone in any other way.
RETENTION = timedelta(days=7)
SWEEP_SECONDS = 24 * 3600.0
# A wall clock that has gained more than this against a clock that nobody sets is not believed when it says that it is time to
# remove what cannot be had again.
MOST_DRIFT_SECONDS = 60.0


class Roll(Protocol):
    """The accounts as last observed; the controller keeps them."""

    @property
    def uids(self) -> Collection[str]: ...

    def known(self, uid: str) -> Account | None: ...

    def observe(self, kind: str | None, body: dict[str, Any]) -> None: ...

    def observe_gone(self, uid: str) -> None: ...

    def wake(self, uid: str) -> None: ...

    def why_deaf(self) -> str: ...


class Upkeep:
    """Start `run`; whoever leads calls `look_at_access_files` beside."""

    def __init__(
        self,
        roll: Roll,
        *,
        cluster: Cluster,
        store: Store,
        leadership: Leadership,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roll = roll
        self._cluster = cluster
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._elapsed = elapsed
        self._began, self._next_sweep = clock().timestamp() - elapsed(), elapsed()
        self._said = ""
        self.orphans = 0  # folders that no account owns, as last counted

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(RELIST_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Compare with the list; and whoever leads looks after what no account of it owns."""
        self._say_if_deaf()
        try:
            listed = await self._compare()
            if self._leadership.leads:
                await self._look_at_folders(listed)
        except (httpx2.HTTPError, TimeoutError) as error:
            log.debug("the accounts were not compared with the list: %s", describe(error))
        except StoreFailed as error:
            log.warning("the folders of the state volume were not checked: %s", error)
        except Exception as error:  # noqa: BLE001 (a look that fails ends nothing: the next one is soon)
            log.error("the accounts and their folders were not checked: unexpected %s", type(error).__name__)

    async def look_at_access_files(self) -> None:
        """Have accounts looked at whose access files somebody touched."""
        try:
            touched = await in_thread(self._store.touched_access_files)
        except StoreFailed as error:
            log.warning("the access files were not checked: %s", error)
            return
        except Exception as error:  # noqa: BLE001 (as above)
            log.error("the access files were not checked: unexpected %s", type(error).__name__)
            return
        for uid in touched:
            if (account := self._roll.known(uid)) is not None:
                log.warning("%s: somebody else touched its access file; checking it", account.name)
                self._roll.wake(uid)

    def _say_if_deaf(self) -> None:
        deaf = self._roll.why_deaf()
        if deaf and not self._said:
            log.error(
                "%s: new accounts and pasted codes are noticed late; the Role needs list and watch on %s", deaf, PLURAL
            )
        self._said = deaf

    async def _compare(self) -> dict[str, bool]:
        """Observe what the watch has missed. Kopf, for one, tells of no deletion that fell between two of its watches.

        Returns the UIDs of all accounts, and whether they are being deleted.
        """
        before, listed = set(self._roll.uids), dict[str, bool]()

        def see(body: dict[str, Any]) -> None:
            metadata = body["metadata"]
            listed[metadata["uid"]] = "deletionTimestamp" in metadata
            known = self._roll.known(metadata["uid"])
            if known is None or known.resource_version != metadata["resourceVersion"]:
                self._roll.observe(None, body)

        await self._cluster.show_all(see)
        for uid in before - listed.keys():
            if (account := self._roll.known(uid)) is not None:
                log.warning("%s: it is gone, but the watch did not say so", account.name)
                self._roll.observe_gone(uid)
        return listed

    async def _look_at_folders(self, listed: dict[str, bool]) -> None:
        """Note since when a folder is nobody's, and remove those that were for long enough."""
        namespace, owned = self._cluster.namespace, {*listed, *self._roll.uids}
        staying = {uid for uid, is_going in listed.items() if not is_going}
        await in_thread(self._store.end_retention, staying)
        left = await in_thread(self._store.left_behind, owned)
        self.orphans = len(left)
        for uid, one in left.items():
            if one.since is None and one.is_of(namespace):
                log.warning(
                    "folder %s: no account owns it (%s); it is removed in %d days unless somebody adopts it",
                    *(uid, f"it was {one.name}'s" if one.name else "its owner is unknown", RETENTION.days),
                )
                await in_thread(self._store.retain, uid, one.retained(namespace, self._clock()))
        if self._elapsed() >= self._next_sweep and self._clock_is_believed():
            self._next_sweep = self._elapsed() + SWEEP_SECONDS
            for gone in await in_thread(self._store.sweep, self._clock() - RETENTION, spare=owned):
                log.info("%s: gone for %d days; what was kept of it is removed", gone.name, RETENTION.days)

    def _clock_is_believed(self) -> bool:
        """It has not jumped ahead since this operator began."""
        return self._clock().timestamp() - self._elapsed() - self._began < MOST_DRIFT_SECONDS
