"""What both ways in which access tokens come have in common, files and sealed tokens: which are due, and when one is late."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from oauth_pool_proxy.pool.account import AccessToken, Account
from oauth_pool_proxy.pool.index import IndexEntry

log = logging.getLogger(__name__)

PATIENCE = 90.0
"""Seconds that an access token may be late before somebody should know."""


class AccessTokens(Protocol):
    """Keeps the access tokens of the pool's accounts up to date."""

    def index_changed(self) -> None:
        """Find out which access tokens are due now. Called after every swap of the pool."""

    async def run(self) -> None:
        """Take what is due as it comes, for ever."""

    async def reread(self, account: Account, refused: AccessToken) -> bool:
        """After a 401: whether the account has a newer access token now than the one that was refused."""

    def close(self) -> None:
        """Let go of what `run` does not."""


@dataclass(slots=True)
class Due:
    """An access token that is not yet what the index says."""

    generation: int
    fingerprint: str
    since: float
    is_reported: bool = False


D = TypeVar("D", bound=Due)


class DueTokens(Generic[D]):
    """The accounts whose access token is not yet what the index says. `due` makes a new one of its three first fields."""

    def __init__(self, due: Callable[[int, str, float], D]) -> None:
        self._new = due
        self._seen: dict[str, IndexEntry] = {}
        self._due: dict[str, D] = {}
        self._settled: dict[str, tuple[int, str]] = {}

    def index_changed(self, accounts: Iterable[Account], now: float) -> set[str]:
        """Costs little where nothing changed. Returns the uids of the accounts that are gone."""
        before, self._seen = self._seen, {account.uid: account.entry for account in accounts}
        gone = before.keys() - self._seen.keys()
        for uid in gone:
            self._due.pop(uid, None)
            self._settled.pop(uid, None)
        for uid, entry in self._seen.items():
            if before.get(uid) is not entry:
                self._entry_changed(uid, entry, now)
        return gone

    def _entry_changed(self, uid: str, entry: IndexEntry, now: float) -> None:
        wanted = (entry.generation, entry.fingerprint)
        due = self._due.get(uid)
        if entry.generation == 0 or self._settled.get(uid) == wanted:
            self._due.pop(uid, None)
        elif due is None or (due.generation, due.fingerprint) != wanted:
            self._due[uid] = self._new(*wanted, now)

    def get(self, uid: str) -> D | None:
        return self._due.get(uid)

    def all(self) -> dict[str, D]:
        """By the accounts' uids."""
        return self._due

    def settle(self, uid: str) -> None:
        """The account has what the index says."""
        due = self._due.pop(uid)
        self._settled[uid] = (due.generation, due.fingerprint)


def is_late(due: Due, now: float) -> bool:
    return now - due.since >= PATIENCE


def report_late(account: Account, due: Due, why: str) -> None:
    """Says so once."""
    if not due.is_reported:
        due.is_reported = True
        fields = {"account": account.name, "generation": due.generation, "error": why}
        log.warning("access token is late", extra={"fields": fields})
