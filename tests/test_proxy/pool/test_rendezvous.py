"""Everybody draws the same winner, shares follow the weights, and who comes or goes moves no more than it must."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_proxy.pool.rendezvous import choose, point_of

KEYS = [b"conversation %d" % number for number in range(3000)]


@dataclass(frozen=True)
class Member:
    name: str
    point: int


class Drawing:
    """What `choose` is asked by a pool with these names and weights."""

    def __init__(self, weights: dict[str, int]) -> None:
        self._groups: dict[int, list[Member]] = {}
        for name, weight in weights.items():
            self._groups.setdefault(weight, []).append(Member(name, point_of(name)))

    def winner(self, key: bytes, excluded: frozenset[str] = frozenset()) -> str | None:
        found = choose(key, self._groups.items(), lambda member: member.name not in excluded)
        return found.name if found else None


def winners(weights: dict[str, int], keys: list[bytes], excluded: frozenset[str] = frozenset()) -> list[str | None]:
    drawing = Drawing(weights)
    return [drawing.winner(key, excluded) for key in keys]


names = st.text("abcdefghij-0123456789", min_size=1, max_size=12)
pools = st.dictionaries(names, st.integers(0, 5), min_size=1, max_size=20)


@given(st.binary(max_size=20), pools, st.randoms(use_true_random=False))
def test_the_order_in_which_accounts_are_known_does_not_matter(
    key: bytes, pool: dict[str, int], random: object
) -> None:
    shuffled = list(pool.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Drawing(pool).winner(key) == Drawing(dict(shuffled)).winner(key)


@given(st.binary(max_size=20), pools, st.data())
def test_without_one_account_only_its_own_conversations_have_another(
    key: bytes, pool: dict[str, int], data: st.DataObject
) -> None:
    """The same for one that is gone and for one that this request must not have; read backwards, for one that joins."""
    gone = data.draw(st.sampled_from(sorted(pool)))
    before = Drawing(pool).winner(key)
    smaller = {name: weight for name, weight in pool.items() if name != gone}
    after = Drawing(smaller).winner(key)
    assert after == Drawing(pool).winner(key, frozenset((gone,)))
    if before != gone:
        assert after == before
    assert (after is None) == (not smaller)


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 3, 4], [1, 1, 8], [3] * 10], ids=str)
def test_shares_are_the_weights(weights: list[int]) -> None:
    pool = {f"uid-{number}": weight for number, weight in enumerate(weights)}
    counted = Counter(winners(pool, KEYS))
    for name, weight in pool.items():
        expected = len(KEYS) * weight / sum(weights)
        assert abs(counted[name] - expected) < 5 * expected**0.5


def test_one_that_joins_takes_its_share_evenly_from_all() -> None:
    pool = {f"uid-{number}": 1 for number in range(4)}
    both = zip(winners(pool, KEYS), winners({**pool, "uid-new": 1}, KEYS), strict=True)
    taken = Counter(before for before, after in both if after != before)
    expected = len(KEYS) / 5 / 4
    assert all(abs(taken[name] - expected) < 5 * expected**0.5 for name in pool)


def test_a_weight_of_none_is_for_when_nobody_else_is_there() -> None:
    pool = {"spare-1": 0, "spare-2": 0, "one": 1}
    assert set(winners(pool, KEYS[:200])) == {"one"}
    assert set(winners(pool, KEYS[:200], frozenset(("one",)))) == {"spare-1", "spare-2"}


def test_another_process_draws_the_same() -> None:
    """Python's own `hash` of bytes differs in every process."""
    program = (
        "from types import SimpleNamespace as Member\n"
        "from oauth_pool_proxy.pool.rendezvous import choose, point_of\n"
        "groups = [(weight, [Member(name=name, point=point_of(name))]) for name, weight in [('a', 1), ('b', 2), ('c', 1)]]\n"
        "print(*(choose(b'conversation %d' % number, groups, bool).name for number in range(100)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert printed.split() == winners({"a": 1, "b": 2, "c": 1}, KEYS[:100])
    assert "".join(printed.split()[:8]) == "bbbbbabb"
