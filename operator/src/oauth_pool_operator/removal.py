"""Removes what the operator holds for a deleted account, in the order in which it must go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import httpx2

from oauth_pool_operator import metrics
from oauth_pool_operator.account.documents import Retained
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.spec import FINALIZER, Account
from oauth_pool_operator.cluster.answers import describe, is_gone
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.delivery import Delivery
from oauth_pool_operator.errors import ExchangeRejected, StoreFailed, TokenEndpointUnavailable
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.rotations import Rotations
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

# After this time, each step gets one last attempt, and the object goes: within 30 s in all, whatever fails or hangs.
REMOVAL_SECONDS = 20.0
REMOVAL_RETRY = timedelta(seconds=2)
# No step may take all the time of the others.
STEP_SECONDS = 9.0


class Step(NamedTuple):
    """One thing to remove; `last_seconds` is how long its last attempt may take."""

    do: Callable[[Account], Awaitable[None]]
    last_seconds: float = 1.0


class Removal:
    """Removes any account. `elapsed` is a clock in seconds that nobody sets."""

    def __init__(
        self,
        *,
        store: Store,
        endpoints: Mapping[str, TokenEndpoint],
        rotations: Rotations,
        delivery: Delivery,
        index: IndexPublisher,
        cluster: Cluster,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float],
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._rotations = rotations
        self._delivery = delivery
        self._index = index
        self._cluster = cluster
        self._clock = clock
        self._elapsed = elapsed

    async def run(self, account: Account, memory: Memory) -> datetime:
        """Let the object go; returns NEVER when that is done, else when to try again."""
        if memory.removal_began is None:
            memory.removal_began = self._elapsed()
        if (rotation := self._rotations.of(account.uid)) is not None:
            rotation.call_off()
        for step in self._steps(account):
            left = memory.removal_began + REMOVAL_SECONDS - self._elapsed()
            try:
                async with asyncio.timeout(min(STEP_SECONDS, left) if left > 0 else step.last_seconds):
                    await step.do(account)
            except (httpx2.HTTPError, TokenEndpointUnavailable, StoreFailed, TimeoutError) as error:
                why = describe(error) if isinstance(error, httpx2.HTTPError) else str(error) or "no answer in time"
                if left > 0:
                    log.warning("%s: its removal is not complete: %s", account.name, why)
                    return self._clock() + REMOVAL_RETRY
                log.error("%s: released although its removal is not complete: %s", account.name, why)
        self._rotations.forget(account.uid)
        metrics.forget(account.name)
        await self._remove_finalizer(account)
        log.info("%s: removed", account.name)
        return NEVER

    def _steps(self, account: Account) -> tuple[Step, ...]:
        """Index first, so that no proxy picks it; then the access token, the grant, and the state."""
        first = (Step(self._index.withdraw), Step(self._delivery.withdraw))
        if account.spec.deletion_policy == "Revoke":
            return (*first, Step(self._revoke, last_seconds=3), Step(self._remove_state))
        return (*first, Step(self._retain))

    async def _remove_state(self, account: Account) -> None:
        await in_thread(self._store.remove_state, account.uid)

    async def _retain(self, account: Account) -> None:
        """A token that is on its way may come later: it is stored where the note is by then."""
        spec = account.spec
        retained = Retained(account.name, account.namespace, spec.provider, spec.grant, self._clock())
        await in_thread(self._store.end_import, account.uid, None)  # it was never this account's
        await in_thread(self._store.retain, account.uid, retained)

    async def _revoke(self, account: Account) -> None:
        """Raises what is worth another try; a refusal is not, nor is a grant that cannot be read or is dead."""
        if (rotation := self._rotations.of(account.uid)) is not None:
            rotation.give_back()  # also when its answer comes after all this
            await self._rotations.ended(account.uid)
            if rotation.was_given_back:
                return
        try:
            for token in await self._tokens(account):
                await self._endpoints[account.spec.provider].revoke(token, account.spec.grant)
        except (ExchangeRejected, StoreFailed) as error:
            log.warning("%s: its grant was not revoked at the provider: %s", account.name, error)

    async def _tokens(self, account: Account) -> list[str]:
        credential = await in_thread(self._store.credential, account.uid)
        if credential is None or account.spec.provider not in self._endpoints:
            return []
        lives = credential.refresh_token is not None and credential.dead is None
        return [*credential.to_revoke, *([credential.refresh_token] if lives and credential.refresh_token else ())]

    async def _remove_finalizer(self, account: Account) -> None:
        if FINALIZER not in account.finalizers:
            return
        rest = [finalizer for finalizer in account.finalizers if finalizer != FINALIZER]
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self._cluster.patch_metadata(account, {"finalizers": rest or None})
        except httpx2.HTTPError as error:
            if not is_gone(error):
                raise
