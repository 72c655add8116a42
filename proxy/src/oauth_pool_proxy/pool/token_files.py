"""Reads the access tokens that the operator publishes, one file per account, on a volume mounted read-only.

The pool index says which generation is due; the file follows within moments, or within a minute on a network file
system. Until then the access token at hand is used as long as it is valid. Close to its end its file is looked at even if the
index says nothing: the API server may be away while the operator goes on refreshing. A file that cannot be read costs its own
account and no other. Nothing here waits inside a request but one read after a 401.
"""

import asyncio
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from oauth_pool_proxy.errors import TokenFileInvalid
from oauth_pool_proxy.pool.index import Count, Instant
from oauth_pool_proxy.pool.pool import AccessToken, Account, Pool

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 5.0
PATIENCE = 90.0
"""How long a file may be late before somebody should know. After that it is looked for at a leisurely pace."""
LEISURELY_WAIT = 30.0

LOOK_AHEAD = 60.0
"""How long before the end of an access token its file is looked at without being told."""

_TOKEN = re.compile(r"[\x21-\x7e]+")  # it goes into a header as it is
_MOST_BYTES = 64 * 1024


class _File(msgspec.Struct):
    generation: Count
    access_token: str
    expires: Instant


_decoder = msgspec.json.Decoder(_File)


def fingerprint_of(access_token: str) -> str:
    return hashlib.sha256(access_token.encode()).hexdigest()[:16]


def read_token_file(path: Path) -> AccessToken:
    """The access token in this file, or `TokenFileInvalid`, whose message never contains what the file does."""
    try:
        # Not followed as a link and not waited for as a pipe: only the operator writes here, and it writes files.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise TokenFileInvalid(error.strerror or "cannot be read") from None
    if len(content) > _MOST_BYTES:
        raise TokenFileInvalid("is too long")
    try:
        fields = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError):
        raise TokenFileInvalid("is not the JSON of an access token") from None
    if not _TOKEN.fullmatch(fields.access_token):
        raise TokenFileInvalid("holds an access token that cannot be sent")
    fingerprint = fingerprint_of(fields.access_token)
    return AccessToken(fields.generation, fingerprint, fields.expires.timestamp(), fields.access_token, time.time())


@dataclass(slots=True)
class _Due:
    """A file that is not yet what the index says."""

    generation: int
    fingerprint: str
    since: float
    next_look: float
    wait: float = FIRST_WAIT
    is_reported: bool = False


