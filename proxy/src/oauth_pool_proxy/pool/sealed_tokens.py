"""Keeps the access tokens of the pool's accounts up to date where they come sealed, through ConfigMaps.

The pool index says which generation is due, and a token is taken only if it is the one that the index says. Until it is
there the access token at hand is used as long as it is valid. Nothing here waits inside a request, and nobody is asked:
what the ConfigMaps hold is opened when it arrives, a few milliseconds at a time.
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
"""How long tokens are opened before others have a turn."""
UNREADY_SECONDS = 30.0
"""How often a pool that is not ready is looked at without news: the tokens that it waits for may have ended."""

_NOT_READ = "the sealed access tokens have not been read yet"
_TELLS_OF_KEY = frozenset((Why.MISSING, Why.NOT_SEALED, Why.OTHER_KEY))
"""Where the operator may not know this proxy, or not its key."""


@dataclass(slots=True)
class _Due(Due):
    tried: tuple[str, ...] | None = None
    """The entries that were looked at, none of which was the one."""
    why: Why = Why.MISSING
    words: str = _NOT_READ


class SealedTokens:
    """`pod` is the name under which tokens are sealed to this proxy.

    `clock` is any clock that only goes forward; `wall_clock` is what the ends of access tokens are compared with.
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
        """Told how many accounts have a token, when that has changed."""
        self.on_doubt: Callable[[], None] = lambda: None
        """Told when the operator seems not to know this proxy's key."""
        self._parts: Parts | None = None
        self._due = DueTokens(_Due)
        self._held = 0
        self._has_doubts = False
        self._news = asyncio.Event()

    def close(self) -> None:
        """Nothing of it is left when `run` has ended."""

    def index_changed(self) -> None:
        self._due.index_changed(self._pool.accounts, self._clock())
        self._news.set()

    def parts_changed(self, parts: Parts) -> None:
        """What the ConfigMaps hold now. An account may stand in two of them for a moment, and either may be the old one."""
        self._parts = parts
        self._news.set()

    async def run(self) -> None:
        """Open what is due, for ever."""
        while True:
            self._news.clear()  # before opening: what comes meanwhile has its turn next
            next_look = await self.open_due()
            try:
                async with asyncio.timeout(None if next_look is None else max(next_look - self._clock(), 0)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def open_due(self) -> float | None:
        """Open every token that is due and there, once. Returns when to look again if there is no news."""
        turn_ends = time.perf_counter() + SLICE_SECONDS
        for uid, due in list(self._due.all().items()):
            account = self._pool.account(uid)
            if account and self._due.get(uid) is due:  # else the index changed while others had their turn
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
        """After a 401: whether the account has a newer access token now than the one that was refused. Waits for nobody."""
        if due := self._due.get(account.uid):
            self._try(account, due)
        return account.token is not None and account.token.generation > refused.generation

    def unopened(self) -> Mapping[str, int]:
        """How many access tokens the index says and this proxy does not have, by the reason."""
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
        """A proxy that starts and has no token must not replace one that has them. Once it is ready it stays so."""
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
    """Whether the index says that the account has an access token. One that has ended is none."""
    entry = account.entry
    return entry.generation > 0 and (entry.expires is None or entry.expires.timestamp() > now)
