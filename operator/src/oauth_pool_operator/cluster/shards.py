"""The ConfigMaps of a family as the operator wants them: which entry is in which, and how much room there is.

An entry stays in the ConfigMap that it was first put into: readers follow each of them by itself, and a change of one entry
must not cost the others a write. Only a family whose entries grow may move one, and only when its ConfigMap is full. It is then
in two places until the new one is written.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

# As many as the Roles of operator and proxy name.
MOST_SHARDS = 10
# The API server stores, and sends to every proxy, all of a ConfigMap for each entry that changes. In the pool index, an account
# takes some 430 bytes with the room it may need, so this is for some 480 accounts, and ten of them are for some 4,800.
PREFERRED_BYTES = 200 * 1024
# With more than that all ten grow alike, up to this, for some 21,500 accounts. The API server's limit is 1 MiB.
MOST_BYTES = 900 * 1024
# An entry gets longer when it gets a token or a cooldown, and must not have to move for it.
ROOM_TO_GROW = 100


class NoRoom(Exception):
    """None of the ConfigMaps can take it."""


class Slot(NamedTuple):
    """Where an entry is: the number of the ConfigMap, and the key in it."""

    shard: int
    key: str


class Shard:
    """One ConfigMap: what is in it as far as we know, what is to be in it, and the room that this takes."""

    def __init__(self) -> None:
        self.written: dict[str, str] = {}
        self.wanted: dict[str, str] = {}
        self.taken = 0

    def want(self, key: str, value: str | None) -> None:
        """The key is to have this value, or not to be there."""
        if (before := self.wanted.pop(key, None)) is not None:
            self.taken -= room(key, before)
        if value is not None:
            self.wanted[key] = value
            self.taken += room(key, value)

    def changes(self, keys: Collection[str]) -> dict[str, str | None]:
        """What has to be written of these keys."""
        return {key: self.wanted.get(key) for key in keys if self.wanted.get(key) != self.written.get(key)}

    def wrote(self, changes: Mapping[str, str | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.written.pop(key, None)
            else:
                self.written[key] = value

    @property
    def bytes_written(self) -> int:
        return sum(len(key) + len(value) for key, value in self.written.items())


class Shards:
    """All of them, and where each entry is."""

    def __init__(
        self, *, preferred_bytes: int = PREFERRED_BYTES, most_bytes: int = MOST_BYTES, may_move: bool = False
    ) -> None:
        self._preferred_bytes = preferred_bytes
        self.most_bytes = most_bytes
        self._may_move = may_move
        self._shards = [Shard() for _ in range(MOST_SHARDS)]
        self._numbers: dict[str, int] = {}  # by key: where it is, for as long as its ConfigMap may list it
        self._left: dict[str, set[int]] = {}  # by key: what it has moved out of, and what may still list it
        self.total = 1  # how many ConfigMaps there are; it never shrinks

    def __getitem__(self, number: int) -> Shard:
        return self._shards[number]

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    @property
    def keys(self) -> Collection[str]:
        """Of all entries."""
        return self._numbers.keys()

    @property
    def in_use(self) -> int:
        """How many have an entry; may be called from any thread."""
        return sum(bool(shard.wanted) for shard in self._shards)

    def load(self, found: Sequence[Mapping[str, str]], keys: Collection[str]) -> None:
        """Start from what is there. Of a key that is there twice, the first place counts, as it does for readers."""
        self._shards = [Shard() for _ in range(MOST_SHARDS)]
        self._numbers.clear()
        self._left.clear()
        for number, (shard, data) in enumerate(zip(self._shards, found, strict=True)):
            shard.written = dict(data)
            for key, value in data.items():
                if key in keys and key not in self._numbers:
                    self._numbers[key] = number
                    shard.want(key, value)
            if data:
                self.total = max(self.total, number + 1)

    def slot(self, key: str) -> Slot | None:
        """Where the entry is, or was until now."""
        number = self._numbers.get(key)
        return Slot(number, key) if number is not None else None

    def slots(self, key: str) -> list[Slot]:
        """The same, and where it has moved out of and may still be listed."""
        slot = self.slot(key)
        return [*([slot] if slot is not None else ()), *(Slot(number, key) for number in self._left.get(key, ()))]

    def put(self, key: str, value: str) -> Slot:
        """The entry is to be this; returns where. Raises `NoRoom` when it fits nowhere, and changes nothing then."""
        number = self._numbers.get(key)
        if number is None:
            number = self._with_room_for(room(key, value))
        elif self._may_move and len(value) > self._largest_in(number, key):
            left, number = number, self._with_room_for(room(key, value), besides=number)
            self._left.setdefault(key, set()).add(left)
            self._left[key].discard(number)
        self._numbers[key] = number
        self.total = max(self.total, number + 1)
        self._shards[number].want(key, value)
        return Slot(number, key)

    def largest(self, key: str) -> int:
        """The length of the longest value that `put` takes for this key; negative when it takes none."""
        number = self._numbers.get(key)
        elsewhere = min(shard.taken for place, shard in enumerate(self._shards) if place != number)
        return max(
            self.most_bytes - elsewhere - room(key, ""), self._largest_in(number, key) if number is not None else -1
        )

    def left(self, key: str) -> list[Slot]:
        """What the entry has moved out of: its new place is written, so it is wanted there no more."""
        slots = [Slot(number, key) for number in self._left.pop(key, ())]
        for slot in slots:
            self._shards[slot.shard].want(key, None)
        return slots

    def forget(self, key: str) -> None:
        """Its ConfigMap no longer lists it: should it come again, it may be put anywhere."""
        self._numbers.pop(key, None)

    def _largest_in(self, number: int, key: str) -> int:
        """Without moving it. What is there may stay as long as it is, whatever the others take."""
        shard = self._shards[number]
        before = shard.wanted.get(key)
        taken = shard.taken - (room(key, before) if before is not None else 0)
        return max(self.most_bytes - taken - room(key, ""), len(before) if before is not None else -1)

    def _with_room_for(self, size: int, besides: int | None = None) -> int:
        """The first that stays small; if none does, the emptiest, so that all of them grow alike."""
        taken = {number: shard.taken + size for number, shard in enumerate(self._shards) if number != besides}
        small = next((number for number, sum_ in taken.items() if sum_ <= self._preferred_bytes), None)
        if small is not None:
            return small
        emptiest = min(taken, key=taken.__getitem__)
        if taken[emptiest] <= self.most_bytes:
            return emptiest
        raise NoRoom


def room(key: str, value: str) -> int:
    """What an entry takes, and may take one day."""
    return len(key) + len(value) + ROOM_TO_GROW
