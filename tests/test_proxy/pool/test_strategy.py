"""Which account comes first by its windows: what resets soonest, what is least used, and what is held in reserve."""

from collections import Counter

import pytest

from oauth_pool_proxy.config import Strategy
from oauth_pool_proxy.pool.account import Account, Reason, Requirements
from oauth_pool_proxy.pool.limits import Window, windows_of
from oauth_pool_proxy.pool.pool import Pool
from tests.test_proxy.pool.test_pool import NOW, account, entry, picks, token

HOUR, DAY = 3600.0, 86400.0


def limits(**windows: tuple[float | None, float | None]) -> list[tuple[bytes, bytes]]:
    """`_7d=(0.4, DAY)`: two fifths of that window are used, and it is reset in a day."""
    headers = []
    for window, (used, resets_in) in windows.items():
        prefix = f"anthropic-ratelimit-unified-{window[1:]}-".encode()
        if used is not None:
            headers.append((prefix + b"utilization", b"%f" % used))
        if resets_in is not None:
            headers.append((prefix + b"reset", b"%d" % (NOW + resets_in)))
    return headers


def pool_of(
    strategy: Strategy = Strategy.ROUND_ROBIN,
    reserve: float = 1.0,
    *,
    tiers: dict[str, int] | None = None,
    **told: list[tuple[bytes, bytes]] | None,
) -> Pool:
    """Accounts that were asked before, and what their answers said of their windows; `None`: never asked."""
    pool = Pool(strategy, reserve)
    pool.replace([entry(name, priority=(tiers or {}).get(name, 0)) for name in told])
    for one in pool.accounts:
        one.adopt(token(1, NOW + 30 * DAY))
        if (headers := told[one.name]) is not None:
            answered(one, headers)
    return pool


def answered(one: Account, headers: list[tuple[bytes, bytes]]) -> None:
    one.begin()
    one.note_limits(headers)
    one.end()


class TestResetSoonest:
    def test_the_account_whose_week_is_reset_first_comes_first_until_it_cannot_be_used(self) -> None:
        pool = pool_of(
            Strategy.RESET_SOONEST,
            a=limits(_7d=(0.1, 5 * DAY), _5h=(0.1, HOUR)),
            b=limits(_7d=(0.9, 2 * DAY), _5h=(0.9, 4 * HOUR)),
            c=limits(_7d=(0.0, 3 * DAY)),
        )
        assert picks(pool, 3) == "bbb"
        account(pool, "b").cool_down(Reason.QUOTA_EXHAUSTED, NOW + DAY, NOW)
        assert picks(pool, 3) == "ccc"
        assert picks(pool, 2, NOW + DAY) == "bb"

    def test_accounts_that_say_nothing_of_their_week_come_last_and_take_turns(self) -> None:
        pool = pool_of(Strategy.RESET_SOONEST, a=[], b=limits(_7d=(0.9, DAY)), c=limits(_5h=(0.1, HOUR)))
        assert picks(pool, 2) == "bb"
        account(pool, "b").cool_down(Reason.QUOTA_EXHAUSTED, NOW + DAY, NOW)
        assert Counter(picks(pool, 4)) == {"a": 2, "c": 2}

    def test_an_account_that_was_never_asked_is_asked_once_so_that_its_week_becomes_known(self) -> None:
        pool = pool_of(Strategy.RESET_SOONEST, a=limits(_7d=(0.1, DAY)), b=None, c=None)
        weeks = {"b": limits(_7d=(0.1, 3 * DAY)), "c": limits(_7d=(0.1, HOUR))}
        for _ in range(2):
            first = pool.pick(NOW)
            assert first
            answered(first, weeks.pop(first.name))
        assert picks(pool, 3) == "ccc"

    def test_an_account_that_was_asked_and_said_nothing_is_not_asked_first_again(self) -> None:
        pool = pool_of(Strategy.RESET_SOONEST, a=limits(_7d=(0.1, DAY)), b=None)
        assert picks(pool, 1) == "b"
        account(pool, "b").begin()
        assert picks(pool, 2) == "aa"

    def test_a_week_that_has_been_reset_is_not_known_any_more(self) -> None:
        pool = pool_of(Strategy.RESET_SOONEST, a=limits(_7d=(0.1, HOUR)), b=limits(_7d=(0.1, DAY)))
        assert [picks(pool, 2, NOW + HOUR - 1), picks(pool, 2, NOW + HOUR)] == ["aa", "bb"]

    def test_a_tier_counts_more_than_a_week(self) -> None:
        pool = pool_of(Strategy.RESET_SOONEST, tiers={"a": 1}, a=limits(_7d=(0.1, 5 * DAY)), b=limits(_7d=(0.1, DAY)))
        assert picks(pool, 2) == "aa"


