"""Remembers the results of checking credentials, by digest. Its size is limited, whatever is sent. No credential is kept."""

from typing import Any, NamedTuple

from oauth_pool_proxy.downstream.identity.allowance import Caller

MOST_CREDENTIAL_BYTES = 16 * 1024
"""Anything longer is refused unchecked. The API server's own tokens have about 1 KB."""
MOST_PROVEN = 10_000
MOST_REFUSED = 10_000
MOST_ADDRESSES = 1_000


class Proven(NamedTuple):
    caller: Caller
    until: float
    """In seconds since 1970."""


class Known:
    """If there are too many entries, the oldest goes first. Only valid proofs are added to `proven`."""

    def __init__(self) -> None:
        self.proven: dict[bytes, Proven] = {}
        self.refused: dict[bytes, str] = {}
        """Why each was refused, in words. No entry can become good again without `clear`."""

    def prove(self, digest: bytes, proven: Proven) -> None:
        _make_room(self.proven, MOST_PROVEN)
        self.proven[digest] = proven

    def refuse(self, digest: bytes, why: str) -> None:
        _make_room(self.refused, MOST_REFUSED)
        self.refused[digest] = why

    def clear(self) -> None:
        """Forget everything: the signing keys have changed."""
        self.proven.clear()
        self.refused.clear()


class Failures:
    """Counts bad signatures per address: checking one costs as much as a short request.

    An address may fail `per_second` times a second. After a while without failures, it may use up ten seconds' worth at once.
    """

    def __init__(self, per_second: float = 20) -> None:
        self._seconds = 1 / per_second
        self._over_at: dict[str, float] = {}
        """When each address's failures are forgotten."""

    def seconds_left(self, address: str, now: float) -> float:
        """How long the address has to wait. 0 for nearly all."""
        return max(0.0, self._over_at.get(address, 0) - now - 10)

    def count(self, address: str, now: float) -> None:
        over_at = max(self._over_at.pop(address, 0), now) + self._seconds
        _make_room(self._over_at, MOST_ADDRESSES)
        self._over_at[address] = over_at


def _make_room(known: dict[Any, Any], most: int) -> None:
    if len(known) >= most:
        del known[next(iter(known))]
