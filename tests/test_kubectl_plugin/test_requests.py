"""`refresh` and `logout`, where a test is the operator, or nobody is."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import wait_until
from tests.support.pseudo_terminal import on_terminal
from tests.support.stack import ORGANIZATION
from tests.test_kubectl_plugin.conftest import Objects, Plugin, condition
from tests.test_kubectl_plugin.test_login_without_operator import in_background

READY: dict[str, Any] = {"token": {"generation": 1}, "conditions": [condition("Ready", "True", "Available")]}
REFRESHED = READY | {"token": {"generation": 2}}
REFUSED = READY | {
    "conditions": [
        condition("Ready", "True", "Available"),
        condition("RefreshFailing", "True", "ExchangeRejected", "the provider said no"),
        condition("Stalled", "True", "ExchangeRejected", "the provider said no"),
    ]
}
OUT_OF_REACH = READY | {
    "conditions": [
        condition("Ready", "True", "Available"),
        condition("RefreshFailing", "True", "Refreshing", "the token endpoint does not answer"),
        condition("Reconciling", "True", "Refreshing", "the token endpoint does not answer"),
    ]
}
LOGGED_OUT = READY | {
    "conditions": [condition("Ready", "False", "Disabled"), condition("LoginRequired", "True", "LoggedOut")]
}


def answer(objects: Objects, verb: str, status: dict[str, Any], *names: str) -> None:
    """As the operator does when it is done."""
    for name in names:
        request = wait_until(lambda name=name: objects.annotation(name, f"{verb}-requested"), "the request")  # type: ignore[misc]
        objects.set_status(name, status | {f"lastHandled{verb.capitalize()}Request": request})


def test_a_refresh_is_asked_for_and_its_new_token_waited_for(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", READY)
    with in_background(lambda: answer(objects, "refresh", REFRESHED, "alice")):
        outcome = plugin("refresh", "alice")
    assert (outcome.code, outcome.out) == (0, "alice: refreshed; it is Available\n")


def test_a_program_gets_the_accounts_as_they_are_after_a_refresh(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", READY)
    with in_background(lambda: answer(objects, "refresh", REFRESHED, "alice")):
        (row,) = plugin("refresh", "alice", "-o", "json").json
    assert (row["name"], row["status"]) == ("alice", "Available")


def test_every_request_for_a_refresh_has_a_value_of_its_own(objects: Objects, plugin: Plugin) -> None:
    """An answer to an earlier one must not count."""
    objects.create("alice", READY)
    with in_background(lambda: answer(objects, "refresh", REFRESHED, "alice")):
        assert plugin("refresh", "alice").code == 0
    assert plugin("refresh", "alice", "--timeout", "1s").code == 3


@pytest.mark.parametrize(
    ("status", "why"),
    [
        pytest.param(REFUSED, "the provider said no", id="refused"),
        pytest.param(OUT_OF_REACH, "the token endpoint does not answer", id="out of reach"),
        pytest.param(READY, "the operator gives no reason; it is Available", id="nobody knows"),
    ],
)
def test_a_refresh_that_brought_no_token_says_why_and_is_a_failure(
    objects: Objects, plugin: Plugin, status: dict[str, Any], why: str
) -> None:
    objects.create("alice", READY)
    with in_background(lambda: answer(objects, "refresh", status, "alice")):
        outcome = plugin("refresh", "alice")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == f"error: alice: not refreshed: {why}"


def test_all_are_refreshed_but_those_that_are_suspended(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", READY)
    objects.create("bob", READY)
    objects.create("carol", READY, suspend=True)
    with in_background(lambda: answer(objects, "refresh", REFRESHED, "alice", "bob")):
        outcome = plugin("refresh", "--all")
    assert (outcome.code, len(outcome.out.splitlines())) == (0, 2)
    assert objects.annotation("carol", "refresh-requested") is None
    assert plugin("refresh", "carol").err == "error: carol is suspended: kubectl oauthaccount resume carol\n"
    assert plugin("refresh", "-l", "none=such").out == "there is no account to refresh\n"


@pytest.mark.parametrize("command", [("refresh", "alice"), ("logout", "alice", "--yes")], ids=lambda words: words[0])
def test_an_operator_that_does_not_answer_is_named(objects: Objects, plugin: Plugin, command: tuple[str, ...]) -> None:
    objects.create("alice", READY)
    outcome = plugin(*command, "--timeout", "1s")
    assert (outcome.code, outcome.out) == (3, "")
    expected = f"the operator did not answer for alice: no operator runs in namespace {plugin.namespace}"
    assert expected in outcome.err


def test_a_logout_is_asked_for_and_waited_for(objects: Objects, plugin: Plugin) -> None:
    for name in ("alice", "bob"):
        objects.create(name, READY)
    with in_background(lambda: answer(objects, "logout", LOGGED_OUT, "alice", "bob")):
        outcome = plugin("logout", "alice", "bob", "--yes")
    assert outcome.code == 0
    assert outcome.out == "alice: logged out; it is Disabled\nbob: logged out; it is Disabled\n"


def test_nobody_is_logged_out_without_a_yes(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", READY)
    outcome = plugin("logout", "alice", stdin="y\n")
    assert (outcome.code, "use --yes" in outcome.err) == (2, True)
    assert objects.annotation("alice", "logout-requested") is None


@pytest.mark.parametrize(
    ("typed", "is_done"), [("y\n", True), ("n\n", False), ("\n", False)], ids=["yes", "no", "enter"]
)
def test_a_person_is_asked_first(objects: Objects, plugin: Plugin, typed: str, is_done: bool) -> None:
    objects.create("alice", READY)
    command = (str(Path(sys.executable).with_name("kubectl-oauthaccount")), "-n", plugin.namespace, "logout", "alice")
    environment = os.environ | {"KUBECONFIG": str(plugin.kubeconfig)}
    with on_terminal(*command, "--timeout", "1s", environment=environment) as terminal:
        terminal.wait_for("Revoke the login of alice?")
        terminal.type(typed)
        assert terminal.wait() == (3 if is_done else 1)  # nobody answers
    assert (objects.annotation("alice", "logout-requested") is not None) is is_done


def test_a_workload_has_no_login_to_revoke(objects: Objects, plugin: Plugin) -> None:
    identity = {"serviceAccountName": "inference", "federationRuleID": "fdrl_1", "organizationID": ORGANIZATION}
    objects.create("robot", grant="WorkloadIdentity", workloadIdentity=identity)
    objects.create("alice", READY)
    outcome = plugin("logout", "alice", "robot", "--yes")
    assert (outcome.code, "robot has no login to revoke" in outcome.err) == (1, True)
    assert objects.annotation("alice", "logout-requested") is None  # all or none
