"""Picking, cooling down, and what survives a swap. Time is a number."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from oauth_pool_proxy.errors import PoolCoolingDown
from oauth_pool_proxy.pool.account import MOST_LIMITED_MODELS, AccessToken, Account, Reason, Requirements, State
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.pool import Pool
from tests.support.proxy_server import index_entry, rfc3339

NOW = 1_800_000_000.0


def entry(name: str, **changes: Any) -> IndexEntry:
    return msgspec.convert(index_entry(name, **changes), IndexEntry)


def pool_of(*entries: IndexEntry) -> Pool:
    """A pool whose accounts have access tokens that last an hour."""
    pool = Pool()
    pool.replace(entries)
    for account in pool.accounts:
        account.adopt(token(account.entry.generation))
    return pool


def token(generation: int = 1, expires_at: float = NOW + 3600) -> AccessToken:
    return AccessToken(generation, "fingerprint", expires_at, "secret")


def account(pool: Pool, name: str) -> Account:
    return next(account for account in pool.accounts if account.name == name)


def picks(pool: Pool, count: int, now: float = NOW) -> str:
    return "".join(picked.name if (picked := pool.pick(now)) else "-" for _ in range(count))


def cooling(name: str, until: float, **changes: Any) -> IndexEntry:
    return entry(name, status="CoolingDown", cooldownUntil=rfc3339(until), **changes)


class TestPick:
    def test_equal_accounts_take_turns(self) -> None:
        assert picks(pool_of(entry("a"), entry("b"), entry("c")), 7) == "abcabca"

    def test_weights_are_shares_spread_evenly(self) -> None:
        pool = pool_of(entry("a", weight=5), entry("b", weight=1), entry("c", weight=1))
        assert picks(pool, 7) == "abaaaca"
        assert Counter(picks(pool, 700)) == {"a": 500, "b": 100, "c": 100}

    def test_a_weight_of_none_is_used_only_when_nobody_else_is_there(self) -> None:
        assert picks(pool_of(entry("a", weight=0), entry("b")), 3) == "bbb"
        assert picks(pool_of(entry("a", weight=0)), 2) == "aa"

    def test_the_highest_tier_that_has_somebody(self) -> None:
        pool = pool_of(entry("a", priority=-1), entry("b", priority=3), entry("c", priority=3))
        assert picks(pool, 4) == "bcbc"
        account(pool, "b").cool_down(Reason.RATE_LIMITED, NOW + 10, NOW)
        assert picks(pool, 2) == "cc"
        account(pool, "c").cool_down(Reason.RATE_LIMITED, NOW + 10, NOW)
        assert picks(pool, 2) == "aa"
        assert picks(pool, 2, NOW + 10) in ("bc", "cb")

    def test_tried_accounts_are_not_picked_again(self) -> None:
        pool = pool_of(entry("a"), entry("b"))
        picked = pool.pick(NOW, Requirements(tried={"uid-a"}))
        assert picked is not None and picked.name == "b"
        assert pool.pick(NOW, Requirements(tried={"uid-a", "uid-b"})) is None

    def test_an_account_with_all_its_requests_under_way_is_passed_over(self) -> None:
        pool = pool_of(entry("a", maxConcurrentRequests=2), entry("b"))
        for _ in range(2):
            account(pool, "a").begin()
        assert picks(pool, 3) == "bbb"
        account(pool, "a").end()
        assert "a" in picks(pool, 2)


class TestState:
    @pytest.mark.parametrize(
        ("status", "state"),
        [
            ("Available", State.AVAILABLE),
            ("CoolingDown", State.COOLING_DOWN),
            ("Disabled", State.DISABLED),
            ("LoginRequired", State.DISABLED),
            ("Suspended", State.DISABLED),
            ("SomethingNew", State.DISABLED),
        ],
    )
    def test_the_operator_s_word_decides(self, status: str, state: State) -> None:
        pool = pool_of(entry("a", status=status, cooldownUntil=rfc3339(NOW + 60)))
        assert pool.accounts[0].state(NOW) is state

    @pytest.mark.parametrize("status", ["Refreshing", "StorageUnavailable"])
    def test_the_operator_s_own_trouble_does_not_stop_a_valid_access_token(self, status: str) -> None:
        pool = pool_of(entry("a"))
        (one,) = pool.accounts
        pool.replace([entry("a", status=status, generation=0)])
        assert [one.state(NOW), one.state(NOW + 3600)] == [State.AVAILABLE, State.DISABLED]
        pool.replace([entry("a", status=status, cooldownUntil=rfc3339(NOW + 60))])
        assert one.state(NOW) is State.COOLING_DOWN

    def test_a_cooldown_whose_time_has_passed_is_over_when_looked_at(self) -> None:
        pool = pool_of(cooling("a", NOW + 60))
        assert [pool.accounts[0].state(now) for now in (NOW + 59, NOW + 60)] == [State.COOLING_DOWN, State.AVAILABLE]

    def test_a_cooldown_without_an_end_lasts_until_the_operator_says_otherwise(self) -> None:
        pool = pool_of(entry("a", status="CoolingDown"))
        assert pool.accounts[0].state(NOW + 1e8) is State.DISABLED  # its access token has expired by then
        pool.accounts[0].adopt(token(1, NOW + 1e9))
        assert pool.accounts[0].state(NOW + 1e8) is State.COOLING_DOWN

    def test_without_a_valid_access_token_an_account_is_of_no_use(self) -> None:
        pool = Pool()
        pool.replace([entry("a")])
        (lonely,) = pool.accounts
        assert lonely.state(NOW) is State.DISABLED
        lonely.adopt(token(1, NOW + 10))
        assert [lonely.state(now) for now in (NOW + 9, NOW + 10)] == [State.AVAILABLE, State.DISABLED]

    def test_counts(self) -> None:
        pool = pool_of(entry("a"), cooling("b", NOW + 9), entry("c", status="Disabled"))
        assert pool.counts(NOW) == {
            "accounts_total": 3,
            "accounts_available": 1,
            "accounts_cooling": 1,
            "accounts_disabled": 1,
        }


class TestCooldown:
    def test_the_same_limit_met_twice_is_news_once(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        assert one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        assert not one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1020, NOW + 1)  # another jitter
        assert not one.cool_down(Reason.RATE_LIMITED, NOW + 5, NOW + 1)  # does not shorten it
        assert one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 9000, NOW + 2)
        assert one.cooling_until == NOW + 9000

    def test_the_longer_of_local_and_index_counts(self) -> None:
        pool = pool_of(cooling("a", NOW + 100))
        (one,) = pool.accounts
        one.cool_down(Reason.RATE_LIMITED, NOW + 50, NOW)
        assert one.cooling_until == NOW + 100
        pool.replace([cooling("a", NOW + 20)])
        assert one.cooling_until == NOW + 50

    def test_an_index_that_has_not_heard_of_it_does_not_end_it(self) -> None:
        pool = pool_of(entry("a"))
        (one,) = pool.accounts
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        pool.replace([entry("a", weight=2)])
        assert one.state(NOW + 1) is State.COOLING_DOWN

    def test_the_end_of_an_older_cooldown_does_not_end_it(self) -> None:
        pool = pool_of(cooling("a", NOW - 5))
        (one,) = pool.accounts
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        pool.replace([cooling("a", NOW - 5, weight=2)])
        pool.replace([entry("a")])
        assert one.state(NOW + 2) is State.COOLING_DOWN

    def test_an_operator_that_knows_of_it_can_end_it(self) -> None:
        pool = pool_of(entry("a"))
        (one,) = pool.accounts
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        pool.replace([cooling("a", NOW + 990)])
        assert one.cooling_until == NOW + 1000
        pool.replace([entry("a")])
        assert one.state(NOW + 2) is State.AVAILABLE

    def test_an_operator_whose_cooldown_covered_it_already_can_end_it(self) -> None:
        """Then the report changes nothing in the index, and there is no later word of it."""
        pool = pool_of(cooling("a", NOW + 5000))
        (one,) = pool.accounts
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        pool.replace([entry("a")])
        assert one.state(NOW + 2) is State.AVAILABLE

    def test_it_belongs_to_the_account_and_not_to_the_access_token(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        one.adopt(token(2))
        assert one.state(NOW) is State.COOLING_DOWN


class TestRejection:
    def test_it_lasts_a_little_while(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        assert one.reject(Reason.UNAUTHORIZED, 1, NOW)
        assert not one.reject(Reason.UNAUTHORIZED, 1, NOW + 1)
        assert one.state(NOW + 60) is State.DISABLED
        assert one.state(NOW + 62) is State.AVAILABLE

    def test_a_newer_access_token_ends_it_and_the_same_one_does_not(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        one.reject(Reason.UNAUTHORIZED, 1, NOW)
        one.adopt(token(1))
        assert one.state(NOW) is State.DISABLED
        one.adopt(token(2))
        assert one.state(NOW) is State.AVAILABLE

    def test_it_lasts_as_long_as_its_reason_says_and_a_shorter_one_does_not_end_it(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        assert one.reject(Reason.BILLING, 1, NOW, 600)
        assert not one.reject(Reason.UNAUTHORIZED, 1, NOW + 1)
        assert one.why_not(NOW + 599) == "Billing"
        assert one.state(NOW + 600) is State.AVAILABLE

    @pytest.mark.parametrize("reason", [Reason.BILLING, Reason.FORBIDDEN])
    def test_of_the_account_it_is_ended_by_an_operator_that_has_shown_it(self, reason: Reason) -> None:
        (one,) = pool_of(entry("a")).accounts
        one.reject(reason, 1, NOW, 300)
        one.update(entry("a"))  # the report has not arrived yet
        assert one.why_not(NOW) == reason
        one.update(cooling("a", NOW + 300))
        assert one.why_not(NOW) == reason
        one.update(entry("a"))
        assert one.state(NOW) is State.AVAILABLE

    def test_of_its_token_it_is_not_ended_by_the_end_of_a_cooldown(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        one.reject(Reason.UNAUTHORIZED, 1, NOW)
        one.update(cooling("a", NOW + 300))
        one.update(entry("a"))
        assert one.state(NOW) is State.DISABLED

    def test_a_late_answer_about_an_older_access_token_says_nothing(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        one.adopt(token(2))
        assert not one.reject(Reason.UNAUTHORIZED, 1, NOW)
        assert one.state(NOW) is State.AVAILABLE


class TestSwap:
    def test_what_the_proxy_knows_stays_with_the_account(self) -> None:
        pool = pool_of(entry("a"), entry("b"), entry("c"))
        one = account(pool, "b")
        one.cool_down(Reason.RATE_LIMITED, NOW + 10, NOW)
        one.begin()
        assert picks(pool, 1) == "a"
        pool.replace([entry("a"), entry("b", priority=0, weight=1), entry("c"), entry("d")])
        assert account(pool, "b") is one
        assert (one.in_flight, one.cooling_until, one.token is not None) == (1, NOW + 10, True)
        assert picks(pool, 1) == "c"  # the turn goes on where it was

    def test_another_object_of_the_same_name_is_another_account(self) -> None:
        pool = pool_of(entry("a"))
        before = pool.accounts[0]
        pool.replace([entry("a", uid="uid-new")])
        assert pool.accounts[0] is not before and pool.accounts[0].token is None

    def test_an_account_that_stands_in_the_index_twice_is_one_account(self) -> None:
        pool = pool_of(entry("a"))
        before = pool.accounts
        pool.replace([entry("a"), entry("other name", uid="uid-a")])
        assert pool.accounts == before
        assert picks(pool, 2) == "aa"

    def test_an_account_that_is_gone_stays_gone_whatever_still_happens_to_it(self) -> None:
        """Its last requests end, are refused or get a newer access token after the operator has taken it away."""
        pool = pool_of(entry("a", maxConcurrentRequests=1), entry("b"))
        gone = account(pool, "a")
        gone.begin()
        pool.replace([entry("b")])
        for happens in (
            gone.end,
            lambda: gone.adopt(token(2)),
            lambda: gone.cool_down(Reason.RATE_LIMITED, NOW + 5, NOW),
            lambda: gone.reject(Reason.UNAUTHORIZED, 2, NOW),
        ):
            happens()
            assert picks(pool, 3) == "bbb"
        assert picks(pool, 3, NOW + 61) == "bbb"
        assert not pool.may_pick(gone.uid, NOW + 61)


class TestModelLimits:
    def test_a_limited_model_costs_the_account_nothing_but_that_model(self) -> None:
        pool = pool_of(entry("a"), entry("b"))
        one = account(pool, "a")
        assert one.limit_model("opus", NOW + 60, NOW)
        assert not one.limit_model("opus", NOW + 50, NOW)  # known, and not shortened
        opus, haiku = Requirements(model="opus"), Requirements(model="haiku")
        assert [pool.pick(NOW, opus) for _ in range(3)] == [account(pool, "b")] * 3
        assert {pool.pick(NOW, haiku) for _ in range(2)} == set(pool.accounts)
        assert {pool.pick(NOW, Requirements()) for _ in range(2)} == set(pool.accounts)
        assert one.state(NOW) is State.AVAILABLE
        assert [pool.pick(NOW + 55, opus) for _ in range(2)] == [account(pool, "b")] * 2
        assert pool.pick(NOW + 60, opus) is one
        assert one.limit_model("opus", NOW + 200, NOW + 61)

    def test_only_so_many_models_are_remembered_and_those_that_are_over_make_room(self) -> None:
        (one,) = pool_of(entry("a")).accounts
        for number in range(MOST_LIMITED_MODELS):
            one.limit_model(str(number), NOW + 10 + number % 2, NOW)
        one.limit_model("one more", NOW + 60, NOW)
        assert one.model_limited_until("one more") == 0
        one.limit_model("one more", NOW + 60, NOW + 10)
        assert [one.model_limited_until(model) for model in ("0", "1", "one more")] == [0, NOW + 11, NOW + 60]

    def test_with_every_account_limited_for_the_model_the_client_is_told_when_the_first_is_not(self) -> None:
        pool = pool_of(entry("a"), entry("b"), cooling("c", NOW + 1))
        account(pool, "a").limit_model("opus", NOW + 90, NOW)
        account(pool, "b").limit_model("opus", NOW + 70, NOW)
        requirements = Requirements(model="opus", tried={"uid-a"})
        assert pool.pick(NOW, requirements) is None
        error = pool.why_none(NOW, requirements)
        assert isinstance(error, PoolCoolingDown) and error.headers() == [(b"retry-after", b"70")]
        assert "model" in str(error)

    def test_an_account_that_refused_without_a_limit_of_the_model_is_told_of_as_such(self) -> None:
        pool = pool_of(entry("a"), entry("b"))
        account(pool, "a").limit_model("opus", NOW + 90, NOW)
        error = pool.why_none(NOW, Requirements(model="opus", tried={"uid-b"}))
        assert isinstance(error, PoolCoolingDown) and error.headers() == []

    def test_somebody_who_clears_a_cooldown_clears_the_models_too(self) -> None:
        pool = pool_of(entry("a"))
        (one,) = pool.accounts
        one.limit_model("opus", NOW + 900, NOW)
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW)
        pool.replace([cooling("a", NOW + 990)])
        pool.replace([entry("a")])
        assert one.model_limited_until("opus") == 0


class TestModelRefusals:
    def test_an_account_that_refused_a_model_is_asked_for_it_only_if_all_others_did_too(self) -> None:
        """Then the client reads the upstream's own words."""
        pool = pool_of(entry("a"), entry("b"), entry("low", priority=-1))
        opus, haiku = Requirements(model="opus"), Requirements(model="haiku")
        assert account(pool, "a").refuse_model("opus", NOW + 60, NOW)
        assert not account(pool, "a").refuse_model("opus", NOW + 60, NOW)
        assert [pool.pick(NOW, opus) for _ in range(3)] == [account(pool, "b")] * 3
        assert {pool.pick(NOW, haiku) for _ in range(2)} == {account(pool, "a"), account(pool, "b")}
        assert [pool.may_pick(f"uid-{name}", NOW, opus) for name in ("a", "b", "low")] == [False, True, False]
        account(pool, "b").refuse_model("opus", NOW + 60, NOW)
        assert pool.pick(NOW, opus) is account(pool, "low")
        assert [pool.may_pick(f"uid-{name}", NOW, opus) for name in ("a", "low")] == [False, True]
        account(pool, "low").refuse_model("opus", NOW + 60, NOW)
        assert {pool.pick(NOW, opus) for _ in range(2)} == {account(pool, "a"), account(pool, "b")}
        assert [pool.may_pick(f"uid-{name}", NOW, opus) for name in ("a", "low")] == [True, False]

    def test_a_limit_is_not_asked_for_even_if_nobody_else_is_there(self) -> None:
        pool = pool_of(entry("a"), entry("b"))
        account(pool, "a").limit_model("opus", NOW + 60, NOW)
        account(pool, "b").refuse_model("opus", NOW + 60, NOW)
        opus = Requirements(model="opus")
        assert [pool.pick(NOW, opus) for _ in range(2)] == [account(pool, "b")] * 2
        assert pool.pick(NOW, Requirements(model="opus", tried={"uid-b"})) is None

    def test_a_refusal_is_over_in_time_and_after_the_operator_cleared_a_cooldown(self) -> None:
        pool = pool_of(entry("a"), entry("b"))
        one, opus = account(pool, "a"), Requirements(model="opus")
        one.refuse_model("opus", NOW + 60, NOW)
        assert one in {pool.pick(NOW + 60, opus) for _ in range(2)}
        one.refuse_model("opus", NOW + 900, NOW + 61)
        one.cool_down(Reason.QUOTA_EXHAUSTED, NOW + 1000, NOW + 61)
        pool.replace([cooling("a", NOW + 990), entry("b")])
        pool.replace([entry("a"), entry("b")])
        assert one.model_refused_until("opus") == 0

    @pytest.mark.parametrize("forbid", [Account.limit_model, Account.refuse_model])
    def test_bodies_are_looked_into_for_a_model_only_while_one_matters(
        self, forbid: Callable[[Account, str, float, float], bool]
    ) -> None:
        pool = pool_of(entry("a"), entry("b"))
        matters = [pool.limits_models]
        forbid(account(pool, "a"), "opus", NOW + 60, NOW)
        forbid(account(pool, "a"), "haiku", NOW + 30, NOW)
        matters.append(pool.limits_models)
        for later in (59, 60):
            pool.pick(NOW + later)
            matters.append(pool.limits_models)
        forbid(account(pool, "b"), "opus", NOW + 90, NOW + 60)
        pool.replace([entry("a")])
        matters.append(pool.limits_models)
        assert matters == [False, True, True, False, False]