class TestLeastUsed:
    def test_the_fuller_of_the_two_windows_counts(self) -> None:
        pool = pool_of(
            Strategy.LEAST_USED,
            a=limits(_5h=(0.1, HOUR), _7d=(0.8, DAY)),
            b=limits(_5h=(0.6, HOUR), _7d=(0.2, DAY)),
            c=limits(_5h=(0.7, HOUR), _7d=(0.0, DAY), _7d_opus=(0.99, DAY)),
        )
        assert picks(pool, 2) == "bb"
        account(pool, "b").note_limits(limits(_5h=(0.75, HOUR), _7d=(0.2, DAY)))
        assert picks(pool, 2) == "cc"

    def test_equals_take_turns_and_who_said_nothing_is_taken_for_unused(self) -> None:
        pool = pool_of(
            Strategy.LEAST_USED, a=limits(_5h=(0.002, HOUR)), b=[], c=limits(_5h=(0.3, HOUR)), d=limits(_5h=(None, 5))
        )
        assert Counter(picks(pool, 6)) == {"a": 2, "b": 2, "d": 2}

    def test_a_window_that_has_been_reset_is_empty(self) -> None:
        pool = pool_of(Strategy.LEAST_USED, a=limits(_5h=(0.9, HOUR)), b=limits(_7d=(0.5, DAY)))
        assert [picks(pool, 2, NOW + HOUR - 1), picks(pool, 2, NOW + HOUR)] == ["bb", "aa"]


class TestReserve:
    @pytest.mark.parametrize("conversation", [None, b"k"], ids=["a request", "a conversation"])
    def test_accounts_used_beyond_it_come_last_and_are_used_when_nobody_else_is_there(
        self, conversation: bytes | None
    ) -> None:
        pool = pool_of(
            reserve=0.9,
            a=limits(_5h=(0.91, HOUR)),
            b=limits(_5h=(0.9, HOUR)),
            c=limits(_7d=(0.95, DAY)),
            d=limits(_7d_opus=(0.99, DAY)),
        )
        names = [
            picked.name
            for number in range(40)
            if (picked := pool.pick(NOW, Requirements(conversation=conversation and conversation + bytes((number,)))))
        ]
        assert set(names) == {"b", "d"}
        for name in "bd":
            account(pool, name).cool_down(Reason.RATE_LIMITED, NOW + 5, NOW)
        rest = [pool.pick(NOW, Requirements(conversation=conversation and bytes((number,)))) for number in range(40)]
        assert set(rest) == {account(pool, "a"), account(pool, "c")}

    def test_it_counts_within_a_tier_only(self) -> None:
        pool = pool_of(reserve=0.9, tiers={"a": 1}, a=limits(_5h=(0.99, HOUR)), b=[])
        assert picks(pool, 2) == "aa"

    def test_a_window_that_has_been_reset_is_not_used_beyond_it(self) -> None:
        pool = pool_of(reserve=0.9, a=limits(_5h=(0.99, HOUR)), b=limits(_7d=(0.95, DAY)))
        assert Counter(picks(pool, 2)) == {"a": 1, "b": 1}  # nobody else is there
        assert picks(pool, 2, NOW + HOUR) == "aa"

    def test_one_spares_nobody(self) -> None:
        pool = pool_of(reserve=1.0, a=limits(_5h=(1.2, HOUR)), b=[])
        assert Counter(picks(pool, 4)) == {"a": 2, "b": 2}

    def test_a_conversation_stays_with_an_account_in_reserve(self) -> None:
        pool = pool_of(reserve=0.9, tiers={"low": -1}, a=limits(_5h=(0.99, HOUR)), b=[], low=[])
        assert [pool.may_pick(f"uid-{name}", NOW) for name in ("a", "b", "low")] == [True, True, False]


@pytest.mark.parametrize("strategy", Strategy)
def test_a_conversation_s_account_is_the_same_whatever_this_proxy_has_heard_of_windows(strategy: Strategy) -> None:
    """Each proxy hears of them with its own answers, so they cannot decide where all are to agree."""
    knowing, ignorant = (pool_of(strategy, a=None, b=None, c=None, d=None) for _ in range(2))
    for number, one in enumerate(knowing.accounts):
        answered(one, limits(_7d=(number / 10, DAY * (9 - number))))
    keys = [Requirements(conversation=b"%d" % number) for number in range(40)]
    homes = [[picked.name for key in keys if (picked := pool.pick(NOW, key))] for pool in (knowing, ignorant)]
    assert homes[0] == homes[1] and set(homes[0]) == set("abcd")


def test_windows_are_read_once_for_each_change_and_not_at_all_where_they_decide_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[object] = []

    def counting(headers: list[tuple[bytes, bytes]]) -> tuple[Window, ...]:
        reads.append(headers)
        return windows_of(headers)

    monkeypatch.setattr("oauth_pool_proxy.pool.account.windows_of", counting)
    for strategy, reserve, expected in [
        (Strategy.ROUND_ROBIN, 1.0, 0),
        (Strategy.ROUND_ROBIN, 0.5, 2),
        (Strategy.LEAST_USED, 1.0, 2),
    ]:
        reads.clear()
        pool = pool_of(strategy, reserve, a=[], b=[])
        for used in (0.1, 0.1, 0.1, 0.2):
            account(pool, "a").note_limits(limits(_5h=(used, HOUR), _7d=(0.3, DAY)))
            picks(pool, 10)
        assert len(reads) == expected
