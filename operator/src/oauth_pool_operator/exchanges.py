"""Exchanges with token endpoints: in turn with those of other accounts, and the account is not deaf meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx2

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.facts import NEVER, Facts, Trouble
from oauth_pool_operator.backoff import FIRST_RETRY, Backoff
from oauth_pool_operator.errors import NotInCharge, StoreFailed, TokenEndpointUnavailable
from oauth_pool_operator.memory import Memory
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.publication import Publication

Obtain = Callable[[Facts], Coroutine[Any, Any, Facts]]

# How long an exchange in flight may keep an account that was deleted meanwhile.
LAST_EXCHANGE_SECONDS = 10.0


class Exchanges:
    """Carries them out, one at a time for each account."""

    def __init__(self, *, throttle: Throttle, publication: Publication, clock: Callable[[], datetime]) -> None:
        self._throttle = throttle
        self._publication = publication
        self._clock = clock
        self._unsaved: dict[str, Trouble] = {}  # by UID: why the answer of a token endpoint is not on the disk

    async def run(self, facts: Facts, memory: Memory, obtain: Obtain) -> Facts:
        """What is obtained; `facts` as they were if nothing may be, or nobody wants it any more.

        A suspension, a cooldown or a deletion does not wait for a slow token endpoint, nor for a full disk. What proxies
        are told meanwhile is about the token that is stored, so its file comes first: a kill may have come between the two.
        """
        if facts.is_unread:
            return facts
        # should that fail, the token is obtained all the same, and the index goes on naming the one that is in the file
        facts = await self._publication.write_access_file(facts, memory)
        request = asyncio.create_task(self._in_turn(facts, memory, obtain))
        memory.news.clear()
        try:
            while not await _comes_first(memory.news.wait(), request):
                memory.news.clear()
                facts = replace(facts, account=memory.newest(facts.account), now=self._clock())
                facts = replace(facts, trouble=self._unsaved.get(facts.account.uid))
                if facts.account.deleting:
                    memory.removal_began = memory.removal_began or self._clock()
                    await asyncio.wait({request}, timeout=LAST_EXCHANGE_SECONDS)
                    break
                with suppress(httpx2.HTTPError, TimeoutError):
                    facts = await self._publication.update_index(facts)
                    memory.latest = memory.newest(await self._publication.report(facts))
            return await request if request.done() else facts
        except NotInCharge:
            return facts
        finally:
            request.cancel()
            self._unsaved.pop(facts.account.uid, None)

    def put_off(
        self,
        backoff: Backoff,
        reason: str,
        error: TokenEndpointUnavailable,
        facts: Facts,
        *,
        earliest: timedelta = FIRST_RETRY,
        latest: datetime | None = None,
    ) -> Trouble:
        """Later, and if the provider has had enough of us, then all its accounts."""
        trouble = backoff.failed(reason, error, facts.now, is_stalled=False, earliest=earliest, latest=latest)
        if error.is_throttled:
            self._throttle.hold(facts.account.spec.provider, trouble.retry_at)
        return trouble

    async def tell_unsaved(self, facts: Facts, error: StoreFailed) -> None:
        """An answer of the token endpoint waits in memory for the disk: a person should know."""
        trouble = Trouble(c.STORAGE_UNAVAILABLE, f"{error}; tried again every second", NEVER, is_stalled=True)
        self._unsaved[facts.account.uid] = trouble
        with suppress(httpx2.HTTPError):
            await self._publication.report(replace(facts, trouble=trouble))

    async def _in_turn(self, facts: Facts, memory: Memory, obtain: Obtain) -> Facts:
        """Obtain when it is this account's turn, unless nobody wants that any more."""
        async with self._throttle.turn(facts.account.spec.provider, facts.account.uid):
            account = memory.newest(facts.account)
            if account.spec.suspend or account.deleting:
                return facts
            return await obtain(replace(facts, now=self._clock()))


async def _comes_first(news: Coroutine[Any, Any, object], request: asyncio.Task[Facts]) -> bool:
    """Wait for either; True when it was the request."""
    waiting = asyncio.create_task(news)
    try:
        await asyncio.wait({request, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return request.done()
