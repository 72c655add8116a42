"""API objects as accounts."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_operator.account import index_entry, policies, status
from oauth_pool_operator.account.spec import (
    LOGIN_ANNOTATION,
    LONGEST_REQUEST,
    parse_account,
    parse_duration,
    parse_reports,
    parse_spec,
)
from tests.support.builders import account, credential, facts

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


def test_labels_are_those_of_the_object() -> None:
    assert parse_account(body(labels={"tier": "gold"})).labels == {"tier": "gold"}
    assert parse_account(body()).labels == {}


def test_annotations_of_others_are_not_kept() -> None:
    parsed = parse_account(body(annotations={LOGIN_ANNOTATION: "now", "kubectl.kubernetes.io/last-applied": "{}"}))
    assert parsed.annotations == {LOGIN_ANNOTATION: "now"}


def test_accounts_share_the_words_of_their_status() -> None:
    text = '{"conditions": [{"type": "Ready", "message": "until noon"}], "token": {"generation": 3}, "odd": null}'
    one, other = (parse_account(body(status=json.loads(text))).status for _ in range(2))
    assert one == other == json.loads(text)
    (condition,), (same,) = one["conditions"], other["conditions"]
    assert all(key is shared for key, shared in zip(condition, same, strict=True))
    assert condition["type"] is same["type"]


def test_what_a_report_says_is_kept_once() -> None:
    """Where many proxies come and go, reports are most of what an account takes in memory."""
    windows = [{"name": "5h", "utilization": 0.3}]
    parsed = parse_account(body(status={"reports": [{**GOOD, "requestsPerMinute": 7, "windows": windows}, "odd"]}))
    named = {"reporter": "proxy-a", "observedTime": "2026-11-20T12:00:00Z", "requestsPerMinute": 7}
    assert parsed.status == {"reports": [named, {}]}
    assert [(report.reporter, report.windows[0].utilization) for report in parsed.reports] == [("proxy-a", 0.3)]


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
    assert asked.login_request == "x" * LONGEST_REQUEST


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


INSTANTS = st.one_of(
    st.datetimes(timezones=st.timezones()).map(lambda instant: instant.isoformat()),
    st.sampled_from(
        ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "x"]
    ),
)
REASONS = st.sampled_from([None, "QuotaExhausted", "RateLimited", "Unauthorized", "Forbidden", "New"])


@given(
    observed=INSTANTS, until=INSTANTS, reset=INSTANTS, reason=REASONS, number=st.floats() | st.integers() | st.text()
)
def test_whatever_a_proxy_reports_the_account_can_be_told_of(
    observed: str, until: str, reset: str, reason: str | None, number: object
) -> None:
    windows = [{"name": "5h", "utilization": number, "resetTime": reset}, {"name": "7d", "resetTime": reset}]
    entry = {**GOOD, "observedTime": observed, "untilTime": until, "reason": reason, "windows": windows}
    lied_to = account(reports=tuple(parse_reports([entry, {**entry, "windows": []}])))
    known = facts(lied_to, credential=credential())
    rendered = status.render_status(known, None)
    policies.next_check(known)
    index_entry.render_entry(known)
    assert rendered["conditions"]
    for instant in _instants(rendered):
        assert "1970-01-01T00:00:00Z" <= instant <= "9000-01-10T00:00:00Z"


def _instants(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and name.endswith("Time"):
                yield inner
            yield from _instants(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _instants(inner)


@pytest.mark.parametrize("raw", [None, {}, [], "x", {"provider": 7}, {"grant": "New", "provider": "a"}])
def test_a_spec_that_cannot_be_read_is_said_and_costs_nothing_else(raw: object) -> None:
    parsed = parse_account({**body(), "spec": raw})
    assert (parsed.name, parsed.spec_problem != "") == ("claude-1", True)


def test_what_can_be_read_of_a_spec_is_kept() -> None:
    spec, problem = parse_spec({"provider": "anthropic", "grant": "New", "deletionPolicy": "Retain", "weight": "heavy"})
    assert (spec.provider, spec.grant, spec.deletion_policy, spec.weight) == ("anthropic", "", "Retain", 1)
    assert "$.grant" in problem
