"""What proxies' reports add up to, as tables."""

from datetime import datetime, timedelta

import pytest

from oauth_pool_operator.account import cooldowns
from oauth_pool_operator.account.cooldowns import PROBE, PROBE_INTERVAL, next_probe
from oauth_pool_operator.account.spec import Account, Report
from tests.support.builders import NOW, account, report, window

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("reason", "until", "is_cooling", "is_of_token"),
    [
        ("QuotaExhausted", HOUR, True, False),
        ("QuotaExhausted", None, True, False),
        ("RateLimited", HOUR, True, False),
        ("Billing", HOUR, True, False),
        ("Billing", None, False, False),
        ("Forbidden", HOUR, True, False),
        ("Forbidden", None, False, True),
        ("Unauthorized", HOUR, False, True),
        ("Unauthorized", None, False, True),
        (None, None, False, False),
    ],
)
def test_a_limit_and_a_refusal_that_has_an_end_cool_down_and_any_other_refusal_is_of_the_token(
    reason: str | None, until: timedelta | None, is_cooling: bool, is_of_token: bool
) -> None:
    one = report(reason, until=until)
    cooldown = cooldowns.longest_cooldown(account(reports=(one,)), NOW)
    assert (cooldown.reason if cooldown is not None else None) == (reason if is_cooling else None)
    assert cooldowns.is_of_token(one) is is_of_token


def test_a_refusal_lasts_until_its_end_and_no_longer() -> None:
    of = account(reports=(report("Billing", until=5 * MINUTE),))
    assert cooldowns.longest_cooldown(of, NOW + 5 * MINUTE) is None
    assert next_probe(of, NOW + 5 * MINUTE) is None  # short enough to come back with its full share


def test_the_longest_reported_cooldown_wins() -> None:
    reports = (report(until=HOUR), report(until=3 * HOUR, reporter="b"), report(until=2 * HOUR, reporter="c"))
    cooldown = cooldowns.longest_cooldown(account(reports=reports), NOW)
    assert cooldown is not None
    assert cooldown.until == NOW + 3 * HOUR


def test_a_report_cannot_bench_an_account_for_years() -> None:
    cooldown = cooldowns.longest_cooldown(account(reports=(report(until=timedelta(days=900)),)), NOW)
    assert cooldown is not None
    assert cooldown.until == NOW + cooldowns.LONGEST_COOLDOWN


def test_without_a_reset_the_cooldown_of_the_spec_counts() -> None:
    cooldown = cooldowns.longest_cooldown(account(cooldown="90m", reports=(report(),)), NOW)
    assert cooldown is not None
    assert cooldown.until == NOW + timedelta(minutes=90)


def test_windows_are_those_seen_last() -> None:
    old = report(None, observed_time=NOW - HOUR, windows=[window("5h", 0.9)])
    new = report(None, reporter="b", windows=[window("7d", 0.5), window("5h", 0.1)])
    windows, observed = cooldowns.latest_windows(account(reports=(new, old)), NOW)
    assert ([w.name for w in windows], observed) == (["5h", "7d"], NOW)


# --- a good answer ---------------------------------------------------------------------------------------------------


def refusal(*, ago: timedelta = 2 * HOUR, until: timedelta = 3 * HOUR) -> Report:
    return report(until=until, observed_time=NOW - ago)


@pytest.mark.parametrize(
    ("ago", "is_over"),
    [
        pytest.param(HOUR, True, id="long after the refusal"),
        pytest.param(2 * HOUR - 16 * MINUTE, True, id="16 minutes after it"),
        pytest.param(2 * HOUR - 14 * MINUTE, False, id="14 minutes after it: perhaps another clock"),
        pytest.param(3 * HOUR, False, id="before it"),
    ],
)
def test_a_good_answer_to_another_proxy_ends_a_cooldown_if_it_is_clearly_later(ago: timedelta, is_over: bool) -> None:
    works = report(None, reporter="b", observed_time=NOW - ago, windows=[window()])
    of = account(reports=(refusal(), works))
    assert (cooldowns.longest_cooldown(of, NOW) is None) is is_over


def test_one_more_refusal_ends_nothing() -> None:
    of = account(reports=(refusal(), report("RateLimited", until=MINUTE, reporter="b")))
    cooldown = cooldowns.longest_cooldown(of, NOW)
    assert cooldown is not None
    assert cooldown.until == NOW + 3 * HOUR


# --- probes ----------------------------------------------------------------------------------------------------------


def is_probed(of: Account, now: datetime) -> bool:
    probe = next_probe(of, now)
    return probe is not None and probe.start <= now < probe.end


def probes(of: Account, start: datetime, end: datetime) -> list[timedelta]:
    """When they begin, as the operator finds out: by looking at what is next, and looking again when that is over."""
    found, now = [], start
    while (probe := next_probe(of, now)) is not None and probe.start < end:
        assert probe.start < probe.end == probe.start + PROBE
        found.append(probe.start - NOW)
        now = probe.end
    return found


@pytest.mark.parametrize(
    ("lasted", "is_on_probe"),
    [
        pytest.param(5 * HOUR, True, id="after five hours"),
        pytest.param(61 * MINUTE, True, id="after a little more than an hour"),
        pytest.param(59 * MINUTE, False, id="after less than an hour"),
    ],
)
def test_after_a_long_cooldown_an_account_comes_back_on_probe(lasted: timedelta, is_on_probe: bool) -> None:
    of = account(reports=(report(until_time=NOW, observed_time=NOW - lasted),))
    assert is_probed(of, NOW) is is_on_probe
    assert not is_probed(of, NOW + PROBE)
    assert not is_probed(of, NOW - MINUTE)