class TestConversations:
    def test_a_conversation_s_account_is_drawn_from_the_highest_tier_by_weight(self) -> None:
        pool = pool_of(entry("a", weight=3), entry("b"), entry("low", priority=-1), entry("top", priority=1))
        account(pool, "top").cool_down(Reason.RATE_LIMITED, NOW + 10, NOW)
        drawn = Counter(conversation(pool, number) for number in range(400))
        assert drawn.keys() == {"a", "b"} and 250 < drawn["a"] < 350
        assert [conversation(pool, 7) for _ in range(5)] == [conversation(pool, 7)] * 5

    def test_where_it_goes_when_its_account_may_not_be_asked_follows_from_its_key_too(self) -> None:
        names = "abcdefgh"
        one, other = pool_of(*map(entry, names)), pool_of(*map(entry, reversed(names)))
        picks(other, 3)
        for number in range(50):
            order = []
            for pool in (one, other):
                tried: list[str] = []
                while picked := pool.pick(NOW, Requirements(tried=tried, conversation=b"%d" % number)):
                    tried.append(picked.uid)
                order.append(tried)
            assert order[0] == order[1] and len(order[0]) == len(names)
            account(one, order[0][0].removeprefix("uid-")).cool_down(Reason.RATE_LIMITED, NOW + 5, NOW)
            assert f"uid-{conversation(one, number)}" == order[0][1]
            one = pool_of(*map(entry, names))

    def test_its_home_is_the_account_that_it_would_have_if_all_were_available(self) -> None:
        pool = pool_of(entry("a"), entry("b", weight=2), entry("c"), entry("low", priority=-1))
        homes = [conversation(pool, number) for number in range(50)]
        for name in "abc":
            account(pool, name).reject(Reason.UNAUTHORIZED, 1, NOW)
        assert {conversation(pool, number) for number in range(50)} == {"low"}
        assert [pool.home_of(b"%d" % number) for number in range(50)] == [f"uid-{home}" for home in homes]
        pool.replace([])
        assert pool.home_of(b"1") is None

    def test_a_draw_is_no_turn(self) -> None:
        pool = pool_of(entry("a"), entry("b"))
        for number in range(5):
            conversation(pool, number)
        assert picks(pool, 4) == "abab"


