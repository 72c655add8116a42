"""Reads the access tokens that the operator publishes, one file per account, on a volume mounted read-only.

The pool index says which generation is due. The file follows within moments, or within a minute on a network file system. Until
then the current access token is used as long as it is valid. Shortly before its expiry the file is checked even if the index
says nothing: the API server may be away while the operator goes on refreshing. An unreadable file affects only its own account.
A request waits here only for one read after a 401, and for a second at most.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oauth_pool_proxy.errors import TokenFileInvalid
from oauth_pool_proxy.pool.account import AccessToken, Account
from oauth_pool_proxy.pool.due_tokens import PATIENCE, Due, DueTokens, is_late, report_late
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.token_reader import TokenReader

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 5.0
LEISURELY_WAIT = 30.0
"""The interval between reads of a file that is late by more than `PATIENCE`."""

EXPIRY_MARGIN = 60.0
"""How long before an access token expires its file is checked without news from the index."""


@dataclass(slots=True)
class _Due(Due):
    next_poll: float = float("-inf")
    wait: float = FIRST_WAIT


class TokenFiles:
    """Keeps the access tokens of the pool's accounts up to date.

    `clock` is any monotonic clock. `wall_clock` is compared with the expiry of access tokens.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        reader: TokenReader | None = None,
    ) -> None:
        self._pool, self._clock, self._wall_clock = pool, clock, wall_clock
        self._reader = reader or TokenReader(folder)
        self._reader.on_late = self._came_late
        self._due = DueTokens(_Due)
        self._next_expiry_poll: dict[str, float] = {}
        self._news = asyncio.Event()

    def close(self) -> None:
        self._reader.close()

    def index_changed(self) -> None:
        """Find out which files are due now. Called after every swap of the pool. Costs little where nothing has changed."""
        for uid in self._due.index_changed(self._pool.accounts, self._clock()):
            self._next_expiry_poll.pop(uid, None)
        self._news.set()

    async def run(self) -> None:
        """Poll due files, forever."""
        while True:
            self._news.clear()  # before polling, so news that comes meanwhile is handled next
            polls = (await self.poll(), await self.poll_expiring())
            next_poll = min((poll for poll in polls if poll is not None), default=None)
            try:
                async with asyncio.timeout(None if next_poll is None else next_poll - self._clock()):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def poll(self) -> float | None:
        """Read every file whose poll is due, once. Returns when the next poll is."""
        for account in self._pool.accounts:
            due = self._due.get(account.uid)
            if due and due.next_poll <= self._clock():
                await self._poll_once(account, due)
        if not self._reader.hangs or any(account.token for account in self._pool.accounts):
            # A proxy that starts while its volume hangs must not replace one that has tokens.
            self._pool.is_ready = self._pool.is_loaded
        else:
            self._pool.waits_for = "the volume with the access tokens does not answer"
        return min((due.next_poll for due in self._due.all().values()), default=None)

    async def poll_expiring(self) -> float | None:
        """Look for successors of access tokens that expire soon. Returns when the next look is due."""
        held = [account for account in self._pool.accounts if account.token and self._due.get(account.uid) is None]
        return min([await self._poll_expiring_once(account) for account in held], default=None)

    async def reread(self, account: Account, refused: AccessToken) -> bool:
        """After a 401: whether the account now has a newer access token than the one that was refused.

        Takes a second at most. Requests that wait for the same account share one read.
        """
        if account.token and account.token.generation > refused.generation:
            return True
        await self._newer(account)
        return account.token is not None and account.token.generation > refused.generation

    async def _poll_once(self, account: Account, due: _Due) -> None:
        try:
            token = await self._reader.read(account.uid)
        except TokenFileInvalid as error:
            self._put_off(account, due, str(error))
            return
        if self._due.get(account.uid) is not due:
            return  # the index changed during the read, and a new poll is planned
        self._take(account, token)
        if self._due.get(account.uid):
            self._put_off(account, due, f"holds generation {token.generation}")

    async def _poll_expiring_once(self, account: Account) -> float:
        now, token = self._clock(), account.token
        assert token is not None
        if self._next_expiry_poll.get(account.uid, now) > now:
            return self._next_expiry_poll[account.uid]
        if self._remaining(token) <= EXPIRY_MARGIN:
            token = await self._newer(account) or token
        remaining = self._remaining(token)
        # Long after its expiry, it seems that it is no longer refreshed.
        least = LONGEST_WAIT if remaining > -PATIENCE else LEISURELY_WAIT
        self._next_expiry_poll[account.uid] = now + max(remaining - EXPIRY_MARGIN, least)
        return self._next_expiry_poll[account.uid]

    async def _newer(self, account: Account) -> AccessToken | None:
        """The account's new access token, if its file held a different one."""
        before = account.token
        with suppress(TokenFileInvalid):
            self._take(account, await self._reader.read(account.uid))
        return None if account.token is before else account.token

    def _came_late(self, uid: str, token: AccessToken) -> None:
        if account := self._pool.account(uid):
            self._take(account, token)

    def _take(self, account: Account, token: AccessToken) -> None:
        """Use the token from the account's file if the index announces it or it is newer than the current one."""
        due = self._due.get(account.uid)
        is_the_one = due is not None and (token.generation, token.fingerprint) == (due.generation, due.fingerprint)
        # Any newer token is better, even if it is not the announced one yet, or already ahead of the index.
        if is_the_one or account.token is None or token.generation > account.token.generation:
            account.adopt(token)
            self._next_expiry_poll.pop(account.uid, None)
            log.debug("access token read", extra={"fields": {"account": account.name, "generation": token.generation}})
        if due and is_the_one:
            self._due.settle(account.uid)

    def _remaining(self, token: AccessToken) -> float:
        return token.expires_at - self._wall_clock()

    def _put_off(self, account: Account, due: _Due, reason: str) -> None:
        now = self._clock()
        if is_late(due, now):
            due.wait = LEISURELY_WAIT
            report_late(account, due, f"access file {reason}")
        due.next_poll = now + due.wait
        due.wait = min(due.wait * 2, LONGEST_WAIT) if due.wait < LEISURELY_WAIT else LEISURELY_WAIT
