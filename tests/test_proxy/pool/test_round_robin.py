"""No member loses its turn, and shares follow the weights, whatever comes and goes meanwhile."""

import math
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_proxy.pool.round_robin import Tier, WeightedRoundRobin

TIER = Tier(0)

names = st.sampled_from("abcdefgh")
tiers = st.builds(Tier, st.integers(-1, 1), st.booleans(), st.sampled_from([-math.inf, 0.0, 7.5, math.inf]))
steps = st.one_of(
    st.tuples(st.just("put"), names, tiers, st.integers(0, 3)),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("take"), st.frozensets(names, max_size=5)),
)


@given(st.lists(steps, max_size=60))
def test_whoever_takes_part_and_is_eligible_gets_a_turn_and_nobody_else(
    script: list[tuple[Any, ...]],
) -> None:
    turns, places = WeightedRoundRobin[str](), dict[str, tuple[Tier, int]]()
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
                eligible = {name: tier for name, (tier, _) in places.items() if name not in excluded}
                taken = turns.take(is_eligible)
                assert taken in first(eligible) if eligible else taken is None
                assert turns.has_any(is_eligible) == bool(eligible)
                assert grouped(turns) == expected_groups(places)
                level = min((tier.level for tier in eligible.values()), default=None)
                for name, tier in eligible.items():
                    assert turns.is_of_first_level(name, is_eligible) == (tier.level == level)
    assert grouped(turns) == expected_groups(places)
    top = first({name: tier for name, (tier, _) in places.items()})
    # A weight of none is for when nobody else is there.
    everybody = {name for name in top if places[name][1]} or top
    assert {turns.take(lambda _: True) for _ in range(500)} - {None} == everybody


def first(eligible: dict[str, Tier]) -> set[str]:
    return {name for name, tier in eligible.items() if tier == min(eligible.values())}


Groups = list[dict[int, set[str]]]


def grouped(turns: WeightedRoundRobin[str]) -> Groups:
    return [{weight: set(members) for weight, members in groups} for groups in turns.groups()]


def expected_groups(places: dict[str, tuple[Tier, int]]) -> Groups:
    levels: dict[tuple[int, bool], dict[int, set[str]]] = {}
    for name, (tier, weight) in places.items():
        levels.setdefault((tier.level, tier.is_reserve), {}).setdefault(weight, set()).add(name)
    return [levels[level] for level in sorted(levels)]


@given(st.dictionaries(names, st.integers(1, 9), min_size=1), st.integers(1, 5))
def test_shares_are_the_weights_in_every_round(weights: dict[str, int], rounds: int) -> None:
    turns = WeightedRoundRobin[str]()
    for name, weight in weights.items():
        turns.put(name, TIER, weight)
    for _ in range(rounds):
        assert Counter(turns.take(lambda _: True) for _ in range(sum(weights.values()))) == weights


@given(st.dictionaries(names, st.integers(1, 5), min_size=2), st.data())
def test_shares_are_the_weights_again_after_somebody_was_away(weights: dict[str, int], data: st.DataObject) -> None:
    turns = WeightedRoundRobin[str]()
    for name, weight in weights.items():
        turns.put(name, TIER, weight)
    for _ in range(data.draw(st.integers(0, 6))):
        away = data.draw(st.sampled_from(sorted(weights)))
        turns.remove(away)
        for _ in range(data.draw(st.integers(0, 12))):
            turns.take(lambda _: True)
        turns.put(away, TIER, weights[away])
    rounds = 40
    counted = Counter(turns.take(lambda _: True) for _ in range(rounds * sum(weights.values())))
    for name, weight in weights.items():
        # What one was owed before is made good once: never more than a few rounds' worth.
        assert abs(counted[name] - rounds * weight) <= 3 * sum(weights.values())


def test_equals_take_turns_and_one_that_returns_waits_for_those_who_stayed() -> None:
    turns = WeightedRoundRobin[str]()
    for name in "abc":
        turns.put(name, TIER, 1)
    assert [turns.take(lambda _: True) for _ in range(2)] == ["a", "b"]
    turns.remove("c")
    turns.put("c", TIER, 1)
    turns.put("a", TIER, 1)  # takes part already, and keeps its place
    assert [turns.take(lambda _: True) for _ in range(4)] == ["a", "b", "c", "a"]
