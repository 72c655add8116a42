"""Keeps the access tokens of the pool's accounts up to date where they come sealed, through ConfigMaps.

The pool index says which generation is due, and only that token is taken. Until it arrives, the current access token is used
as long as it is valid. No request ever waits here, and nothing is fetched: tokens in the ConfigMaps are opened when they arrive,
for a few milliseconds at a time.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from oauth_pool_proxy.pool.account import AccessToken, Account
from oauth_pool_proxy.pool.config_maps import Parts
from oauth_pool_proxy.pool.due_tokens import PATIENCE, Due, DueTokens, is_late, report_late
from oauth_pool_proxy.pool.key_pair import KeyPair
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.sealed_entry import ORDER, SealedTokenRefused, Why, open_entry

log = logging.getLogger(__name__)

CONFIG_MAP = "oauth-tokens"
WHAT = "the ConfigMap of sealed access tokens"
GONE = "a ConfigMap of sealed access tokens is gone; those that this proxy has are used until they end"

SLICE_SECONDS = 0.003
"""How long tokens are opened before other tasks get a turn."""
UNREADY_SECONDS = 30.0
"""How often a pool that is not ready is checked without news: the tokens that it waits for may have expired."""

_NOT_READ = "the sealed access tokens have not been read yet"
_TELLS_OF_KEY = frozenset((Why.MISSING, Why.NOT_SEALED, Why.OTHER_KEY))
"""Reasons that suggest that the operator does not know this proxy, or not its key."""


@dataclass(slots=True)
class _Due(Due):
    tried: tuple[str, ...] | None = None
    """The entries already tried without success."""
    why: Why = Why.MISSING
    words: str = _NOT_READ


class SealedTokens:
    """`pod` is the name under which tokens are sealed to this proxy.

    `clock` is any monotonic clock. `wall_clock` is compared with the expiry of access tokens.
    """

    def __init__(
        self,
        pool: Pool,
        pod: str,
        keys: KeyPair,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool, self._pod, self._keys = pool, pod, keys
        self._clock, self._wall_clock = clock, wall_clock
        self.on_held: Callable[[int], None] = lambda held: None
        """Called with the number of accounts that have a token, when it changes."""
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when the operator seems not to know this proxy's key."""
        self._parts: Parts | None = None
        self._due = DueTokens(_Due)
        self._held = 0
        self._has_doubts = False
        self._news = asyncio.Event()

    def close(self) -> None:
        """Nothing to release: `run` leaves nothing behind."""

    def index_changed(self) -> None:
        self._due.index_changed(self._pool.accounts, self._clock())
        self._news.set()

    def parts_changed(self, parts: Parts) -> None:
        """Take the new contents of the ConfigMaps. An account may be in two of them for a moment; either may be out of date."""
        self._parts = parts
        self._news.set()

    async def run(self) -> None:
        """Open due tokens, forever."""
        while True:
            self._news.clear()  # before opening, so news that comes meanwhile is handled next
            next_look = await self.open_due()
            try:
                async with asyncio.timeout(None if next_look is None else max(next_look - self._clock(), 0)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def open_due(self) -> float | None:
        """Open every due token that has arrived, once. Returns when to look again if there is no news."""
        turn_ends = time.perf_counter() + SLICE_SECONDS
        for uid, due in list(self._due.all().items()):
            account = self._pool.account(uid)
            if account and self._due.get(uid) is due:  # else the index changed while other tasks ran
                self._try(account, due)
            if time.perf_counter() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.perf_counter() + SLICE_SECONDS
        self._note_held()
        self._note_readiness()
        next_look = self._note_late()
        if self._has_doubts:
            self._has_doubts = False
            self.on_doubt()
        return next_look

    async def reread(self, account: Account, refused: AccessToken) -> bool:
        """After a 401: whether the account now has a newer access token than the one that was refused. Does not wait."""
        if due := self._due.get(account.uid):
            self._try(account, due)
        return account.token is not None and account.token.generation > refused.generation

    def unopened(self) -> Mapping[str, int]:
        """How many announced access tokens this proxy does not have, by reason."""
        counts = Counter(due.why for due in self._due.all().values())
        return {why.value: counts[why] for why in Why}

    def _try(self, account: Account, due: _Due) -> None:
        if self._parts is None:
            return
        entries = tuple(part[account.name] for part in self._parts if account.name in part)
        if entries == due.tried:
            return
        due.tried = entries
        refusal = SealedTokenRefused(Why.MISSING, "the operator has not sealed it yet")
        for entry in entries:
            try:
                token = open_entry(entry, account, self._pod, self._keys)
            except SealedTokenRefused as error:
                refusal = max(refusal, error, key=lambda one: ORDER.index(one.why))
            else:
                self._take(account, token)
                return
        due.why, due.words = refusal.why, str(refusal)
        self._has_doubts |= due.why in _TELLS_OF_KEY

    def _take(self, account: Account, token: AccessToken) -> None:
        account.adopt(token)
        self._due.settle(account.uid)
        log.debug("access token opened", extra={"fields": {"account": account.name, "generation": token.generation}})

    def _note_held(self) -> None:
        held = self._pool.tokens_held
        if held != self._held:
            self._held = held
            self.on_held(held)

    def _note_readiness(self) -> None:
        """A starting proxy without tokens must not replace one that has them. Once ready, it stays ready."""
        pool, now = self._pool, self._wall_clock()
        if pool.is_ready or not pool.is_loaded:
            return
        named = sum(1 for account in pool.accounts if _names_a_token(account, now))
        if not named or (self._parts is not None and self._held):
            pool.is_ready = True
        elif self._parts is None:
            pool.waits_for = _NOT_READ
        else:
            words = Counter(due.words for due in self._due.all().values()).most_common(1)
            why = words[0][0] if words else "they have ended"
            pool.waits_for = f"no access token could be opened yet, of {named} that the pool index names: {why}"

    def _note_late(self) -> float | None:
        now, next_look = self._clock(), []
        for uid, due in self._due.all().items():
            if not is_late(due, now):
                next_look.append(due.since + PATIENCE)
            elif not due.is_reported and (account := self._pool.account(uid)):
                report_late(account, due, due.words)
                self._has_doubts = True
        if not self._pool.is_ready:
            next_look.append(now + UNREADY_SECONDS)
        return min(next_look, default=None)


def _names_a_token(account: Account, now: float) -> bool:
    """Whether the index announces an access token for the account. An expired one does not count."""
    entry = account.entry
    return entry.generation > 0 and (entry.expires is None or entry.expires.timestamp() > now)