def test_a_good_answer_ends_the_probe() -> None:
    exhausted = report(until_time=NOW, observed_time=NOW - 5 * HOUR)
    works = report(None, reporter="b", windows=[window()])
    assert is_probed(account(reports=(exhausted,)), NOW)
    assert next_probe(account(reports=(exhausted, works)), NOW) is None


def test_a_cooldown_of_five_hours_is_not_probed_before_its_end() -> None:
    of = account(reports=(report(until=5 * HOUR),))
    assert probes(of, NOW, NOW + DAY) == [5 * HOUR]


def test_a_cooldown_of_days_is_probed_every_six_hours_and_once_more_at_its_end() -> None:
    of = account(reports=(report(until=2 * DAY),))
    begun = probes(of, NOW, NOW + 3 * DAY)
    first = begun[0]
    assert PROBE_INTERVAL <= first < 2 * PROBE_INTERVAL
    within = [first + number * PROBE_INTERVAL for number in range(8) if first + number * PROBE_INTERVAL < 2 * DAY]
    assert begun == [*within, 2 * DAY]


def test_a_probe_that_is_refused_is_over_and_the_next_is_an_interval_later() -> None:
    of = account(reports=(report(until=2 * DAY),))
    first = next_probe(of, NOW)
    assert first is not None
    again = report(until=2 * DAY, reporter="b", observed_time=first.start + timedelta(seconds=1))
    of = account(reports=(*of.reports, again))
    assert not is_probed(of, first.start + timedelta(seconds=1))
    following = next_probe(of, first.start + timedelta(seconds=1))
    assert following is not None
    assert following.start >= first.start + PROBE_INTERVAL


def test_accounts_that_were_exhausted_together_are_not_probed_together() -> None:
    pool = [
        account(uid=f"3f8b7c1e-0000-4000-8000-{number:012}", reports=(report(until=2 * DAY),)) for number in range(50)
    ]
    at_once = [sum(is_probed(of, NOW + minute * MINUTE) for of in pool) for minute in range(24 * 60)]
    assert 0 < max(at_once) <= 4


# --- reports that say nothing any more -------------------------------------------------------------------------------

OLD = NOW - 2 * HOUR


@pytest.mark.parametrize(
    ("one", "is_stale"),
    [
        pytest.param(report(observed_time=OLD, until_time=NOW - HOUR), True, id="a cooldown that is over"),
        pytest.param(report(observed_time=OLD, until_time=NOW - PROBE / 2), False, id="a cooldown whose probe is on"),
        pytest.param(report(observed_time=OLD, until_time=NOW + HOUR), False, id="a cooldown that lasts"),
        pytest.param(report(observed_time=OLD), False, id="a cooldown of the spec's two hours, with its probe"),
        pytest.param(report(observed_time=OLD - HOUR), True, id="a cooldown of the spec's two hours, over"),
        pytest.param(report(observed_time=NOW - MINUTE, until_time=NOW - MINUTE), False, id="it is young"),
        pytest.param(report("Unauthorized", observed_time=OLD, token_generation=6), True, id="about an older token"),
        pytest.param(
            report("Unauthorized", observed_time=OLD, token_generation=7), False, id="about the current token"
        ),
        pytest.param(report("Forbidden", observed_time=OLD, token_generation=6), True, id="forbidden, older token"),
        pytest.param(
            report("Forbidden", observed_time=OLD, token_generation=7, until_time=NOW - HOUR),
            True,
            id="forbidden for a while, over",
        ),
        pytest.param(
            report("Billing", observed_time=OLD, token_generation=6, until_time=NOW + HOUR),
            False,
            id="cannot pay for a while, which is no matter of tokens",
        ),
        pytest.param(report(None, observed_time=OLD), True, id="it works, and says no more"),
        pytest.param(report(None, observed_time=OLD, windows=[window()]), False, id="the last that has windows"),
        pytest.param(
            report(None, observed_time=OLD, windows=[window(resets_in=-MINUTE)]), True, id="its windows have passed"
        ),
    ],
)
def test_whether_a_report_says_something(one: Report, is_stale: bool) -> None:
    at = cooldowns.stale_at(one, account(reports=(one,)), 7, NOW)
    assert (at is not None and at <= NOW) is is_stale


def test_of_two_with_windows_only_the_later_says_something() -> None:
    old = report(None, observed_time=OLD, windows=[window()])
    new = report(None, observed_time=OLD + MINUTE, reporter="b", windows=[window()])
    of = account(reports=(old, new))
    assert cooldowns.stale_at(old, of, 7, NOW) == OLD + cooldowns.REPLACED_AFTER
    assert cooldowns.stale_at(new, of, 7, NOW) == NOW + 2 * HOUR


def test_what_proves_a_refusal_wrong_stays_until_something_later_does() -> None:
    refused = report("QuotaExhausted", observed_time=OLD, until_time=NOW + HOUR, windows=[window()])
    worked = report(None, observed_time=OLD + HOUR, reporter="b")
    refused_again = report("QuotaExhausted", observed_time=NOW, until_time=NOW + HOUR, reporter="c", windows=[window()])
    of = account(reports=(refused, worked, refused_again))
    assert cooldowns.stale_at(worked, of, 7, NOW) == OLD + 2 * HOUR


def test_windows_that_have_started_anew_are_not_shown() -> None:
    seen = report(None, windows=[window("5h", resets_in=-MINUTE), window("7d", 0.5)])
    windows, _ = cooldowns.latest_windows(account(reports=(seen,)), NOW)
    assert [one.name for one in windows] == ["7d"]
