"""What this operator has published, kept as it is to be: loaded when it begins to lead, and looked at from then on.

Somebody may edit or delete what we wrote, and Kopf tells of no deletion that fell between two of its watches.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx2

from oauth_pool_operator.account.backoff import Backoff
from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.cluster.sealed_tokens import SealedTokens
from oauth_pool_operator.upkeep import Upkeep

log = logging.getLogger(__name__)

REPAIR_SECONDS = 10.0


class Keeper:
    """Start `run`. `tokens` is None when they reach the proxies by a volume."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        index: IndexPublisher,
        tokens: SealedTokens | None,
        leadership: Leadership,
        upkeep: Upkeep,
        look_at_all: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._tokens = tokens
        self._leadership = leadership
        self._upkeep = upkeep
        self._look_at_all = look_at_all

    async def run(self) -> None:
        """Load when this operator begins to lead, and look whether all is still what we wrote; until cancelled."""
        while True:
            await self._leadership.wait_until(True)
            await self._load()
            await self._upkeep.look()
            self._look_at_all()  # somebody else may have led since we last looked at them
            while not await self._leadership.ends_within(REPAIR_SECONDS):
                await self._repair()
            self._index.unload()
            if self._tokens is not None:
                self._tokens.unload()

    async def _load(self) -> None:
        backoff = Backoff(first=timedelta(seconds=0.5), longest=timedelta(seconds=5))
        while True:
            try:
                accounts = await self._cluster.account_names()
                if self._tokens is not None:
                    await self._compare_proxies(self._tokens)
                    await self._tokens.load(accounts)
                await self._index.load(accounts)
                return
            except httpx2.HTTPError as error:
                log.warning("what was published cannot be read yet: %s", describe(error))
            await asyncio.sleep(backoff.pause().total_seconds())

    async def _compare_proxies(self, tokens: SealedTokens) -> None:
        before = tokens.proxies.uids
        tokens.proxies.compare(before, await self._cluster.listed_proxies())

    async def _repair(self) -> None:
        if not self._leadership.leads:
            return
        await self._look("the pool index", self._index.repair())
        if self._tokens is None:
            await self._upkeep.look_at_access_files()
        else:
            await self._look("the list of proxies", self._compare_proxies(self._tokens))
            await self._look("the sealed tokens", self._tokens.repair())

    async def _look(self, what: str, looking: Awaitable[None]) -> None:
        """One that fails costs the others nothing."""
        try:
            await looking
        except (httpx2.HTTPError, TimeoutError) as error:
            log.debug("%s: not checked: %s", what, describe(error))
        except Exception as error:  # noqa: BLE001 (a look that fails ends nothing: the next one is soon)
            log.error("%s: not checked: unexpected %s", what, type(error).__name__)
