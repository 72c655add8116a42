"""Kopf's part: what would lose a refresh or publish a code if it were otherwise."""

from itertools import islice

import kopf
import pytest

from oauth_pool_operator.handlers import configure
from oauth_pool_operator.health import STUCK_SECONDS, liveness
from oauth_pool_operator.scheduler import LONGEST_SLEEP


def test_an_api_server_that_stays_away_does_not_end_the_operator() -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    for _ in range(2):  # each request has all of them
        delays = list(islice(settings.networking.error_backoffs, 1000))  # type: ignore[arg-type]
        assert (delays[:5], delays[-1]) == ([1, 2, 4, 5, 5], 5)


@pytest.mark.parametrize("part", ["annotations", "labels", "name"])
def test_nothing_that_could_hold_a_code_is_kept_as_handled(part: str) -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    body = kopf.Body(
        {
            "metadata": {"name": "a", "labels": {"a": "b"}, "annotations": {"oauthpool.dev/authorization-code": "c#s"}},
            "spec": {"provider": "anthropic"},
        }
    )
    essence = settings.persistence.diffbase_storage.build(body=body)
    assert essence.get("metadata", {}).get(part) is None
    assert essence["spec"] == {"provider": "anthropic"}


def test_kopf_posts_no_events_of_its_own() -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    assert not settings.posting.enabled


def test_a_loop_that_sleeps_as_long_as_it_may_is_alive_and_a_stuck_one_is_not() -> None:
    assert liveness(LONGEST_SLEEP + 1)[0] == 200
    assert liveness(STUCK_SECONDS + 1)[0] == 500
