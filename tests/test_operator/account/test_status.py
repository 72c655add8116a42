"""What status says, and which Events follow from a change of it."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from oauth_pool_operator.account import status
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.index_entry import render_entry
from oauth_pool_operator.account.spec import LOGIN_ANNOTATION
from tests.support.builders import NOW, account, credential, device_session, facts, report, session, trouble, window

HOUR = timedelta(hours=1)


URL = "https://provider.example/authorize"
WRONG_CODE: dict[str, Any] = {"problem": "CodeRejected", "problem_message": "m"}


def rendered(of: Facts) -> dict[str, Any]:
    return status.render_status(of, URL)


def conditions(of: Facts) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status.render_conditions(of)}


def test_an_available_account_has_no_abnormal_condition() -> None:
    assert conditions(facts(credential=credential())) == {
        "Ready": ("True", "Available"),
        "LoginRequired": ("False", "NotRequired"),
        "QuotaAvailable": ("True", "Available"),
    }


def test_a_cooling_account_names_reason_and_end() -> None:
    cooling = facts(account(reports=(report(until=HOUR, windows=[window("5h", 1.08)]),)), credential=credential())
    assert conditions(cooling)["QuotaAvailable"] == ("False", "QuotaExhausted")
    rendered = status.render_status(cooling, None)
    assert rendered["cooldown"] == {"untilTime": "2026-11-20T13:00:00Z", "reason": "QuotaExhausted"}
    assert rendered["columns"] == {
        "fiveHour": "108%",
        "resets": "2026-11-20T13:00Z",
        "tokenExpires": "2026-11-20T19:00Z",
    }


@pytest.mark.parametrize("reason", ["Billing", "Forbidden"])
def test_a_refused_account_says_until_when_and_what_a_person_can_do(reason: str) -> None:
    reports = (report(reason, until=timedelta(minutes=5)),)
    refused = facts(account(reports=reports), credential=credential())
    assert conditions(refused) == {
        "Ready": ("False", reason),
        "LoginRequired": ("False", "NotRequired"),
        "QuotaAvailable": ("True", "Available"),
    }
    (ready,) = (entry for entry in status.render_conditions(refused) if entry["type"] == "Ready")
    assert "until 2026-11-20T12:05:00Z" in ready["message"] and "provider's console" in ready["message"]
    assert ready["message"].endswith(
        "kubectl annotate oauthaccount claude-1 oauthpool.dev/cooldown-cleared=$(date +%s) --overwrite"
    )
    rendered = status.render_status(refused, None)
    assert rendered["cooldown"] == {"untilTime": "2026-11-20T12:05:00Z", "reason": reason}
    assert rendered["columns"]["resets"] == "2026-11-20T12:05Z"


@pytest.mark.parametrize("reason", ["Billing", "Forbidden"])
def test_to_proxies_a_refused_account_is_one_that_cools_down(reason: str) -> None:
    refused = facts(account(reports=(report(reason, until=timedelta(minutes=5)),)), credential=credential())
    entry = render_entry(refused)
    assert (entry.status, entry.cooldown_until) == ("CoolingDown", "2026-11-20T12:05:00Z")


def test_a_limit_beside_a_longer_refusal_is_still_told() -> None:
    reports = (report(until=HOUR), report("Billing", reporter="b", until=2 * HOUR))
    both = conditions(facts(account(reports=reports), credential=credential()))
    assert (both["Ready"], both["QuotaAvailable"]) == (("False", "Billing"), ("False", "QuotaExhausted"))


def test_a_volume_that_cannot_be_read_takes_back_nothing_that_was_said() -> None:
    asked = account(annotations={LOGIN_ANNOTATION: "1"})
    before = status.render_status(
        facts(asked, credential=credential(subject="alice"), session=session(request="1")), URL
    )
    unread = facts(
        msgspec.structs.replace(asked, status=before),
        is_unread=True,
        trouble=trouble("StorageUnavailable", is_stalled=True),
    )
    after = status.render_status(unread, None)
    told = ("subject", "token", "login", "lastHandledLoginRequest", "columns")
    assert {name: after[name] for name in told} == {name: before[name] for name in told}


def test_trouble_that_passes_is_reconciling_and_trouble_that_does_not_is_stalled() -> None:
    assert conditions(facts(credential=credential(), trouble=trouble()))["Reconciling"] == ("True", "Refreshing")
    stalled = facts(trouble=trouble("UnknownProvider", is_stalled=True))
    assert conditions(stalled)["Stalled"] == ("True", "UnknownProvider")


def test_work_that_keeps_an_account_from_use_says_which_it_is() -> None:
    expired = facts(credential=credential(expires_in=-HOUR))
    assert conditions(expired)["Reconciling"] == ("True", "Refreshing")
    first = facts(account(grant="WorkloadIdentity"))
    assert conditions(first)["Reconciling"] == ("True", "Exchanging")


def test_an_account_that_waits_for_a_person_is_neither_reconciling_nor_stalled() -> None:
    assert conditions(facts(session=session())).keys() == {"Ready", "LoginRequired", "QuotaAvailable"}


def test_a_refused_new_login_of_a_live_account_is_an_event_of_its_own() -> None:
    before = rendered(facts(credential=credential(), session=session()))
    refused = session(problem="SubjectMismatch", problem_message="mallory logged in")
    after = rendered(facts(credential=credential(), session=refused))
    (happening,) = status.happenings(before, after)
    assert (happening.kind, happening.reason) == ("Warning", "SubjectMismatch")
    assert list(status.happenings(after, before)) == []


def test_the_login_url_is_shown_only_while_it_can_be_used() -> None:
    assert "login" in status.render_status(facts(session=session()), "https://provider.example/authorize")
    late = facts(session=session(age=HOUR))
    assert "login" not in status.render_status(late, "https://provider.example/authorize")


def test_a_device_login_shows_address_and_code_and_not_the_device_code() -> None:
    login = status.render_status(facts(account(grant="DeviceCode"), session=device_session()), None)["login"]
    assert (login["verificationURI"], login["userCode"]) == ("https://provider.example/device", "BCDF-GHJK")
    assert "verificationURIComplete" not in login
    complete = device_session(verification_uri_complete="https://provider.example/device?user_code=BCDF-GHJK")
    rendered = status.render_status(facts(account(grant="DeviceCode"), session=complete), None)
    assert rendered["login"]["verificationURIComplete"].endswith("?user_code=BCDF-GHJK")
    assert "device-code-of-a-test" not in str(rendered)


def test_a_login_request_is_answered_even_when_its_login_is_over() -> None:
    assert status.render_status(facts(session=session(age=HOUR, request="1")), None)["lastHandledLoginRequest"] == "1"


def test_a_dead_grant_announces_no_refresh_and_the_end_of_its_token_while_that_is_used() -> None:
    dead = credential(dead="GrantRevoked")
    rendered = status.render_status(facts(credential=dead), None)
    assert "nextRefreshTime" not in rendered["token"]
    assert rendered["columns"] == {"tokenExpires": "2026-11-20T19:00Z"}
    assert "columns" not in status.render_status(facts(credential=dead, now=dead.expires), None)


def test_a_reset_that_has_passed_is_not_shown() -> None:
    windows = [window("5h", resets_in=-HOUR), window("7d", resets_in=2 * HOUR)]
    rendered = status.render_status(facts(account(reports=(report(None, windows=windows),))), None)
    assert rendered["columns"]["resets"] == "2026-11-20T14:00Z"


def test_transition_time_moves_only_with_the_status_of_the_condition() -> None:
    first = status.render_conditions(facts(credential=credential()))
    later = facts(account(status={"conditions": first}), credential=credential(expires_in=6 * HOUR), now=NOW + HOUR)
    ready = status.render_conditions(later)[0]
    assert ready["lastTransitionTime"] == "2026-11-20T12:00:00Z"
    expired = facts(account(status={"conditions": first}), credential=credential(), now=NOW + 8 * HOUR)
    assert status.render_conditions(expired)[0]["lastTransitionTime"] == "2026-11-20T20:00:00Z"


@pytest.mark.parametrize(
    ("current", "desired", "patch"),
    [
        pytest.param({"a": 1}, {"a": 1}, {}, id="nothing to do"),
        pytest.param({"a": 1, "b": 2}, {"a": 1}, {"b": None}, id="a member goes"),
        pytest.param(
            {"t": {"x": 1, "y": 2}}, {"t": {"x": 1, "z": 3}}, {"t": {"y": None, "z": 3}}, id="within a member"
        ),
        pytest.param({"l": [1, 2]}, {"l": [1]}, {"l": [1]}, id="lists are replaced"),
    ],
)
def test_merge_patch(current: dict[str, Any], desired: dict[str, Any], patch: dict[str, Any]) -> None:
    assert status.merge_patch(current, desired) == patch


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        pytest.param(None, facts(session=session()), ["LoginOpened"], id="a new account"),
        pytest.param(facts(session=session()), facts(credential=credential()), ["LoggedIn"], id="logged in"),
        pytest.param(facts(credential=credential()), facts(credential=credential(generation=2)), [], id="a refresh"),
        pytest.param(
            facts(credential=credential()),
            facts(account(reports=(report(until=HOUR),)), credential=credential()),
            ["CoolingDown"],
            id="cooling down",
        ),
        pytest.param(
            facts(credential=credential()),
            facts(account(reports=(report("Billing", until=HOUR),)), credential=credential()),
            ["Billing"],
            id="cannot pay",
        ),
        pytest.param(
            facts(account(reports=(report("Billing", until=HOUR),)), credential=credential()),
            facts(account(reports=(report("Billing", until=2 * HOUR),)), credential=credential()),
            [],
            id="still cannot pay",
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden", until=HOUR),)), credential=credential()),
            facts(credential=credential()),
            ["Recovered"],
            id="no longer refused",
        ),
        pytest.param(
            facts(account(reports=(report(until=HOUR),)), credential=credential()),
            facts(credential=credential()),
            ["Recovered"],
            id="recovered",
        ),
        pytest.param(
            facts(credential=credential()),
            facts(credential=credential(dead="GrantRevoked")),
            ["GrantRevoked"],
            id="grant revoked, token still good",
        ),
        pytest.param(
            facts(credential=credential(dead="GrantRevoked")),
            facts(credential=credential(dead="GrantRevoked"), now=NOW + 8 * HOUR),
            ["Disabled"],
            id="and then not any more",
        ),
        pytest.param(
            facts(session=session()),
            facts(session=session(problem="CodeRejected", problem_message="m")),
            ["CodeRejected"],
            id="wrong code",
        ),
        pytest.param(
            None,
            facts(trouble=trouble("UnknownProvider", is_stalled=True)),
            ["UnknownProvider"],
            id="unknown provider: nobody is sent to log in",
        ),
        pytest.param(facts(session=session()), facts(session=session()), [], id="still waiting for a person"),
        pytest.param(
            facts(session=session()),
            facts(session=session(session_id="b")),
            ["LoginOpened"],
            id="asked for another login",
        ),
        pytest.param(
            facts(session=session(**WRONG_CODE)),
            facts(session=session(session_id="b", **WRONG_CODE)),
            ["CodeRejected"],
            id="wrong code again",
        ),
        pytest.param(
            facts(credential=credential()),
            facts(credential=credential(), session=session()),
            ["LoginOpened"],
            id="a new login of an account that works",
        ),
        pytest.param(
            facts(credential=credential(), session=session()),
            facts(credential=credential(generation=2)),
            ["LoggedIn"],
            id="an account that works has logged in again",
        ),
        pytest.param(
            facts(credential=credential(), session=session()),
            facts(credential=credential()),
            [],
            id="a new login of an account that works was not completed",
        ),
        pytest.param(
            facts(damaged="credential.json.corrupt-20261120T120000Z"),
            facts(damaged="credential.json.corrupt-20261120T120000Z", session=session()),
            ["LoginOpened"],
            id="a login after damage",
        ),
        pytest.param(
            facts(trouble=trouble("UnknownProvider", is_stalled=True)),
            facts(trouble=trouble("UnknownProvider", is_stalled=True)),
            [],
            id="still stalled",
        ),
        pytest.param(
            facts(account(suspend=True), credential=credential()),
            facts(credential=credential()),
            ["Resumed"],
            id="resumed",
        ),
        pytest.param(
            facts(credential=credential(expires_in=-HOUR), trouble=trouble()),
            facts(credential=credential()),
            ["TokenObtained"],
            id="a token again after a while without",
        ),
        pytest.param(
            facts(credential=credential(), trouble=trouble()),
            facts(credential=credential(generation=2)),
            ["RefreshSucceeded"],
            id="refreshed after failures",
        ),
        pytest.param(
            facts(credential=credential(), trouble=trouble()),
            facts(credential=credential(), trouble=trouble("StorageUnavailable", is_stalled=True)),
            ["StorageUnavailable"],
            id="one failure after another",
        ),
        pytest.param(
            facts(credential=credential()),
            facts(damaged="credential.json.corrupt-20261120T120000Z"),
            ["StateCorrupt"],
            id="damaged state",
        ),
    ],
)
def test_events_are_for_what_a_person_wants_to_know(before: Facts | None, after: Facts, reasons: list[str]) -> None:
    old = rendered(before) if before is not None else {}
    assert [happening.reason for happening in status.happenings(old, rendered(after))] == reasons
