"""The pool index's ConfigMaps as the operator wants them: which entry is in which, and how much room there is.

An account stays in the ConfigMap that it was first put into. Proxies follow each of them by itself, so an account that
moved could be missing for a moment, and a report of one account would cost the others a write.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from oauth_pool_operator.errors import IndexFull

# As many as the Roles of operator and proxy name.
MOST_SHARDS = 10
# The API server stores, and sends to every proxy, all of a ConfigMap for each entry that changes. An account takes some
# 430 bytes with the room it may need, so this is for some 480 accounts, and ten of them are for some 4,800.
PREFERRED_BYTES = 200 * 1024
# With more accounts than that all ten grow alike, up to this, for some 21,500. The API server's limit is 1 MiB.
MOST_BYTES = 900 * 1024
# An entry gets longer when it gets a token or a cooldown, and must not have to move for it.
ROOM_TO_GROW = 100


class Slot(NamedTuple):
    """Where an account's entry is: the number of the ConfigMap, and the key in it."""

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
    """All of them, and where each account is."""

    def __init__(self, *, preferred_bytes: int = PREFERRED_BYTES, most_bytes: int = MOST_BYTES) -> None:
        self._preferred_bytes = preferred_bytes
        self._most_bytes = most_bytes
        self._shards = [Shard() for _ in range(MOST_SHARDS)]
        self._numbers: dict[str, int] = {}  # by key: where it is, for as long as its ConfigMap may list it
        self.total = 1  # how many ConfigMaps there are; it never shrinks

    def __getitem__(self, number: int) -> Shard:
        return self._shards[number]

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    @property
    def in_use(self) -> int:
        """How many have an entry; may be called from any thread."""
        return sum(bool(shard.wanted) for shard in self._shards)

    def load(self, found: Sequence[Mapping[str, str]], accounts: Collection[str]) -> None:
        """Start from what is there. Of a key that is there twice, the first place counts, as it does for readers."""
        self._shards = [Shard() for _ in range(MOST_SHARDS)]
        self._numbers.clear()
        for number, (shard, data) in enumerate(zip(self._shards, found, strict=True)):
            shard.written = dict(data)
            for key, value in data.items():
                if key in accounts and key not in self._numbers:
                    self._numbers[key] = number
                    shard.want(key, value)
            if data:
                self.total = max(self.total, number + 1)

    def slot(self, key: str) -> Slot | None:
        """Where the account's entry is, or was until now."""
        number = self._numbers.get(key)
        return Slot(number, key) if number is not None else None

    def put(self, key: str, value: str) -> Slot:
        """The account's entry is to be this; returns where. Raises `IndexFull` for a new one without room."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._with_room_for(room(key, value))
            self.total = max(self.total, number + 1)
        self._shards[number].want(key, value)
        return Slot(number, key)

    def forget(self, key: str) -> None:
        """The account's ConfigMap no longer lists it: should it come again, it may be put anywhere."""
        self._numbers.pop(key, None)

    def _with_room_for(self, size: int) -> int:
        """The first that stays small; if none does, the emptiest, so that all of them grow alike."""
        taken = [shard.taken + size for shard in self._shards]
        small = next((number for number, sum_ in enumerate(taken) if sum_ <= self._preferred_bytes), None)
        if small is not None:
            return small
        if min(taken) <= self._most_bytes:
            return taken.index(min(taken))
        raise IndexFull(
            f"the pool index is full: {len(self._numbers)} accounts in {MOST_SHARDS} ConfigMaps of "
            f"{self._most_bytes // 1024} KiB; delete accounts, or run a second pool in another namespace"
        )


def room(key: str, value: str) -> int:
    """What an entry takes, and may take one day."""
    return len(key) + len(value) + ROOM_TO_GROW
