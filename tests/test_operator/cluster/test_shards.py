"""Entries that grow may move, and no ConfigMap ever gets larger than it may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_operator.cluster.shards import MOST_SHARDS, NoRoom, Shards, Slot, room

EMPTY = room("a", "")


def shards(*, preferred: int = 0, most: int = 4) -> Shards:
    """`most` entries of one byte fit into one."""
    return Shards(preferred_bytes=preferred * (EMPTY + 1), most_bytes=most * (EMPTY + 1), may_move=True)


def test_an_entry_that_grows_stays_while_there_is_room() -> None:
    of = shards(preferred=4)
    for key in "ab":
        of.put(key, "x")
    assert of.put("a", "x" * EMPTY) == Slot(0, "a")
    assert of.slots("a") == [Slot(0, "a")]


def test_an_entry_that_outgrows_its_config_map_is_in_two_until_the_new_one_is_written() -> None:
    of = shards(preferred=4)
    for key in "abcd":
        of.put(key, "x")
    assert of.put("a", "xx") == Slot(1, "a")
    assert of.slots("a") == [Slot(1, "a"), Slot(0, "a")]
    assert of[0].wanted["a"] == "x"  # readers keep what they have
    assert of.left("a") == [Slot(0, "a")]
    assert ("a" in of[0].wanted, of.slots("a")) == (False, [Slot(1, "a")])


def test_an_entry_that_comes_back_before_its_old_place_is_cleared_does_not_leave_it() -> None:
    of = shards(preferred=4)
    for key in "abcd":
        of.put(key, "x")
    of.put("a", "xx")
    of[0].want("b", None)
    of[0].want("c", None)
    for number in range(1, MOST_SHARDS):
        of[number].want("filler", "x" * (3 * EMPTY - number))
    assert of.put("a", "x" * EMPTY) == Slot(0, "a")
    assert of.left("a") == [Slot(1, "a")]
    assert of[0].wanted["a"] == "x" * EMPTY


def test_a_family_whose_entries_do_not_move_lets_them_grow() -> None:
    of = Shards(preferred_bytes=EMPTY + 1, most_bytes=EMPTY + 1)
    of.put("a", "x")
    assert of.put("a", "xxx") == Slot(0, "a")


def test_an_entry_that_fits_nowhere_changes_nothing() -> None:
    of = shards(most=1)
    of.put("a", "x")
    with pytest.raises(NoRoom):
        of.put("a", "xx")
    with pytest.raises(NoRoom):
        of.put("b", "xx")
    assert (of.slots("a"), of[0].wanted, of.slot("b")) == ([Slot(0, "a")], {"a": "x"}, None)


@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.integers(0, 5 * EMPTY), st.booleans())))
def test_whatever_is_put_the_longest_that_fits_is_known_and_no_config_map_outgrows_its_limit(
    steps: list[tuple[str, int, bool]],
) -> None:
    of = shards(preferred=1)
    for key, size, is_written in steps:
        largest, before = of.largest(key), of.slot(key)
        kept = of[before.shard].wanted.get(key) if before is not None else None
        try:
            slot = of.put(key, "x" * size)
        except NoRoom:
            assert size > largest
            slot, size = before or Slot(0, key), len(kept or "")
        else:
            assert size <= largest
            assert of[slot.shard].wanted[key] == "x" * size
        if is_written:
            of.left(key)
        for shard in of:
            assert shard.taken == sum(room(*item) for item in shard.wanted.items()) <= of.most_bytes
