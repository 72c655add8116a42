"""The decisions, as tables: what was gathered on the left, what a person and a proxy are told on the right."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauth_pool_operator.account import policies
from oauth_pool_operator.account.facts import NEVER, Facts
from oauth_pool_operator.account.login_policy import login_required
from oauth_pool_operator.account.trouble import Trouble
from tests.support.builders import NOW, account, credential, device_session, facts, report, session, trouble, window

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("given_facts", "is_ready", "reason"),
    [
        pytest.param(facts(session=session()), False, "LoginRequired", id="new account with an open login"),
        pytest.param(
            facts(session=session(age=HOUR)), False, "LoginRequired", id="new account whose login has expired"
        ),
        pytest.param(facts(credential=credential()), True, "Available", id="logged in"),
        pytest.param(
            facts(credential=credential(expires_in=-HOUR)), False, "Refreshing", id="access token has expired"
        ),
        pytest.param(
            facts(credential=credential(), trouble=trouble()), True, "Available", id="refresh fails, token still good"
        ),
        pytest.param(
            facts(account(reports=(report(until=HOUR),)), credential=credential()),
            False,
            "CoolingDown",
            id="a proxy reports an exhausted quota",
        ),
        pytest.param(
            facts(account(reports=(report("Billing", until=HOUR),)), credential=credential()),
            False,
            "Billing",
            id="a proxy reports that the account cannot pay",
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden", until=HOUR),)), credential=credential(generation=2)),
            False,
            "Forbidden",
            id="a proxy reports that the account is refused, whatever its token",
        ),
        pytest.param(
            facts(
                account(reports=(report("Billing", until=HOUR), report(reporter="b", until=2 * HOUR))),
                credential=credential(),
            ),
            False,
            "CoolingDown",
            id="what lasts longest counts",
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden", until=-HOUR),)), credential=credential()),
            True,
            "Available",
            id="the refusal has passed",
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden", until=HOUR),)), credential=credential(dead="GrantRevoked")),
            False,
            "Forbidden",
            id="the grant is dead, and the account is refused for a while",
        ),
        pytest.param(
            facts(account(reports=(report(until=-HOUR),)), credential=credential()),
            True,
            "Available",
            id="the cooldown has passed",
        ),
        pytest.param(
            facts(credential=credential(dead="GrantRevoked", expires_in=-HOUR)),
            False,
            "Disabled",
            id="the grant is dead, no login asked",
        ),
        pytest.param(
            facts(credential=credential(dead="GrantRevoked", expires_in=-HOUR), session=session()),
            False,
            "LoginRequired",
            id="the grant is dead, a login is open",
        ),
        pytest.param(
            facts(credential=credential(dead="GrantRevoked")),
            True,
            "Available",
            id="the grant is dead, token still good",
        ),
        pytest.param(
            facts(account(reports=(report("Unauthorized"),)), credential=credential(dead="GrantRevoked")),
            False,
            "Disabled",
            id="the grant is dead, and the token was refused",
        ),
        pytest.param(
            facts(credential=credential(dead="LoggedOut")), False, "Disabled", id="logged out, token still good"
        ),
        pytest.param(facts(account(suspend=True), credential=credential()), False, "Suspended", id="suspended"),
        pytest.param(
            facts(trouble=trouble("UnknownProvider", is_stalled=True)), False, "UnknownProvider", id="unknown provider"
        ),
        pytest.param(
            facts(trouble=trouble("InvalidProfile", is_stalled=True)), False, "InvalidProfile", id="broken profile"
        ),
        pytest.param(
            facts(credential=credential(), trouble=trouble("InvalidProfile", is_stalled=True)),
            True,
            "Available",
            id="broken profile, token still good",
        ),
        pytest.param(
            facts(credential=credential(expires_in=-HOUR), trouble=trouble("InvalidProfile", is_stalled=True)),
            False,
            "InvalidProfile",
            id="broken profile, token has expired",
        ),
        pytest.param(
            facts(trouble=trouble("StorageUnavailable", is_stalled=True), is_unread=True),
            False,
            "StorageUnavailable",
            id="state volume cannot be read",
        ),
        pytest.param(
            facts(trouble=trouble("StorageUnavailable", is_stalled=True)),
            False,
            "StorageUnavailable",
            id="no login can be opened, because the volume takes nothing",
        ),
        pytest.param(
            facts(session=session(), trouble=trouble("StorageUnavailable", is_stalled=True)),
            False,
            "LoginRequired",
            id="a login is open, and the volume takes nothing any more",
        ),
        pytest.param(
            facts(
                credential=credential(dead="GrantRevoked", expires_in=-HOUR),
                trouble=trouble("StorageUnavailable", is_stalled=True),
            ),
            False,
            "Disabled",
            id="the grant is dead, and the volume takes nothing",
        ),
        pytest.param(
            facts(credential=credential(expires_in=-HOUR), trouble=trouble("StorageUnavailable", is_stalled=True)),
            False,
            "StorageUnavailable",
            id="access token has expired, and the volume takes no new one",
        ),
        pytest.param(
            facts(credential=credential(), trouble=trouble("StorageUnavailable", is_stalled=True)),
            True,
            "Available",
            id="the volume takes nothing, token still good",
        ),
        pytest.param(facts(damaged="x"), False, "LoginRequired", id="the stored credential was damaged"),
        pytest.param(
            facts(account(grant="WorkloadIdentity")), False, "Refreshing", id="workload identity, no token yet"
        ),
        pytest.param(
            facts(account(grant="WorkloadIdentity"), trouble=trouble("ExchangeRejected", is_stalled=True)),
            False,
            "ExchangeRejected",
            id="workload identity, exchange refused",
        ),
    ],
)
def test_status_word(given_facts: Facts, is_ready: bool, reason: str) -> None:
    verdict = policies.readiness(given_facts)
    assert (verdict.is_ready, verdict.reason) == (is_ready, reason)


@pytest.mark.parametrize(
    ("given_facts", "is_required", "reason", "says"),
    [
        pytest.param(
            facts(session=session()), True, "AwaitingAuthorizationCode", "authorization-code=", id="login is open"
        ),
        pytest.param(
            facts(session=session(age=HOUR)), True, "LoginExpired", "login-requested=", id="login was not completed"
        ),
        pytest.param(
            facts(account(grant="DeviceCode"), session=device_session()),
            True,
            "AwaitingDeviceApproval",
            "enter status.login.userCode",
            id="a device's login is open",
        ),
        pytest.param(
            facts(account(grant="DeviceCode"), session=device_session(), login_trouble=trouble("Exchanging")),
            True,
            "AwaitingDeviceApproval",
            "answered 503",
            id="a device's login is open, and the provider does not answer",
        ),
        pytest.param(
            facts(account(grant="DeviceCode"), login_trouble=trouble("Exchanging")),
            True,
            "AwaitingDeviceApproval",
            "about to be opened: the token endpoint answered 503",
            id="a device's login could not be opened yet",
        ),
        pytest.param(
            facts(account(grant="DeviceCode"), credential=credential(), login_trouble=trouble("Exchanging")),
            False,
            "NotRequired",
            "until it is completed (the token endpoint answered 503)",
            id="nor the second one of a live account",
        ),
        pytest.param(
            facts(session=session(problem="CodeRejected", problem_message="wrong")),
            True,
            "CodeRejected",
            "wrong",
            id="the last code was refused",
        ),
        pytest.param(
            facts(credential=credential(dead="GrantRevoked")), True, "GrantRevoked", "login-requested=", id="dead"
        ),
        pytest.param(
            facts(credential=credential(dead="RefreshOutcomeUnknown")),
            True,
            "RefreshOutcomeUnknown",
            "answer to a refresh was lost",
            id="dead after a lost answer",
        ),
        pytest.param(facts(credential=credential()), False, "NotRequired", "", id="logged in"),
        pytest.param(
            facts(damaged="credential.json.corrupt-x", session=session()),
            True,
            "StateCorrupt",
            "set aside as credential.json.corrupt-x. Log in: open status.login.authorizationURL",
            id="damaged, and a login is open",
        ),
        pytest.param(
            facts(damaged="credential.json.corrupt-x", session=session(age=HOUR)),
            True,
            "StateCorrupt",
            "login-requested=",
            id="damaged, and no login is open any more",
        ),
        pytest.param(
            facts(credential=credential(), session=session()),
            False,
            "NotRequired",
            "the current one keeps working",
            id="second login of a live account",
        ),
        pytest.param(facts(account(grant="WorkloadIdentity")), False, "NotRequired", "", id="workload identity"),
        pytest.param(
            facts(account(suspend=True), credential=credential(dead="GrantRevoked")),
            False,
            "NotRequired",
            "",
            id="suspended: later",
        ),
        pytest.param(
            facts(credential=credential(), session=session(problem="CodeRejected", problem_message="wrong")),
            False,
            "CodeRejected",
            "wrong (the current login keeps working)",
            id="a refused code of a live account is mentioned, not required again",
        ),
        pytest.param(
            facts(session=session(age=HOUR, problem="SubjectMismatch", problem_message="wrong")),
            True,
            "SubjectMismatch",
            "wrong; that login has since expired; ask for a new one",
            id="the login after a refused one was not completed either",
        ),
        pytest.param(
            facts(session=session(age=HOUR, problem="LoginExpired", problem_message="late, ask again")),
            True,
            "LoginExpired",
            "late, ask again",
            id="the code came too late",
        ),
    ],
)
def test_what_is_asked_of_a_person(given_facts: Facts, is_required: bool, reason: str, says: str) -> None:
    required, why, message = login_required(given_facts)
    assert (required, why) == (is_required, reason)
    assert says in message


@pytest.mark.parametrize(
    ("given_facts", "is_due"),
    [
        pytest.param(facts(credential=credential()), False, id="fresh"),
        pytest.param(facts(credential=credential(expires_in=timedelta(minutes=30))), True, id="within 20 % of 8 h"),
        pytest.param(
            facts(credential=credential(expires_in=timedelta(hours=2))), False, id="outside 20 % of 8 h plus spread"
        ),
        pytest.param(
            facts(credential=credential(expires_in=timedelta(seconds=50), lifetime=timedelta(minutes=1))),
            False,
            id="a token that lives a minute is not refreshed for ever",
        ),
        pytest.param(
            facts(account(suspend=True), credential=credential(expires_in=-HOUR)), False, id="suspended: never"
        ),
        pytest.param(facts(credential=credential(expires_in=-HOUR, dead="GrantRevoked")), False, id="dead: never"),
        pytest.param(
            facts(account(reports=(report("Unauthorized"),)), credential=credential()),
            True,
            id="a proxy was refused with this very token",
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden"),)), credential=credential()),
            True,
            id="a proxy was forbidden with this very token",
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden", until=HOUR),)), credential=credential()),
            False,
            id="a proxy was forbidden for a while, which a newer token does not cure",
        ),
        pytest.param(
            facts(account(reports=(report("Billing", until=HOUR),)), credential=credential()),
            False,
            id="the account cannot pay, which a newer token does not cure",
        ),
        pytest.param(
            facts(credential=credential(expires_in=timedelta(minutes=9), lifetime=timedelta(minutes=25))),
            True,
            id="10 minutes before expiry where 20 % would be less",
        ),
        pytest.param(
            facts(
                account(reports=(report("Unauthorized"),)),
                credential=credential(),
                last_forced_refresh=NOW - timedelta(minutes=1),
            ),
            False,
            id="a fresh token is refused, too: not one refresh per request",
        ),
        pytest.param(
            facts(
                account(reports=(report("Unauthorized"),)),
                credential=credential(),
                last_forced_refresh=NOW - timedelta(minutes=6),
            ),
            True,
            id="after a while it is worth another try",
        ),
        pytest.param(
            facts(account(reports=(report("Unauthorized"),)), credential=credential(generation=2)),
            False,
            id="a report about an older token says nothing",
        ),
        pytest.param(facts(account(grant="WorkloadIdentity")), True, id="workload identity: first token"),
        pytest.param(
            facts(
                account(grant="WorkloadIdentity"),
                credential=credential(expires_in=timedelta(minutes=11), lifetime=HOUR),
            ),
            True,
            id="workload identity: as long before expiry as any",
        ),
        pytest.param(
            facts(account(grant="WorkloadIdentity"), credential=credential(expires_in=timedelta(seconds=119))),
            True,
            id="workload identity: 120 s before expiry",
        ),
        pytest.param(
            facts(
                account(grant="WorkloadIdentity"),
                credential=credential(expires_in=timedelta(seconds=34), lifetime=timedelta(minutes=1)),
            ),
            False,
            id="workload identity: a token that lives a minute is used for half of it",
        ),
        pytest.param(
            facts(
                account(grant="WorkloadIdentity"),
                credential=credential(expires_in=timedelta(seconds=30), lifetime=timedelta(minutes=1)),
            ),
            True,
            id="workload identity: and then there is another",
        ),
        pytest.param(
            facts(account(grant="WorkloadIdentity"), credential=credential(workload="0123456789abcdef")),
            True,
            id="workload identity: the token is of another workload",
        ),
        pytest.param(
            facts(account(reports=(report(until=HOUR),)), credential=credential(expires_in=timedelta(minutes=5))),
            True,
            id="a cooling account is refreshed all the same",
        ),
        pytest.param(
            facts(credential=credential(expires_in=timedelta(minutes=5), refresh_token=None)),
            False,
            id="nothing to refresh with: used to its end",
        ),
    ],
)
def test_refresh_is_due(given_facts: Facts, is_due: bool) -> None:
    assert policies.refresh_is_due(given_facts) is is_due


@given(lifetime=st.integers(2, 7 * 24 * 3600), generation=st.integers(1, 10_000))
def test_the_refresh_comes_after_the_token_and_before_its_end(lifetime: int, generation: int) -> None:
    token = credential(
        expires_in=timedelta(seconds=lifetime), lifetime=timedelta(seconds=lifetime), generation=generation
    )
    assert token.obtained < policies.next_refresh(token, account()) < token.expires


@given(lifetime=st.integers(20 * 60, 7 * 24 * 3600), skew=st.integers(-300, 300), generation=st.integers(1, 100))
def test_a_proxy_whose_clock_differs_by_five_minutes_is_never_without_a_token(
    lifetime: int, skew: int, generation: int
) -> None:
    life = timedelta(seconds=lifetime)
    token = credential(expires_in=life, lifetime=life, generation=generation)
    due = policies.next_refresh(token, account())
    takes_it_for_expired_at = token.expires - timedelta(seconds=skew)  # on the operator's clock
    assert due + timedelta(minutes=5) <= takes_it_for_expired_at  # and five minutes are left for failures


@pytest.mark.parametrize(
    ("of", "expires_in", "lifetime", "expected"),
    [
        pytest.param("WorkloadIdentity", 120, 3600, 90, id="30 s before expiry"),
        pytest.param("WorkloadIdentity", 30, 60, 15, id="15 s for a token that lives a minute"),
        pytest.param("WorkloadIdentity", 29, 3600, None, id="it has passed"),
        pytest.param("AuthorizationCode", 120, 3600, 90, id="of a refresh, too"),
    ],
)
def test_the_last_call(of: str, expires_in: int, lifetime: int, expected: int | None) -> None:
    token = credential(expires_in=timedelta(seconds=expires_in), lifetime=timedelta(seconds=lifetime))
    instant = policies.last_call(facts(account(grant=of), credential=token))
    assert instant == (NOW + timedelta(seconds=expected) if expected is not None else None)


def test_tokens_obtained_together_are_not_refreshed_together() -> None:
    uids = [f"3f8b7c1e-0000-4000-8000-{number:012}" for number in range(20)]
    assert len({policies.next_refresh(credential(), account(uid=uid)) for uid in uids}) == 20


def test_however_short_a_token_lives_a_refresh_is_not_due_at_once() -> None:
    token = credential(expires_in=timedelta(milliseconds=10), lifetime=timedelta(milliseconds=10))
    assert policies.next_refresh(token, account()) == token.obtained + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("given_facts", "expected"),
    [
        pytest.param(facts(session=session()), timedelta(minutes=10), id="the login expires"),
        pytest.param(facts(credential=credential(), trouble=trouble()), timedelta(seconds=4), id="next try"),
        pytest.param(
            facts(session=device_session(), next_poll=NOW + timedelta(seconds=5)),
            timedelta(seconds=5),
            id="a device asks",
        ),
        pytest.param(
            facts(credential=credential(), login_trouble=trouble()), timedelta(seconds=4), id="next try of a login"
        ),
        pytest.param(
            facts(account(reports=(report("Forbidden"),)), credential=credential(), last_forced_refresh=NOW),
            timedelta(minutes=5),
            id="a refused token is refreshed once more",
        ),
        pytest.param(
            facts(
                account(reports=(report(None, windows=[window(resets_in=timedelta(minutes=7))]),)),
                credential=credential(),
            ),
            timedelta(minutes=7),
            id="a window starts anew, and the column with it",
        ),
        pytest.param(
            facts(account(reports=(report(until=timedelta(minutes=3)),)), credential=credential()),
            timedelta(minutes=3),
            id="the cooldown ends",
        ),
        pytest.param(
            facts(account(suspend=True), credential=credential()),
            timedelta(hours=7),
            id="a suspended account's token expires; it is not refreshed before",
        ),
        pytest.param(
            facts(credential=credential(), trouble=Trouble("Refreshing", "m", NOW + 9 * HOUR, False)),
            timedelta(hours=7),
            id="the token expires before the next try",
        ),
        pytest.param(
            facts(credential=credential()),
            policies.next_refresh(credential(), account()) - NOW,
            id="the refresh",
        ),
    ],
)
def test_next_check_is_when_something_changes_by_itself(given_facts: Facts, expected: timedelta) -> None:
    assert policies.next_check(given_facts) == NOW + expected


def test_a_dead_account_is_looked_at_when_its_token_expires_and_then_not_without_an_event() -> None:
    dead = credential(dead="GrantRevoked")
    assert policies.next_check(facts(credential=dead)) == dead.expires
    assert policies.next_check(facts(credential=dead, now=dead.expires)) == NEVER
