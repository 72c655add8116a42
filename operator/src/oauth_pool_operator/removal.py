"""A deleted account, from the first look until it may go: what is held of it, in the order in which it must go."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import httpx2

from . import metrics
from .accounts import FINALIZER, Account
from .cluster import Cluster, describe, is_gone
from .credentials import Credentials
from .documents import Retained
from .errors import ExchangeRejected, StoreFailed, TokenEndpointUnavailable
from .facts import NEVER
from .grants import TokenEndpoint
from .memory import Memory
from .pool_index import IndexPublisher
from .store import Store, in_thread

log = logging.getLogger(__name__)

# A deleted object goes after this time at the latest, whatever could not be done.
REMOVAL = timedelta(seconds=25)
REMOVAL_RETRY = timedelta(seconds=2)


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
        """Let the object go; returns NEVER when that is done, else when to try again. It does not take longer than `REMOVAL`."""
        memory.removal_began = memory.removal_began or self._clock()
        try:
            await self._clean_up(account)
        except (httpx2.HTTPError, TokenEndpointUnavailable, StoreFailed, TimeoutError) as error:
            why = describe(error) if isinstance(error, httpx2.HTTPError) else str(error) or "no answer in time"
            if self._clock() < memory.removal_began + REMOVAL:
                log.warning("%s: its removal is not complete: %s", account.name, why)
                return self._clock() + REMOVAL_RETRY
            log.error("%s: let go although its removal is not complete: %s", account.name, why)
        self._credentials.unsaved.pop(account.uid, None)
        metrics.forget(account.name)
        await self._remove_finalizer(account)
        log.info("%s: removed", account.name)
        return NEVER

    async def _clean_up(self, account: Account) -> None:
        """Index first, so that no proxy picks it; then the access file, the grant, and the state."""
        await self._index.withdraw(account)
        await in_thread(self._store.remove_access, account.uid)
        if account.spec.deletion_policy == "Revoke":
            await self._revoke(account)
            await in_thread(self._store.remove_state, account.uid)
        else:
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
