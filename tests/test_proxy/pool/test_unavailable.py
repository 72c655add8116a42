"""What a client is told when nobody is left: every cause, how many accounts it keeps away, and when to come again."""

import pytest

from oauth_pool_proxy.errors import PoolCoolingDown, PoolExhausted
from oauth_pool_proxy.observe.health import health
from oauth_pool_proxy.pool.account import Reason, Requirements
from oauth_pool_proxy.pool.pool import Pool
from tests.support.proxy_server import rfc3339
from tests.test_proxy.pool.test_pool import NOW, account, cooling, entry, pool_of, token


def test_nothing_is_known_yet() -> None:
    error = Pool().why_none(NOW)
    assert isinstance(error, PoolExhausted) and "not been read" in str(error)


def test_no_account() -> None:
    error = pool_of().why_none(NOW)
    assert isinstance(error, PoolExhausted) and "kubectl apply" in str(error)


def test_every_cause_is_told_with_its_number_of_accounts() -> None:
    pool = pool_of(
        cooling("a", NOW + 90),
        cooling("b", NOW + 30.4),
        entry("c", status="LoginRequired"),
        entry("d"),
        entry("e", status="Disabled"),
        entry("f", status="Suspended"),
        entry("g", status="Suspended"),
        entry("h", status="SomethingNew"),
        entry("i"),
        entry("j"),
        entry("k", maxConcurrentRequests=1),
        entry("l"),
        entry("m"),
    )
    account(pool, "d").reject(Reason.FORBIDDEN, 1, NOW)
    account(pool, "i").limit_model("opus", NOW + 600, NOW)
    account(pool, "k").begin()
    account(pool, "l").token = None
    account(pool, "m").adopt(token(1, NOW))
    error = pool.why_none(NOW, Requirements(model="opus", tried={"uid-j"}))
    assert str(error) == (
        "No account is available: 2 cooling down, the first until 2027-01-15T08:00:30Z; 1 needs a login;"
        " 1 was refused by the API (Forbidden); 1 needs a login, its grant is dead; 2 are suspended; 1 is SomethingNew;"
        " 1 has used up its limit for this model, until 2027-01-15T08:10:00Z; 1 refused this request;"
        " 1 has as many requests as it may have; 1 has no access token yet; 1 has an expired access token"
    )


def test_the_soonest_of_those_that_cool_down() -> None:
    error = pool_of(cooling("a", NOW + 90), cooling("b", NOW + 30.4), entry("c", status="Disabled")).why_none(NOW)
    assert isinstance(error, PoolCoolingDown)
    assert error.headers() == [(b"retry-after", b"30")]


def test_none_usable_is_no_matter_of_waiting() -> None:
    error = pool_of(entry("a", status="Disabled"), entry("b", status="Suspended")).why_none(NOW)
    assert isinstance(error, PoolExhausted) and "kubectl get oauthaccounts" in str(error)
    assert error.counts["accounts_disabled"] == 2


def test_all_were_tried_and_none_is_to_blame() -> None:
    pool = pool_of(entry("a"), cooling("b", NOW + 9))
    error = pool.why_none(NOW, Requirements(tried={"uid-a"}))
    assert isinstance(error, PoolCoolingDown) and error.headers() == []
    assert pool.why_none(NOW, Requirements(tried={"uid-a"}), NOW + 7.2).headers() == [(b"retry-after", b"8")]


def test_all_are_busy() -> None:
    pool = pool_of(entry("a", maxConcurrentRequests=1))
    pool.accounts[0].begin()
    assert pool.why_none(NOW).headers() == [(b"retry-after", b"1")]


def test_a_cooldown_whose_end_nobody_says_is_waited_for_a_minute_at_a_time() -> None:
    error = pool_of(entry("a", status="CoolingDown")).why_none(NOW)
    assert isinstance(error, PoolCoolingDown) and error.headers() == [(b"retry-after", b"60")]
    assert str(error) == "No account is available: 1 cooling down"
    (document,) = health("anthropic", 1, 0, 0, pool_of(entry("a", status="CoolingDown")), NOW)["pool"]["accounts"]  # type: ignore[index]
    assert document == {"id": "a", "status": "cooling_down", "reason": "CoolingDown"}
    pool = pool_of(entry("a", status="CoolingDown"), cooling("b", NOW + 300))
    assert pool.why_none(NOW).headers() == [(b"retry-after", b"300")]


@pytest.mark.parametrize("until", [NOW + 9 * 86400, 253402300799.0])
def test_no_client_is_sent_away_for_more_than_eight_days(until: float) -> None:
    error = pool_of(cooling("a", until)).why_none(NOW)
    assert error.headers() == [(b"retry-after", b"691200")]
    assert rfc3339(until) in str(error)


def test_an_end_that_no_calendar_has_is_no_reason_to_fail() -> None:
    pool = pool_of(entry("a"))
    pool.accounts[0].limit_model("opus", 1e18, NOW)
    error = pool.why_none(NOW, Requirements(model="opus"))
    assert error.headers() == [(b"retry-after", b"691200")] and "no calendar" in str(error)