def conversation(pool: Pool, number: int, now: float = NOW) -> str:
    picked = pool.pick(now, Requirements(conversation=b"%d" % number))
    assert picked
    return picked.name


class TestPreferred:
    def test_an_account_may_be_preferred_only_where_pick_would_look(self) -> None:
        pool = pool_of(
            entry("top", priority=5),
            entry("low"),
            entry("busy", maxConcurrentRequests=1),
            entry("off", status="Suspended"),
        )
        assert [pool.may_pick(f"uid-{name}", NOW) for name in ("top", "low", "off", "nobody")] == [True] + [False] * 3
        account(pool, "top").cool_down(Reason.RATE_LIMITED, NOW + 10, NOW)
        assert [pool.may_pick(f"uid-{name}", NOW) for name in ("top", "low", "busy")] == [False, True, True]
        account(pool, "busy").begin()
        assert not pool.may_pick("uid-busy", NOW)
        assert [pool.may_pick(f"uid-{name}", NOW + 10) for name in ("top", "low")] == [True, False]

    def test_a_higher_tier_that_has_nobody_for_this_request_is_not_in_the_way(self) -> None:
        pool = pool_of(entry("top", priority=5), entry("low"))
        assert pool.may_pick("uid-low", NOW, Requirements(tried={"uid-top"}))
        account(pool, "top").limit_model("opus", NOW + 60, NOW)
        assert pool.may_pick("uid-low", NOW, Requirements(model="opus"))
        assert not pool.may_pick("uid-top", NOW, Requirements(model="opus"))


