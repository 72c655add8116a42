"""The upstream's addresses, looked up off the request path.

A lookup is good for a while. After that, the next connection still uses it while a new lookup runs. A failed lookup changes
nothing. Connections take the addresses in turn, and an address that did not work comes last for a while.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import chain, zip_longest

log = logging.getLogger(__name__)

GOOD_SECONDS = 30.0
AVOID_SECONDS = 600.0
"""RFC 8305 9.1: remember for about ten minutes which addresses work."""

Lookup = Callable[[str, int], Awaitable[list[str]]]


async def look_up(host: str, port: int) -> list[str]:
    """All addresses, in the order of RFC 6724. Raises `OSError` if there is none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Addresses:
    """`clock` is any monotonic clock."""

    def __init__(self, host: str, port: int, clock: Callable[[], float], lookup: Lookup = look_up) -> None:
        self.port = port
        self._host, self._clock, self._lookup = host, clock, lookup
        self._known: list[str] = [host] if _is_address(host) else []
        self._looked_at = float("inf") if self._known else float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._avoided_until: dict[str, float] = {}
        self._turn = -1

    async def current(self) -> list[str]:
        """The addresses to try, in order. Waits only if none is known. Raises `OSError` if there is still none."""
        if self._clock() - self._looked_at > GOOD_SECONDS and self._looking is None:
            self._looking = asyncio.create_task(self._look())
        if not self._known and self._looking:
            await asyncio.shield(self._looking)
        if not self._known:
            raise socket.gaierror(socket.EAI_NONAME, "The name of the upstream has no address")
        return self._known if len(self._known) == 1 else self._in_order()

    def avoid(self, address: str) -> None:
        """Note that this address did not work, or was slower than one tried after it."""
        self._avoided_until[address] = self._clock() + AVOID_SECONDS

    def close(self) -> None:
        if self._looking:
            self._looking.cancel()

    def _in_order(self) -> list[str]:
        """Each call starts with a different address, to share the load. The first two cover both families (RFC 8305 4)."""
        now = self._clock()
        last = [address for address in self._known if self._avoided_until.get(address, now) > now]
        first = [address for address in self._known if address not in last]
        preferred = [address for address in first if _is_ipv6(address) == _is_ipv6(first[0])]
        others = [address for address in first if address not in preferred]
        self._turn += 1
        pairs = zip_longest(_rotated(preferred, self._turn), _rotated(others, self._turn))
        return [address for address in chain(*pairs) if address] + last

    async def _look(self) -> None:
        try:
            self._known = list(dict.fromkeys(await self._lookup(self._host, self.port)))
            self._looked_at = self._clock()
            self._avoided_until = {a: until for a, until in self._avoided_until.items() if a in self._known}
        except OSError as error:
            log.warning("the upstream's name cannot be looked up", extra={"fields": {"error": error.strerror}})
        finally:
            self._looking = None


def _rotated(addresses: list[str], turn: int) -> list[str]:
    start = turn % len(addresses) if addresses else 0
    return addresses[start:] + addresses[:start]


def _is_ipv6(address: str) -> bool:
    return ":" in address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
