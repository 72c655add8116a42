"""A conversation stays where its prompt cache is warm, goes home when that costs nothing, and is forgotten in time."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_proxy.pool.affinity import Affinity, Outcome, key_of
from oauth_pool_proxy.pool.request_body import Description
from oauth_pool_proxy.upstream.headers import Fields
from tests.test_proxy.pool.test_request_body import describe

KEY = b"k" * 16
LIMIT, IDLE, COLD = 3, 3600.0, 300.0


def at_home(_: bytes) -> str:
    return "a"


def only(*uids: str) -> Callable[[str], bool]:
    return lambda uid: uid in uids


def conversation(*answers: tuple[str, float]) -> Affinity:
    """One that belongs to `a` and was answered by these accounts at these times."""
    affinity = Affinity(at_home, LIMIT, IDLE, COLD)
    for uid, now in answers:
        affinity.answered(KEY, uid, now)
    return affinity


@pytest.mark.parametrize(
    ("answers", "now", "available", "account"),
    [
        pytest.param([], 0, "abc", None, id="new"),
        pytest.param([("a", 0)], 10, "abc", "a", id="it keeps its account"),
        pytest.param([("a", 0)], 3000, "abc", "a", id="even with a cold cache"),
        pytest.param([("a", 0)], 10, "bc", None, id="its account is not available"),
        pytest.param([("a", 0)], 3600, "abc", "a", id="idle, but not for too long"),
        pytest.param([("a", 0)], 3601, "abc", None, id="idle for too long"),
        pytest.param([("a", 0), ("b", 10)], 309, "abc", "b", id="moved, and warm there"),
        pytest.param([("a", 0), ("b", 10)], 310, "abc", None, id="moved, and cold there"),
        pytest.param([("a", 0), ("b", 10)], 20, "ac", None, id="moved, and not available there"),
        pytest.param([("a", 0), ("b", 10), ("b", 300)], 500, "abc", "b", id="every answer keeps it warm"),
        pytest.param([("a", 0), ("b", 10), ("a", 400)], 410, "abc", "a", id="back home"),
        pytest.param([("a", 0), ("b", 10), ("a", 400)], 3000, "abc", "a", id="back home, it stays there"),
        pytest.param([("a", 0), ("b", 10), ("c", 20)], 30, "abc", "c", id="moved twice"),
        pytest.param([("a", 0), ("b", 10), ("c", 20)], 400, "abc", None, id="moved twice, and cold there"),
        pytest.param([("b", 0)], 299, "abc", "b", id="began away from home, and warm there"),
        pytest.param([("b", 0)], 300, "abc", None, id="began away from home, and cold there"),
        pytest.param([("a", 0), ("a", 5000)], 5400, "abc", "a", id="began anew after a long idle time"),
    ],
)
def test_the_account_for_a_conversation(
    answers: list[tuple[str, float]], now: float, available: str, account: str | None
) -> None:
    assert conversation(*answers).account_for(KEY, now, only(*available)) == account


def test_looking_does_not_keep_a_cache_warm() -> None:
    affinity = conversation(("a", 0), ("b", 10))
    affinity.account_for(KEY, 200, only("b"))
    assert affinity.account_for(KEY, 400, only("a", "b")) is None


def test_a_conversation_stays_where_it_is_when_its_key_would_choose_another_account_now() -> None:
    """As when an account joins."""
    homes = ["a"]
    affinity = Affinity(lambda _: homes[-1], LIMIT, IDLE, COLD)
    affinity.answered(KEY, "a", 0)
    homes.append("d")
    assert affinity.answered(KEY, "a", 1) is Outcome.HIT
    assert affinity.account_for(KEY, 3000, only("a", "d")) == "a"


def test_outcomes_tell_new_from_hit_from_moved() -> None:
    affinity = Affinity(at_home, LIMIT, IDLE, COLD)
    answers = [("a", 0), ("a", 1), ("b", 2), ("b", 3), ("a", 4), ("a", 5000), ("a", 5001)]
    outcomes = [affinity.answered(KEY, uid, now) for uid, now in answers]
    new, hit, moved = Outcome.NEW, Outcome.HIT, Outcome.MOVED
    assert outcomes == [new, hit, moved, hit, moved, new, hit]


def test_the_conversation_that_was_answered_longest_ago_goes_first() -> None:
    affinity = Affinity(at_home, LIMIT, IDLE, COLD)
    for now, key in enumerate([b"1", b"2", b"3", b"1", b"4"]):
        affinity.answered(key, "a", now)
    affinity.account_for(b"2", 5, only("a"))
    assert [affinity.account_for(key, 5, only("a")) for key in (b"1", b"2", b"3", b"4")] == ["a", None, "a", "a"]


def test_each_new_conversation_has_two_dropped_that_are_idle() -> None:
    affinity = Affinity(at_home, 1000, IDLE, COLD)
    for number in range(100):
        affinity.answered(b"%d" % number, "a", 0)
    sizes = []
    for number in range(60):
        affinity.answered(b"new %d" % number, "a", IDLE + 1)
        sizes.append(len(affinity))
    assert sizes[:2] == [99, 98]
    assert sizes[-1] == 60


def test_one_that_was_idle_for_too_long_and_is_not_dropped_yet_begins_anew() -> None:
    affinity = Affinity(at_home, 1000, IDLE, COLD)
    for number in range(20):
        affinity.answered(b"%d" % number, "a", 0)
    assert affinity.answered(b"10", "b", IDLE + 1) is Outcome.NEW
    for number in range(20):
        affinity.answered(b"new %d" % number, "a", IDLE + 2)
    assert affinity.account_for(b"10", IDLE + 2, only("a", "b")) == "b"
    assert len(affinity) == 21


class Plain:
    """The same rules, remembering everything."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, str, float]] = []

    def of(self, key: bytes, now: float) -> list[tuple[str, float]]:
        """The answers of a conversation that is still known."""
        recent = list(dict.fromkeys(known for known, _, _ in reversed(self.answers)))[:LIMIT]
        mine = [(uid, at) for known, uid, at in self.answers if known == key]
        return mine if key in recent and mine and now - mine[-1][1] <= IDLE else []

    def account_for(self, key: bytes, now: float, available: str) -> str | None:
        mine = self.of(key, now)
        if not mine:
            return None
        uid, used_at = mine[-1]
        is_over = uid != "a" and now - used_at >= COLD
        return uid if uid in available and not is_over else None

    def answered(self, key: bytes, uid: str, now: float) -> Outcome:
        mine = self.of(key, now)
        if not mine:
            self.answers = [answer for answer in self.answers if answer[0] != key]
        self.answers.append((key, uid, now))
        return Outcome.NEW if not mine else Outcome.HIT if mine[-1][0] == uid else Outcome.MOVED


