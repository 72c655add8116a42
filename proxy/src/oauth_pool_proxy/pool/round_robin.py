"""Smooth weighted round robin within tiers, at a cost that does not grow with the number of members.

Members of one tier and one weight are equal and take turns in a queue. The few queues of a tier take turns by their total
weights, spread evenly, as in nginx. So the cost of a turn grows with the number of different weights, not of members.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

Member = TypeVar("Member")
Groups = list[tuple[int, list[Member]]]
"""Pairs of a weight and the members that have it."""


class Tier(NamedTuple):
    """A member's tier. The lowest comes first."""

    level: int
    """A conversation stays with its member as long as no member of an earlier level is eligible."""
    is_reserve: bool = False
    rank: float = 0.0
    """Orders members that are otherwise equal."""


class _Queue(Generic[Member]):
    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.members: OrderedDict[Member, None] = OrderedDict()
        self.credit = 0

    @property
    def total(self) -> int:
        return self.weight * len(self.members)


class WeightedRoundRobin(Generic[Member]):
    def __init__(self) -> None:
        self._tiers: dict[Tier, dict[int, _Queue[Member]]] = {}
        self._order: list[Tier] = []
        self._places: dict[Member, tuple[Tier, int]] = {}
        self._groups: list[Groups[Member]] | None = None

    def put(self, member: Member, tier: Tier, weight: int) -> None:
        """Add the member, or move it. It keeps its place if it is already in the right queue."""
        if self._places.get(member) == (tier, weight):
            return
        self.remove(member)
        if tier not in self._tiers:
            self._tiers[tier] = {}
            insort(self._order, tier)
        self._tiers[tier].setdefault(weight, _Queue(weight)).members[member] = None
        self._places[member] = (tier, weight)
        self._groups = None

    def remove(self, member: Member) -> None:
        place = self._places.pop(member, None)
        if place is None:
            return
        self._groups = None
        tier, weight = place
        queues = self._tiers[tier]
        del queues[weight].members[member]
        if not queues[weight].members:
            del queues[weight]
        if not queues:
            del self._tiers[tier]
            del self._order[bisect_left(self._order, tier)]

    def take(self, is_eligible: Callable[[Member], bool]) -> Member | None:
        """Take the next member of the first tier with an eligible one. That uses up its turn."""
        for tier in self._order:
            member = self._take_from(self._tiers[tier], is_eligible)
            if member is not None:
                return member
        return None

    def groups(self) -> list[Groups[Member]]:
        """All members, regardless of rank: for each level, with the reserve separate, the members of each weight."""
        if self._groups is None:
            self._groups = [self._by_weight(tiers) for _, tiers in groupby(self._order, key=itemgetter(0, 1))]
        return self._groups

    def _by_weight(self, tiers: Iterable[Tier]) -> Groups[Member]:
        members: dict[int, list[Member]] = {}
        for tier in tiers:
            for weight, queue in self._tiers[tier].items():
                members.setdefault(weight, []).extend(queue.members)
        return list(members.items())

    def has_any(self, is_eligible: Callable[[Member], bool]) -> bool:
        return any(map(is_eligible, self._places))

    def is_of_first_level(self, member: Member, is_eligible: Callable[[Member], bool]) -> bool:
        """Whether this member takes part and no eligible member has an earlier level."""
        if member not in self._places:
            return False
        level = self._places[member][0].level
        for tier in self._order:
            if tier.level >= level:
                return True
            if any(is_eligible(other) for queue in self._tiers[tier].values() for other in queue.members):
                return False
        return False

    def _take_from(self, queues: dict[int, _Queue[Member]], is_eligible: Callable[[Member], bool]) -> Member | None:
        if len(queues) == 1:
            (queue,) = queues.values()
            for member in queue.members:
                if is_eligible(member):
                    queue.members.move_to_end(member)
                    return member
            return None
        return self._take_by_weight(queues, is_eligible)

    def _take_by_weight(
        self, queues: dict[int, _Queue[Member]], is_eligible: Callable[[Member], bool]
    ) -> Member | None:
        firsts = {
            queue: member
            for queue in queues.values()
            if (member := next(filter(is_eligible, queue.members), None)) is not None
        }
        if not firsts:
            return None
        for queue in firsts:
            queue.credit += queue.total
        queue = max(firsts, key=lambda queue: queue.credit)
        queue.credit -= sum(queue.total for queue in firsts)
        queue.members.move_to_end(firsts[queue])
        return firsts[queue]