class TokenFiles:
    """Keeps the access tokens of the pool's accounts up to date.

    `clock` is any clock that only goes forward; `wall_clock` is what the ends of access tokens are compared with.
    """

    def __init__(
        self, folder: Path, pool: Pool, clock: Callable[[], float], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._pool, self._clock, self._wall_clock = folder, pool, clock, wall_clock
        self._due: dict[str, _Due] = {}
        self._settled: dict[str, tuple[int, str]] = {}
        self._next_look_ahead: dict[str, float] = {}
        self._news = asyncio.Event()

    def index_changed(self) -> None:
        """Find out which files are due now. Called after every swap of the pool."""
        now = self._clock()
        accounts = {account.uid: account for account in self._pool.accounts}
        self._settled = {uid: settled for uid, settled in self._settled.items() if uid in accounts}
        self._due = {uid: due for uid, due in self._due.items() if uid in accounts}
        self._next_look_ahead = {uid: look for uid, look in self._next_look_ahead.items() if uid in accounts}
        for uid, account in accounts.items():
            wanted = (account.entry.generation, account.entry.fingerprint)
            due = self._due.get(uid)
            if account.entry.generation == 0 or self._settled.get(uid) == wanted:
                self._due.pop(uid, None)
            elif due is None or (due.generation, due.fingerprint) != wanted:
                self._due[uid] = _Due(*wanted, since=now, next_look=now)
        self._news.set()

    async def run(self) -> None:
        """Look for files that are due, for ever."""
        while True:
            self._news.clear()  # before looking: what comes meanwhile is looked at next
            looks = (await self.look(), await self.look_ahead())
            next_look = min((look for look in looks if look is not None), default=None)
            try:
                async with asyncio.timeout(None if next_look is None else next_look - self._clock()):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def look(self) -> float | None:
        """Read every file whose time has come, once. Returns when the next one's is."""
        for account in self._pool.accounts:
            due = self._due.get(account.uid)
            if due and due.next_look <= self._clock():
                await self._look_once(account, due)
        self._pool.is_ready = self._pool.is_loaded
        return min((due.next_look for due in self._due.values()), default=None)

    async def look_ahead(self) -> float | None:
        """Look for newer access tokens than those that end soon. Returns when the next one's time is."""
        held = [account for account in self._pool.accounts if account.token and account.uid not in self._due]
        return min([await self._look_ahead_once(account) for account in held], default=None)

    async def reread(self, account: Account, refused: AccessToken) -> bool:
        """After a 401: whether the account has a newer access token now than the one that was refused."""
        if account.token and account.token.generation > refused.generation:
            return True
        return await self._newer(account) is not None

    async def _look_once(self, account: Account, due: _Due) -> None:
        try:
            token = await self._read(account)
        except TokenFileInvalid as error:
            self._put_off(account, due, str(error))
            return
        if self._due.get(account.uid) is not due:
            return  # the index changed while we read; there is a new plan
        is_the_one = (token.generation, token.fingerprint) == (due.generation, due.fingerprint)
        # Anything newer than what we hold is better, even if it is not the one yet, or ahead of the index already.
        if is_the_one or account.token is None or token.generation > account.token.generation:
            self._adopt(account, token)
            log.debug("access token read", extra={"fields": {"account": account.name, "generation": token.generation}})
        if is_the_one:
            self._settled[account.uid] = (due.generation, due.fingerprint)
            del self._due[account.uid]
        else:
            self._put_off(account, due, f"holds generation {token.generation}")

    async def _look_ahead_once(self, account: Account) -> float:
        now, token = self._clock(), account.token
        assert token is not None
        if self._next_look_ahead.get(account.uid, now) > now:
            return self._next_look_ahead[account.uid]
        if self._remaining(token) <= LOOK_AHEAD:
            token = await self._newer(account) or token
        remaining = self._remaining(token)
        # Long after its end nobody seems to refresh it any more.
        least = LONGEST_WAIT if remaining > -PATIENCE else LEISURELY_WAIT
        self._next_look_ahead[account.uid] = now + max(remaining - LOOK_AHEAD, least)
        return self._next_look_ahead[account.uid]

    async def _newer(self, account: Account) -> AccessToken | None:
        """The access token in the account's file, if it is a later one than the account has; it has it then."""
        try:
            token = await self._read(account)
        except TokenFileInvalid:
            return None
        if account.token and token.generation <= account.token.generation:
            return None
        self._adopt(account, token)
        return token

    def _adopt(self, account: Account, token: AccessToken) -> None:
        account.adopt(token)
        self._next_look_ahead.pop(account.uid, None)

    def _remaining(self, token: AccessToken) -> float:
        return token.expires_at - self._wall_clock()

    def _put_off(self, account: Account, due: _Due, reason: str) -> None:
        now = self._clock()
        if now - due.since >= PATIENCE:
            due.wait = LEISURELY_WAIT
            if not due.is_reported:
                due.is_reported = True
                fields = {"account": account.name, "generation": due.generation, "error": f"access file {reason}"}
                log.warning("access token is late", extra={"fields": fields})
        due.next_look = now + due.wait
        due.wait = min(due.wait * 2, LONGEST_WAIT) if due.wait < LEISURELY_WAIT else LEISURELY_WAIT

    async def _read(self, account: Account) -> AccessToken:
        # In a thread, because a network file system that hangs must not stop the proxy.
        return await asyncio.to_thread(read_token_file, self._folder / f"{account.uid}.json")