steps = st.tuples(
    st.sampled_from([b"1", b"2", b"3", b"4", b"5"]),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([0.0, 1.0, 200.0, 300.0, 1000.0, 3600.0, 3601.0]),
    st.sampled_from(["", "a", "b", "ab", "bc", "abc"]),
)


@given(st.lists(steps, max_size=40))
def test_forgetting_changes_no_advice(script: list[tuple[bytes, str, float, str]]) -> None:
    affinity, plain, now = Affinity(at_home, LIMIT, IDLE, COLD), Plain(), 0.0
    for key, uid, passed, available in script:
        now += passed
        advice = affinity.account_for(key, now, only(*available))
        assert advice == plain.account_for(key, now, available)
        assert affinity.answered(key, uid, now) == plain.answered(key, uid, now)
        assert len(affinity) <= LIMIT


def described(**body: object) -> Callable[[], Description | None]:
    return lambda: describe(json.dumps(body).encode())


HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def session(value: bytes) -> Fields:
    return {b"accept": b"*/*", b"x-claude-code-session-id": value}


def test_a_conversation_is_known_by_its_header_then_its_user_id_then_its_opening() -> None:
    def unasked() -> Description | None:
        raise AssertionError("the header is enough")

    keys = [
        key_of(session(b"s1"), unasked),
        key_of(session(b"s2"), unasked),
        key_of({}, described(metadata={"user_id": "s1"}, **HELLO)),
        key_of(session(b""), described(metadata={"user_id": "s2"}, **HELLO)),
        key_of({}, described(**HELLO)),
        key_of({}, described(system="x", **HELLO)),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key is not None and len(key) == 16 for key in keys)


def test_the_same_conversation_has_the_same_key() -> None:
    assert key_of(session(b"s1"), lambda: None) == key_of({b"x-claude-code-session-id": b"s1"}, described(**HELLO))
    one, other = described(metadata={"user_id": "u"}, **HELLO), described(metadata={"user_id": "u"}, messages=[])
    assert key_of({}, one) == key_of({}, other)


def test_what_one_kind_of_name_says_is_not_taken_for_another() -> None:
    assert key_of(session(b'"s1"'), lambda: None) != key_of({}, described(metadata={"user_id": "s1"}))


@pytest.mark.parametrize(
    "describing",
    [lambda: None, described(), described(system="x", messages=[]), described(metadata={"user_id": ""})],
    ids=["no JSON", "nothing in it", "no user message", "empty user id"],
)
def test_without_anything_that_tells_it_from_others_there_is_no_key(
    describing: Callable[[], Description | None],
) -> None:
    assert key_of(session(b""), describing) is None
    assert key_of({}, describing) is None