class TestManyAccounts:
    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """Counts how often the state of an account was looked at."""
        looks: Counter[str] = Counter()
        state = Account.state

        def counting(account: Account, now: float) -> State:
            looks[account.name] += 1
            return state(account, now)

        monkeypatch.setattr(Account, "state", counting)
        return looks

    def test_a_pick_does_not_look_at_all_of_them(self, looks: Counter[str]) -> None:
        entries = [entry(f"{number:04}", weight=1 + number % 3) for number in range(1000)]
        entries[::10] = [cooling(entry.name, NOW + 600, weight=entry.weight) for entry in entries[::10]]
        pool = pool_of(*entries)
        pool.pick(NOW)
        looks.clear()
        picked = [pool.pick(NOW + number / 1000) for number in range(500)]
        assert not looks  # nothing has happened to any of them
        assert len(set(picked)) == 500
        assert picked[0]
        picked[0].cool_down(Reason.RATE_LIMITED, NOW + 60, NOW)
        pool.pick(NOW + 1)
        pool.pick(NOW + 61)  # its cooldown is over
        assert looks == {picked[0].name: 2}

    def test_a_swap_looks_only_at_accounts_whose_entries_are_other_objects_and_keeps_every_turn(
        self, looks: Counter[str]
    ) -> None:
        entries = [entry(f"{number:04}") for number in range(1000)]
        pool = pool_of(*entries)
        first = [pool.pick(NOW) for _ in range(10)]
        looks.clear()
        entries[500] = entry("0500")
        pool.replace(entries)
        second = [pool.pick(NOW) for _ in range(10)]
        assert looks == {"0500": 1}
        assert not set(first) & set(second)


def test_no_access_token_in_any_repr() -> None:
    (one,) = pool_of(entry("a")).accounts
    assert "secret" not in f"{one!r} {one.token!r} {vars(one)!r}"


@pytest.mark.parametrize(
    ("first", "second", "is_news", "until"),
    [
        pytest.param((Reason.RATE_LIMITED, 1), (Reason.RATE_LIMITED, 45), False, 45, id="longer, but the same limit"),
        pytest.param((Reason.RATE_LIMITED, 1), (Reason.QUOTA_EXHAUSTED, 45), True, 45, id="another limit, longer"),
        pytest.param((Reason.RATE_LIMITED, 1), (Reason.RATE_LIMITED, 3600), True, 3600, id="much longer"),
        pytest.param((Reason.QUOTA_EXHAUSTED, 3600), (Reason.RATE_LIMITED, 5), False, 3600, id="shorter"),
    ],
)
def test_the_longer_of_two_limits_counts(
    first: tuple[Reason, float], second: tuple[Reason, float], is_news: bool, until: float
) -> None:
    account = Account(entry("a"))
    assert account.cool_down(first[0], NOW + first[1], NOW)
    assert account.cool_down(second[0], NOW + second[1], NOW) is is_news
    assert account.cooling_until == NOW + until
