"""Where the upstream is: the addresses of its name, looked up off the request path.

A look-up is good for a while. After that the next connection still uses it, and a new one is made meanwhile; one that
fails changes nothing. The address that worked last is tried first, the others after it.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

GOOD_SECONDS = 30.0

Lookup = Callable[[str, int], Awaitable[list[str]]]


async def look_up(host: str, port: int) -> list[str]:
    """All addresses, in the order in which RFC 6724 would have them tried. `OSError` if there is none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Addresses:
    """`clock` is any clock that only goes forward."""

    def __init__(self, host: str, port: int, clock: Callable[[], float], lookup: Lookup = look_up) -> None:
        self._host, self._port, self._clock, self._lookup = host, port, clock, lookup
        self._known: list[str] = [host] if _is_address(host) else []
        self._looked_at = float("inf") if self._known else float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def current(self) -> list[str]:
        """The addresses to try, in this order. Waits only if none is known; `OSError` if there is none then either."""
        if self._clock() - self._looked_at > GOOD_SECONDS and self._looking is None:
            self._looking = asyncio.create_task(self._look())
        if not self._known and self._looking:
            await asyncio.shield(self._looking)
        if not self._known:
            raise socket.gaierror(socket.EAI_NONAME, "The name of the upstream has no address")
        return list(self._known)

    def worked(self, address: str) -> None:
        if self._known[:1] != [address] and address in self._known:
            self._known.remove(address)
            self._known.insert(0, address)

    def close(self) -> None:
        if self._looking:
            self._looking.cancel()

    async def _look(self) -> None:
        try:
            found = await self._lookup(self._host, self._port)
            first = [address for address in self._known[:1] if address in found]
            self._known = list(dict.fromkeys([*first, *found]))
            self._looked_at = self._clock()
        except OSError as error:
            log.warning("the upstream's name cannot be looked up", extra={"fields": {"error": error.strerror}})
        finally:
            self._looking = None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
