"""How access tokens reach the proxies: by a volume, here; or sealed, by `cluster.sealed_tokens`."""

from typing import Protocol

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.storage.store import Store, in_thread


class Delivery(Protocol):
    """What reconciles need of either."""

    async def publish(self, account: Account, access: AccessFile) -> None:
        """Return when every proxy can have the token. Raises `StoreFailed`, `TokensFull`, or what the API server's answer is."""

    async def withdraw(self, account: Account) -> None:
        """Return when no proxy can have a token of the account any more. Raises the same."""

    async def held(self, uid: str) -> AccessFile | None:
        """The token that proxies may use now, if that is known."""


class AccessFiles:
    """One file per account on a volume that the proxies mount."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def publish(self, account: Account, access: AccessFile) -> None:
        """Write the file, unless it holds this already. Raises `StoreFailed`."""
        if await self.held(account.uid) != access:
            await in_thread(self._store.save_access, account.uid, access)

    async def withdraw(self, account: Account) -> None:
        """Remove the file. Raises `StoreFailed`."""
        await in_thread(self._store.remove_access, account.uid)

    async def held(self, uid: str) -> AccessFile | None:
        """What is in the file; None when it is missing or unreadable."""
        return await in_thread(self._store.access, uid)
