"""What the operator remembers of an account between reconciles; all of it may be lost."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.backoff import Backoff


@dataclass
class Asking(Backoff):
    """When the provider is asked next about a device's login."""

    session_id: str = ""
    next_at: datetime | None = None


@dataclass
class Memory(Backoff):
    """Of one account. The failures are those of its tokens; a login that is under way has its own."""

    generation: int = 0
    last_forced_refresh: datetime | None = None
    removal_began: datetime | None = None
    asking: Asking = field(default_factory=Asking)
    # the object as last observed, and that it has been observed: for whoever waits for a token endpoint meanwhile
    latest: Account | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def observe(self, account: Account) -> None:
        self.latest = account
        self.news.set()

    def newest(self, account: Account) -> Account:
        """The account as it is now, if that is later than `account`."""
        return self.latest if self.latest is not None and account.is_older_than(self.latest) else account
