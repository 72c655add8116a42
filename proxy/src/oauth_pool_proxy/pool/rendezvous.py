"""Weighted rendezvous hashing: a conversation's account follows from their two names alone, so proxies agree without talking.

Every account draws a number from the conversation's key and its own name, and the best draw wins (Thaler and
Ravishankar, 1998; with weights: Schindelhauer and Schomaker, 2005). An account that leaves moves only its own conversations. One
that joins takes only its share, evenly from all others.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from math import log
from operator import itemgetter
from typing import Protocol, TypeVar

_MASK = (1 << 64) - 1
_FRACTION = float(1 << 52)


class HasPoint(Protocol):
    """A member that can draw."""

    @property
    def point(self) -> int:
        """`point_of` its name, computed once."""


Member = TypeVar("Member", bound=HasPoint)


def point_of(name: str) -> int:
    """A 64-bit hash of this name, the same on every machine and after every restart."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


def choose(
    key: bytes, groups: Iterable[tuple[int, Sequence[Member]]], is_eligible: Callable[[Member], bool]
) -> Member | None:
    """The winner for this key among the eligible members of all groups, which are pairs of a weight and its members.

    A weight of 0 wins only if all weights are 0. Costs a multiplication and a comparison per member.
    """
    # The product of two random numbers, one of them odd, is as good a draw here as a hash of both, at a tenth of the cost.
    multiplier = int.from_bytes(blake2b(key, digest_size=8).digest()) | 1
    winners = [
        (weight, *found) for weight, members in groups if (found := _best(multiplier, members, is_eligible)) is not None
    ]
    if len(winners) > 1:
        return max(winners, key=_score)[2]
    return winners[0][2] if winners else None


def _score(winner: tuple[int, int, Member]) -> tuple[float, int]:
    """Between different weights, the largest score wins."""
    weight, draw, _ = winner
    fraction = ((draw >> 12) + 0.5) / _FRACTION  # 52 bits, so it is never 0 or 1
    return weight / -log(fraction), draw


def _best(
    multiplier: int, members: Sequence[Member], is_eligible: Callable[[Member], bool]
) -> tuple[int, Member] | None:
    """Within a weight, the largest draw wins."""
    draws = [member.point * multiplier & _MASK for member in members]
    if draws and is_eligible(winner := members[draws.index(first := max(draws))]):
        return first, winner
    ranking = sorted(zip(draws, members, strict=True), key=itemgetter(0), reverse=True)
    return next((drawn for drawn in ranking if is_eligible(drawn[1])), None)
