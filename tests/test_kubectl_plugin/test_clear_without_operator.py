"""`clear` where a test is the operator, or nobody is: what cannot be had from the operator at will."""

from typing import Any

import pytest

from tests.support.control_plane import wait_until
from tests.test_kubectl_plugin.conftest import Objects, Plugin, condition
from tests.test_kubectl_plugin.test_login_without_operator import in_background

COOLING = {
    "cooldown": {"untilTime": "2099-01-01T00:00:00Z", "reason": "QuotaExhausted"},
    "conditions": [condition("Ready", "False", "CoolingDown")],
}
AVAILABLE: dict[str, Any] = {"cooldown": None, "conditions": [condition("Ready", "True", "Available")]}


def answer(objects: Objects, *names: str) -> None:
    for name in names:
        request = wait_until(lambda name=name: objects.annotation(name, "cooldown-cleared"), "the request")  # type: ignore[misc]
        objects.set_status(name, AVAILABLE | {"lastHandledClearRequest": request})


def test_every_request_has_a_value_of_its_own(objects: Objects, plugin: Plugin) -> None:
    """An answer to an earlier one must not count."""
    objects.create("alice", COOLING)
    with in_background(lambda: answer(objects, "alice")):
        assert plugin("clear", "alice").code == 0
    objects.set_status("alice", COOLING)
    assert plugin("clear", "alice", "--timeout", "1s").code == 3


def test_without_an_answer_it_says_what_to_look_at(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", COOLING)
    outcome = plugin("clear", "alice", "--timeout", "1s")
    assert (outcome.code, outcome.out) == (3, "")
    expected = f"the operator did not answer for alice: no operator runs in namespace {plugin.namespace}"
    assert expected in outcome.err


def test_with_nothing_to_clear_it_says_so(objects: Objects, plugin: Plugin) -> None:
    objects.create("bob", AVAILABLE)
    outcome = plugin("clear", "--all")
    assert (outcome.code, outcome.out, outcome.err) == (0, "no account is cooling down\n", "")
    assert plugin("clear", "--all", "-o", "json").json == []


def test_a_program_gets_the_accounts_as_they_are_then(objects: Objects, plugin: Plugin) -> None:
    objects.create("alice", COOLING)
    with in_background(lambda: answer(objects, "alice")):
        (row,) = plugin("clear", "alice", "-o", "json").json
    assert (row["name"], row["status"], row["resetTime"]) == ("alice", "Available", None)


@pytest.mark.parametrize("arguments", [(), ("alice", "--all")], ids=["neither", "both"])
def test_names_or_all(plugin: Plugin, arguments: tuple[str, ...]) -> None:
    assert plugin("clear", *arguments).code == 2
