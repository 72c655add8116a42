"""`clear`, answered by the real operator."""

from datetime import timedelta

import pytest

from tests.support.stack import Stack
from tests.test_kubectl_plugin.conftest import Plugin

HOUR = timedelta(hours=1)


@pytest.fixture
def namespace(stack: Stack) -> str:
    return stack.namespace


def cool_down(stack: Stack, name: str) -> None:
    stack.report(name, "QuotaExhausted", until=HOUR)
    stack.wait_for_reason(name, "Ready", "CoolingDown")


def test_all_that_cool_down_are_cleared_and_no_others(stack: Stack, plugin: Plugin) -> None:
    for name in ("clear-a", "clear-b", "clear-c"):
        stack.apply(stack.account(name))
        stack.log_in(name, f"{name}@example.com")
    cool_down(stack, "clear-a")
    cool_down(stack, "clear-c")
    outcome = plugin("clear", "--all")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "clear-a: cooldown ended; it is Available\nclear-c: cooldown ended; it is Available\n"
    assert "lastHandledClearRequest" not in stack.get("clear-b")["status"]
    for name in ("clear-a", "clear-c"):
        assert stack.condition(name, "Ready")["reason"] == "Available"
        assert stack.index()[name]["status"] == "Available"


def test_a_cooldown_can_be_ended_again_and_again(stack: Stack, plugin: Plugin) -> None:
    stack.apply(stack.account("clear-d"))
    stack.log_in("clear-d", "clear-d@example.com")
    for _ in range(2):
        cool_down(stack, "clear-d")
        assert plugin("clear", "clear-d").out == "clear-d: cooldown ended; it is Available\n"
    assert plugin("clear", "clear-d").out == "clear-d: was not cooling down; it is Available\n"
