"""The keys with which the API server signs ServiceAccount tokens: fetched in the background, kept while it is away.

A token signed with an unknown key may be signed with a newer one. Then the keys are fetched again, at most every ten seconds.
Until that is done, such a token can be neither accepted nor refused.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from oauth_pool_proxy.downstream.identity.tokens import Keys, keys_of

log = logging.getLogger(__name__)

CONFIGURATION_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/openid/v1/jwks"
"""On the API server, whatever `jwks_uri` says: that is for outsiders, and the issuer's name may not resolve."""
REFRESH_SECONDS = 300.0
AGAIN_SECONDS = 10.0
"""The shortest interval between two fetches, however many unknown keys are seen."""
FIRST_RETRY = 0.5
_MOST_UNKNOWN = 100


class IssuerUnreachable(Exception):
    """The document could not be fetched. The message says why."""


class _Configuration(msgspec.Struct):
    issuer: str


_configuration = msgspec.json.Decoder(_Configuration)


class Issuer:
    """`fetch` gets a document from the API server, or raises `IssuerUnreachable`. `changed` is called for each new set of keys.

    Times are in seconds, by `clock`. `sleep` waits.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[bytes]],
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fetch, self._changed, self._clock, self._sleep = fetch, changed, clock, sleep
        self.name: str | None = None
        """The issuer, as in the tokens' `iss`. None until it is known."""
        self.keys: Keys = {}
        self._documents: tuple[bytes, bytes] | None = None
        self._asked_at = float("-inf")
        """When the latest successful fetch began."""
        self._next_at = float("-inf")
        self._wanted = asyncio.Event()
        self._unknown: dict[str, float] = {}
        """When each unknown key was first seen."""
        self._is_in_trouble = False

    async def run(self) -> None:
        """Keep the keys up to date, forever."""
        pause = FIRST_RETRY
        while True:
            self._wanted.clear()
            if await self._refresh():
                pause = FIRST_RETRY
                await self._rest()
            else:
                self._next_at = self._clock() + pause
                await self._sleep(pause)
                pause = min(pause * 2, AGAIN_SECONDS)

    def seconds_until_known(self, kid: str) -> float | None:
        """Seconds until it is known whether this key exists. None: the keys have been fetched since, and it does not."""
        now = self._clock()
        if len(self._unknown) >= _MOST_UNKNOWN:
            self._unknown.clear()
        if self._unknown.setdefault(kid, now) < self._asked_at:
            return None
        self._wanted.set()
        return max(0.0, self._next_at - now)

    async def _rest(self) -> None:
        self._next_at = self._clock() + AGAIN_SECONDS
        await self._sleep(AGAIN_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS - AGAIN_SECONDS):
                await self._wanted.wait()

    async def _refresh(self) -> bool:
        began = self._clock()
        try:
            documents = await self._fetch(CONFIGURATION_PATH), await self._fetch(KEYS_PATH)
            if documents != self._documents:
                self._take(*documents)
                self._documents = documents
        except (IssuerUnreachable, msgspec.DecodeError, UnicodeError, ValueError) as error:
            if not self._is_in_trouble:
                log.warning(
                    "the API server's keys cannot be read; going on with those that are known", extra=_why(error)
                )
            self._is_in_trouble = True
            return False
        self._asked_at, self._is_in_trouble = began, False
        return True

    def _take(self, configuration: bytes, keys: bytes) -> None:
        name, found = _configuration.decode(configuration).issuer, keys_of(keys)
        self.name, self.keys = name, found
        self._changed()
        log.info("ServiceAccount tokens can be verified", extra={"fields": {"issuer": name, "keys": len(found)}})


def _why(error: Exception) -> dict[str, object]:
    text = str(error) if isinstance(error, IssuerUnreachable) else "the API server's answer is not a set of keys"
    return {"fields": {"error": text}}
