"""A deleted account, from the first look until it may go: what is held of it, in the order in which it must go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

import httpx2

from oauth_pool_operator import metrics
from oauth_pool_operator.account.facts import NEVER
from oauth_pool_operator.account.spec import FINALIZER, Account
from oauth_pool_operator.cluster.api import Cluster, describe, is_gone
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.credentials import Credentials
from oauth_pool_operator.errors import ExchangeRejected, StoreFailed, TokenEndpointUnavailable
from oauth_pool_operator.memory import Memory
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.storage.documents import Retained
from oauth_pool_operator.storage.store import Store, in_thread

log = logging.getLogger(__name__)

# A deleted object goes after this time at the latest, whatever could not be done.
REMOVAL = timedelta(seconds=24)
REMOVAL_RETRY = timedelta(seconds=2)
LAST_STEP_SECONDS = 1.0  # of each that is left when that time is over

Step = Callable[[Account], Awaitable[None]]


class Removal:
    """Removes any account."""

    def __init__(
        self,
        *,
        store: Store,
        endpoints: Mapping[str, TokenEndpoint],
        credentials: Credentials,
        index: IndexPublisher,
        cluster: Cluster,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._credentials = credentials
        self._index = index
        self._cluster = cluster
        self._clock = clock

    async def run(self, account: Account, memory: Memory) -> datetime:
        """Let the object go; returns NEVER when that is done, else when to try again. It does not take longer than `REMOVAL`.

        When the time is over, what still fails is left out, and all the rest is done.
        """
        memory.removal_began = memory.removal_began or self._clock()
        end = memory.removal_began + REMOVAL
        for step in self._steps(account):
            try:
                async with asyncio.timeout(None if self._clock() < end else LAST_STEP_SECONDS):
                    await step(account)
            except (httpx2.HTTPError, TokenEndpointUnavailable, StoreFailed, TimeoutError) as error:
                why = describe(error) if isinstance(error, httpx2.HTTPError) else str(error) or "no answer in time"
                if self._clock() < end:
                    log.warning("%s: its removal is not complete: %s", account.name, why)
                    return self._clock() + REMOVAL_RETRY
                log.error("%s: let go although its removal is not complete: %s", account.name, why)
        self._credentials.unsaved.pop(account.uid, None)
        metrics.forget(account.name)
        await self._remove_finalizer(account)
        log.info("%s: removed", account.name)
        return NEVER

    def _steps(self, account: Account) -> tuple[Step, ...]:
        """Index first, so that no proxy picks it; then the access file, the grant, and the state."""
        is_revoked = account.spec.deletion_policy == "Revoke"
        rest = (self._revoke, self._remove_state) if is_revoked else (self._retain,)
        return (self._index.withdraw, self._remove_access, *rest)

    async def _remove_access(self, account: Account) -> None:
        await in_thread(self._store.remove_access, account.uid)

    async def _remove_state(self, account: Account) -> None:
        await in_thread(self._store.remove_state, account.uid)

    async def _retain(self, account: Account) -> None:
        spec = account.spec
        retained = Retained(account.name, account.namespace, spec.provider, spec.grant, self._clock())
        await in_thread(self._store.end_import, account.uid, None)  # it was never this account's
        await in_thread(self._store.retain, account.uid, retained)

    async def _revoke(self, account: Account) -> None:
        """Raises what is worth another try; a refusal is not, nor is a grant that cannot be read or is dead."""
        endpoint = self._endpoints.get(account.spec.provider)
        try:
            credential = self._credentials.unsaved.get(account.uid)
            credential = credential or await in_thread(self._store.credential, account.uid)
            if endpoint is None or credential is None or credential.refresh_token is None or credential.dead:
                return
            await endpoint.revoke(credential.refresh_token, account.spec.grant)
        except (ExchangeRejected, StoreFailed) as error:
            log.warning("%s: its grant was not revoked at the provider: %s", account.name, error)

    async def _remove_finalizer(self, account: Account) -> None:
        if FINALIZER not in account.finalizers:
            return
        rest = [finalizer for finalizer in account.finalizers if finalizer != FINALIZER]
        try:
            await self._cluster.patch_metadata(account, {"finalizers": rest or None})
        except httpx2.HTTPError as error:
            if not is_gone(error):
                raise
