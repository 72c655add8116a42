"""Publishes an account: access token and pool index for proxies, status and Events for people.

Only reconciles call it. It writes only what differs from what is there. A proxy is told of a token only after the token is
there.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import msgspec

from oauth_pool_operator import metrics
from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.index_entry import render_entry
from oauth_pool_operator.account.memory import Memory
from oauth_pool_operator.account.policies import is_used
from oauth_pool_operator.account.spec import Account, rfc3339
from oauth_pool_operator.account.status import OWNED, happenings, merge_patch, render_status
from oauth_pool_operator.account.trouble import Subject, Trouble
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.delivery import Delivery
from oauth_pool_operator.errors import IndexFull, StoreFailed, TokensFull
from oauth_pool_operator.oauth.endpoint import TokenEndpoint

log = logging.getLogger(__name__)

# How soon an account that there was no room for is in the index, or with all proxies, when somebody has made some.
FULL_RETRY = timedelta(minutes=1)


class Publication:
    """Writes it, for any account."""

    def __init__(
        self, *, delivery: Delivery, endpoints: Mapping[str, TokenEndpoint], index: IndexPublisher, cluster: Cluster
    ) -> None:
        self._delivery = delivery
        self._endpoints = endpoints
        self._index = index
        self._cluster = cluster

    async def deliver(self, facts: Facts, memory: Memory) -> Facts:
        """The access token for the proxies, and none of an account that has none that works."""
        account, credential = facts.account, facts.credential
        if facts.is_unread:
            return facts
        attempts = memory[Subject.ACCESS]
        try:
            if credential is None or not is_used(credential, facts):
                metrics.token_expires(account.name, None)
                await self._delivery.withdraw(account)
            else:
                access = AccessFile(credential.generation, credential.access_token, rfc3339(credential.expires))
                await self._delivery.publish(account, access)
                # A token that nobody keeps fresh may end; whoever looks at the metric is to worry about the others.
                is_kept_fresh = credential.dead is None and not account.spec.suspend
                metrics.token_expires(account.name, credential.expires.timestamp() if is_kept_fresh else None)
        except StoreFailed as error:
            trouble = attempts.failed(c.STORAGE_UNAVAILABLE, error, facts.now, is_stalled=True)
            log.error("%s: %s", account.name, trouble.message)
            return replace(facts.with_trouble(Subject.ACCESS, trouble), is_undelivered=True)
        except TokensFull as error:
            attempts.succeeded()
            return self._full(facts, error)
        attempts.succeeded()
        return facts.with_trouble(Subject.ACCESS, None)

    def _full(self, facts: Facts, error: TokensFull) -> Facts:
        """Proxies that have it go on using the account; one that none has is like one that is not in the index."""
        if c.reason_of(facts.account.conditions, c.STALLED) != c.TOKENS_FULL:
            log.error("%s: %s", facts.account.name, error)
        message = f"{error}; tried again every minute"
        trouble = Trouble(c.TOKENS_FULL, message, facts.now + FULL_RETRY, is_stalled=True)
        if error.nobody_has_it:
            return replace(facts.with_trouble(Subject.INDEX, trouble), is_undelivered=True)
        return facts.with_trouble(Subject.ACCESS, trouble)

    async def update_index(self, facts: Facts) -> Facts:
        """The index sends proxies to the access token, so a new one is named only when they can have it.

        An account that the index has no room for is a trouble of its own; those that are listed stay.
        """
        entry = render_entry(facts)
        if facts.is_unread or facts.is_undelivered:
            listed = self._index.listed(entry.name)
            if listed is None or listed.uid != entry.uid:
                return facts
            entry = msgspec.structs.replace(
                entry, generation=listed.generation, fingerprint=listed.fingerprint, expires=listed.expires
            )
        try:
            await self._index.publish(entry)
            return facts
        except IndexFull as error:
            if c.reason_of(facts.account.conditions, c.STALLED) != c.INDEX_FULL:
                log.error("%s: no proxy can use it: %s", entry.name, error)
            # the same text each time: with many such accounts, a new one every minute would be many writes
            message = f"{error}; tried again every minute"
            trouble = Trouble(c.INDEX_FULL, message, facts.now + FULL_RETRY, is_stalled=True)
            return facts.with_trouble(Subject.INDEX, trouble)

    async def report(self, facts: Facts) -> Account:
        """Status, once, and only what differs; Events for what a person would want to know of it."""
        account = facts.account
        desired = render_status(facts, self._authorization_url(facts))
        written = await self._write_status(account, desired)
        if written is account:
            return account
        for happening in happenings(account.status, desired):
            log.info("%s: %s: %s", account.name, happening.reason, happening.message)
            try:
                await self._cluster.post_event(account, happening.kind, happening.reason, happening.message, facts.now)
            except httpx2.HTTPError as error:
                log.warning("%s: Event %s was not posted: %s", account.name, happening.reason, type(error).__name__)
        return written

    async def _write_status(self, account: Account, desired: dict[str, Any]) -> Account:
        """What differs; once more if the answer shows that somebody else has written there since we last saw it."""
        for _ in range(2):
            current = {name: value for name, value in account.status.items() if name in OWNED}
            if not (patch := merge_patch(current, desired)):
                break
            account = await self._cluster.patch_status(account, patch)
        return account

    def _authorization_url(self, facts: Facts) -> str | None:
        session, endpoint = facts.session, self._endpoints.get(facts.account.spec.provider)
        if session is None or not session.state or not facts.session_is_open or endpoint is None:
            return None
        return endpoint.authorization_url(session)
