"""API objects as accounts."""

from datetime import timedelta
from typing import Any

import pytest

from oauth_pool_operator.account.spec import (
    LOGIN_ANNOTATION,
    LONGEST_LOGIN_REQUEST,
    parse_account,
    parse_duration,
)
from tests.support.builders import account

GOOD = {"reporter": "proxy-a", "observedTime": "2026-11-20T12:00:00Z", "reason": "QuotaExhausted", "tokenGeneration": 3}


def body(*, status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    names = {"name": "claude-1", "namespace": "pool", "uid": "u", "generation": 4, "resourceVersion": "9"}
    spec = {"provider": "anthropic", "grant": "AuthorizationCode", "unknown": "to come"}
    return {"metadata": {**names, **metadata}, "spec": spec, **({"status": status} if status else {})}


def test_an_object_becomes_an_account() -> None:
    parsed = parse_account(body(status={"reports": [GOOD]}))
    assert (parsed.generation, parsed.resource_version, parsed.deleting) == (4, "9", False)
    assert (parsed.spec.weight, parsed.spec.cooldown, parsed.spec.deletion_policy) == (1, "2h", "Revoke")
    assert (parsed.reports[0].reason, parsed.reports[0].token_generation) == ("QuotaExhausted", 3)


def test_an_object_with_a_time_of_deletion_is_being_deleted() -> None:
    assert parse_account(body(deletionTimestamp="2026-11-20T12:00:00Z")).deleting


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({**GOOD, "observedTime": "yesterday"}, id="not a time"),
        pytest.param({"reporter": "proxy-b"}, id="a member is missing"),
        pytest.param("nonsense", id="not an object"),
        pytest.param({**GOOD, "windows": [{"name": "5h", "utilization": "full"}]}, id="a bad window"),
    ],
)
def test_a_report_that_makes_no_sense_costs_nobody_elses(bad: object) -> None:
    other = {**GOOD, "reporter": "proxy-c"}
    parsed = parse_account(body(status={"reports": [GOOD, bad, other]}))
    assert [report.reporter for report in parsed.reports] == ["proxy-a", "proxy-c"]


@pytest.mark.parametrize(
    ("one", "other", "is_older"),
    [
        pytest.param("9", "10", True, id="numbers, not texts"),
        pytest.param("10", "9", False, id="newer"),
        pytest.param("9", "9", False, id="the same"),
        pytest.param("", "9", False, id="without a version nothing can be said"),
    ],
)
def test_which_of_two_versions_is_older(one: str, other: str, is_older: bool) -> None:
    assert account(resource_version=one).is_older_than(account(resource_version=other)) is is_older


def test_a_login_request_is_no_longer_than_status_can_answer() -> None:
    asked = account(annotations={LOGIN_ANNOTATION: "x" * 5000})
    assert asked.login_request == "x" * LONGEST_LOGIN_REQUEST


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("2h", timedelta(hours=2)),
        ("90m", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("45s", timedelta(seconds=45)),
    ],
)
def test_a_duration(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "2", "30m1h", "-1h", "1d", "1h "])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
