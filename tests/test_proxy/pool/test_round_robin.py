"""Turns never lose a member, and shares follow the weights, whatever comes and goes meanwhile."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_proxy.pool.round_robin import Turns

names = st.sampled_from("abcdefgh")
steps = st.one_of(
    st.tuples(st.just("put"), names, st.integers(0, 2), st.integers(0, 3)),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("take"), st.frozensets(names, max_size=5)),
)


@given(st.lists(steps, max_size=60))
def test_whoever_takes_part_and_is_eligible_gets_a_turn_and_nobody_else(
    script: list[tuple[Any, ...]],
) -> None:
    turns, places = Turns[str](), dict[str, tuple[int, int]]()
    for step in script:
        match step:
            case ("put", name, tier, weight):
                turns.put(name, tier, weight)
                places[name] = tier, weight
            case ("remove", name):
                turns.remove(name)
                places.pop(name, None)
            case ("take", excluded):
                is_eligible = (frozenset("abcdefgh") - excluded).__contains__
                top = highest(places, excluded)
                taken = turns.take(is_eligible)
                assert taken in top if top else taken is None
                for name in places.keys() - excluded:
                    could = turns.could_take(name, is_eligible)
                    assert could == (name in top)
    top = highest(places)
    # A weight of none is for when nobody else is there.
    everybody = {name for name in top if places[name][1]} or top
    assert {turns.take(lambda _: True) for _ in range(500)} - {None} == everybody


def highest(places: dict[str, tuple[int, int]], excluded: frozenset[str] = frozenset()) -> set[str]:
    eligible = {name: tier for name, (tier, _) in places.items() if name not in excluded}
    return {name for name, tier in eligible.items() if tier == max(eligible.values())}


@given(st.dictionaries(names, st.integers(1, 9), min_size=1), st.integers(1, 5))
def test_shares_are_the_weights_in_every_round(weights: dict[str, int], rounds: int) -> None:
    turns = Turns[str]()
    for name, weight in weights.items():
        turns.put(name, 0, weight)
    for _ in range(rounds):
        assert Counter(turns.take(lambda _: True) for _ in range(sum(weights.values()))) == weights


@given(st.dictionaries(names, st.integers(1, 5), min_size=2), st.data())
def test_shares_are_the_weights_again_after_somebody_was_away(weights: dict[str, int], data: st.DataObject) -> None:
    turns = Turns[str]()
    for name, weight in weights.items():
        turns.put(name, 0, weight)
    for _ in range(data.draw(st.integers(0, 6))):
        away = data.draw(st.sampled_from(sorted(weights)))
        turns.remove(away)
        for _ in range(data.draw(st.integers(0, 12))):
            turns.take(lambda _: True)
        turns.put(away, 0, weights[away])
    rounds = 40
    counted = Counter(turns.take(lambda _: True) for _ in range(rounds * sum(weights.values())))
    for name, weight in weights.items():
        # What one was owed before is made good once: never more than a few rounds' worth.
        assert abs(counted[name] - rounds * weight) <= 3 * sum(weights.values())


def test_equals_take_turns_and_one_that_returns_waits_for_those_who_stayed() -> None:
    turns = Turns[str]()
    for name in "abc":
        turns.put(name, 0, 1)
    assert [turns.take(lambda _: True) for _ in range(2)] == ["a", "b"]
    turns.remove("c")
    turns.put("c", 0, 1)
    turns.put("a", 0, 1)  # takes part already, and keeps its place
    assert [turns.take(lambda _: True) for _ in range(4)] == ["a", "b", "c", "a"]
