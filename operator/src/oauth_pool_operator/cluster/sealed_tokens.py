"""Seals access tokens to each proxy: which proxy needs which token, and when that is written.

The tokens of all accounts are in memory, so a proxy that joins gets them without a look at any account. What is already
published for the same token, proxy and key stays as it is: while nothing changes, and after a restart, nothing is written.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import httpx2

from oauth_pool_operator import metrics
from oauth_pool_operator.account.backoff import Backoff
from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.cluster.proxies import Proxies
from oauth_pool_operator.cluster.publisher import Publisher
from oauth_pool_operator.cluster.shards import MOST_SHARDS, Shards
from oauth_pool_operator.cluster.token_entry import (
    Seal,
    Token,
    TokenEntry,
    fitting,
    read,
    sealed,
    without_others,
    written,
)
from oauth_pool_operator.errors import TokensFull

log = logging.getLogger(__name__)

# A rollout brings proxies one by one, and so do nodes that come back: those that join within this time share one write.
JOIN_SECONDS = 0.1
# Nobody waits for what a proxy that is gone leaves behind.
LEAVE_SECONDS = 1.0
# Entries grow with each proxy. Ten ConfigMaps that begin small stay alike, and few have to move.
PREFERRED_BYTES = 64 * 1024
# Without it, 600 accounts that log in at once are three times as many patches, and take a quarter longer.
REST = 2.0


class TokenMaps(Protocol):
    """Where sealed tokens are kept: ConfigMaps, numbered from 0, as `cluster` offers them."""

    async def read_tokens(self, shard: int) -> SharedMap: ...

    async def write_tokens(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None: ...


class SealedTokens:
    """Keeps the ConfigMaps equal to what was published, for the proxies that there are. Start it with `run`."""

    def __init__(self, maps: TokenMaps, proxies: Proxies, seal: Seal, shards: Shards | None = None) -> None:
        self._shards = shards if shards is not None else Shards(preferred_bytes=PREFERRED_BYTES, may_move=True)
        self._publisher = Publisher(
            maps.read_tokens, maps.write_tokens, self._shards, what="tokens", sizes=metrics.TOKENS_BYTES, rest=REST
        )
        self.proxies = proxies
        self._seal = seal
        self._tokens: dict[str, Token] = {}  # by name of the account
        self._lacking: dict[str, int] = {}  # by name: how many proxies there was no room for
        self._changed, self._joined = asyncio.Event(), asyncio.Event()
        proxies.on_change = self._proxies_change
        # told, by its UID, of an account that does not fit any more, or fits again
        self.on_news: Callable[[str], None] = lambda _: None
        self.repair = self._publisher.repair

    @property
    def shards(self) -> int:
        """How many ConfigMaps are in use; may be called from any thread."""
        return self._publisher.shards

    async def load(self, accounts: Collection[str]) -> None:
        """Start from what is there; what is of accounts that do not exist any more is removed."""
        await self._publisher.load(accounts)
        self._proxies_change(True)

    def unload(self) -> None:
        """Somebody else may lead from now on, and have newer tokens: what is known here is not sealed after the next `load`."""
        self._publisher.unload()
        self._tokens.clear()
        self._lacking.clear()

    async def publish(self, account: Account, access: AccessFile) -> None:
        """Return when the ConfigMaps hold the token for every proxy. Raises what the write raised, `TimeoutError` before
        `load`, or `TokensFull`."""
        await self._publisher.be_loaded()
        token = self._tokens.get(account.name)
        if token is None or (token.uid, token.access) != (account.uid, access):
            token = self._tokens[account.name] = Token(account.name, account.uid, access)
        await asyncio.shield(self._put(token))
        if (lacking := self._lacking.get(account.name)) is not None:
            raise TokensFull(self._why_full(lacking), nobody_has_it=lacking == len(self.proxies.served))

    async def withdraw(self, account: Account) -> None:
        """Return when no proxy can have a token of this very object (a newer one of the same name stays)."""
        token = self._tokens.get(account.name)
        if token is not None and token.uid != account.uid:
            return
        self._tokens.pop(account.name, None)
        self._lacking.pop(account.name, None)
        await self._publisher.be_loaded()
        await asyncio.shield(self._publisher.remove(account.name))

    async def held(self, uid: str) -> AccessFile | None:
        """The token that proxies may use now, if this operator has published one."""
        return next((token.access for token in self._tokens.values() if token.uid == uid), None)

    async def run(self) -> None:
        """Write what is dirty, and whatever a change of the proxies makes so, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publisher.run(), name="tokens publisher")
            group.create_task(self._follow_proxies(), name="tokens for proxies")

    async def _follow_proxies(self) -> None:
        backoff = Backoff(longest=timedelta(seconds=5))
        while True:
            await self._wait_for_a_change()
            try:
                await self._seal_all()
                backoff.reset()
            except (httpx2.HTTPError, TimeoutError) as error:
                log.warning("tokens: some proxies lack some of them: %s", describe(error))
                await asyncio.sleep(backoff.pause().total_seconds())
                self._proxies_change(True)

    async def _wait_for_a_change(self) -> None:
        """Return when it is time to do something about it. What happens afterwards is a change of its own."""
        await self._changed.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._joined.wait()
        if self._joined.is_set():
            await asyncio.sleep(JOIN_SECONDS)
        self._changed.clear()
        self._joined.clear()

    def _proxies_change(self, somebody_joined: bool) -> None:
        self._changed.set()
        if somebody_joined:
            self._joined.set()

    async def _seal_all(self) -> None:
        """Every account for the proxies that there are now. The loop turns after each account: there may be many of both."""
        if not self._publisher.is_loaded:
            return  # `load` brings us back
        writes: list[asyncio.Future[Any]] = []
        async with self._publisher.gathering():
            for name in sorted({*self._publisher.keys, *self._tokens}):
                token, lacking = self._tokens.get(name), self._lacking.get(name)
                if token is not None:
                    writes.append(self._put(token))
                    if self._lacking.get(name) != lacking:
                        self.on_news(token.uid)
                elif (entry := read(self._publisher.value(name))) is not None:
                    # its account was not looked at yet, or cannot be: what it has for these proxies stays
                    rest = without_others(entry, self.proxies.served)
                    if len(rest.sealed) < len(entry.sealed):
                        writes.append(self._put_entry(name, rest))
                await asyncio.sleep(0)
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _put(self, token: Token) -> asyncio.Future[Any]:
        """To those proxies that there is room for, the oldest first: who has tokens keeps getting them."""
        proxies, before = self.proxies.served, read(self._publisher.value(token.name))
        fit = fitting(token, proxies, self._publisher.largest(token.name))
        if len(fit) < len(proxies):
            self._lacking[token.name] = len(proxies) - len(fit)
        else:
            self._lacking.pop(token.name, None)
        if proxies and not fit and before is not None and before.uid == token.uid:
            return self._put_entry(token.name, without_others(before, proxies))  # better an older token than none
        return self._put_entry(token.name, sealed(token, fit, before, self._counted))

    def _put_entry(self, name: str, entry: TokenEntry) -> asyncio.Future[Any]:
        if not entry.sealed:
            return self._publisher.remove(name)
        return self._publisher.put(name, written(entry))

    def _counted(self, public_key: bytes, plaintext: bytes, aad: bytes) -> bytes:
        metrics.TOKENS_SEALED.inc()
        return self._seal(public_key, plaintext, aad)

    def _why_full(self, lacking: int) -> str:
        accounts, proxies = len(self._tokens), len(self.proxies.served)
        return (
            f"the sealed tokens are full: {accounts} accounts times {proxies} proxies in {MOST_SHARDS} ConfigMaps of "
            f"{self._shards.most_bytes // 1024} KiB, and {lacking} of the proxies lack this account's; run fewer proxies, delete "
            'accounts, run a second pool in another namespace, or share a volume (tokens = "volume")'
        )
