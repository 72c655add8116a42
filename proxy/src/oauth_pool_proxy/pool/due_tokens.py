"""Tracks which access tokens are due and which are late. Shared by both sources of tokens: files and sealed tokens."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from oauth_pool_proxy.pool.account import AccessToken, Account
from oauth_pool_proxy.pool.index import IndexEntry

log = logging.getLogger(__name__)

PATIENCE = 90.0
"""Seconds that an access token may be late before it is logged."""


class AccessTokens(Protocol):
    """Keeps the access tokens of the pool's accounts up to date."""

    def index_changed(self) -> None:
        """Find out which access tokens are due now. Called after every swap of the pool."""

    async def run(self) -> None:
        """Take due access tokens as they come, forever."""

    async def reread(self, account: Account, refused: AccessToken) -> bool:
        """After a 401: whether the account now has a newer access token than the one that was refused."""

    def close(self) -> None:
        """Release what `run` does not."""


@dataclass(slots=True)
class Due:
    """An access token that the index announces and the account does not have yet."""

    generation: int
    fingerprint: str
    since: float
    is_reported: bool = False


D = TypeVar("D", bound=Due)


class DueTokens(Generic[D]):
    """The accounts that do not have the announced access token yet. `due` builds an entry from its first three fields."""

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
        """All due tokens, by account uid."""
        return self._due

    def settle(self, uid: str) -> None:
        """The account now has the token that the index announces."""
        due = self._due.pop(uid)
        self._settled[uid] = (due.generation, due.fingerprint)


def is_late(due: Due, now: float) -> bool:
    return now - due.since >= PATIENCE


def report_late(account: Account, due: Due, why: str) -> None:
    """Log it once."""
    if not due.is_reported:
        due.is_reported = True
        fields = {"account": account.name, "generation": due.generation, "error": why}
        log.warning("access token is late", extra={"fields": fields})
