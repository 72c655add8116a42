"""When it is tried again: the one rule for all that waits."""

from datetime import timedelta
from itertools import islice

import pytest

from oauth_pool_operator.account.backoff import Backoff
from tests.support.builders import NOW

SECOND = timedelta(seconds=1)


def test_each_wait_is_twice_as_long_up_to_the_longest() -> None:
    backoff = Backoff(longest=10 * SECOND)
    assert [backoff.pause() / SECOND for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert list(islice(backoff, 6)) == [1, 2, 4, 8, 10, 10]


def test_after_a_success_it_begins_anew() -> None:
    backoff = Backoff()
    backoff.put_off(NOW)
    backoff.put_off(NOW)
    backoff.reset()
    assert (backoff.is_on(NOW), backoff.put_off(NOW)) == (False, NOW + SECOND)


@pytest.mark.parametrize(
    ("at_least", "latest", "expected"),
    [
        pytest.param(0, None, 1, id="nobody has a say"),
        pytest.param(90, None, 90, id="a server says when"),
        pytest.param(90, 30, 30, id="it has to be before that"),
        pytest.param(0, 30, 1, id="it is before that"),
    ],
)
def test_who_has_a_say(at_least: int, latest: int | None, expected: int) -> None:
    instant = NOW + latest * SECOND if latest is not None else None
    assert Backoff().put_off(NOW, at_least=at_least * SECOND, latest=instant) == NOW + expected * SECOND


def test_a_wait_that_began_later_than_now_is_none_and_one_that_lasts_is() -> None:
    backoff = Backoff()
    backoff.put_off(NOW, at_least=timedelta(hours=1))
    assert [backoff.is_on(NOW + timedelta(minutes=minutes)) for minutes in (-1, 0, 59, 60)] == [
        False,
        True,
        True,
        False,
    ]
