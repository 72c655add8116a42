"""What a rule gives its clients, and what it does not."""

import pytest

from oauth_pool_proxy.config import ClientRule
from oauth_pool_proxy.downstream.identity.allowance import Allowance, Allowances, Caller
from oauth_pool_proxy.errors import ClientLimited, NotPermitted

ANY = ("*",)


@pytest.mark.parametrize(
    ("name", "priority"),
    [
        ("team-a/runner", 1),
        ("team-a/other", 1),
        ("key:ci-deploy", 1),
        ("key:laptop", 3),
        ("tailscale:ann@example.com", 2),
        ("tailscale:ann@example.org", 3),
        ("stranger", 3),
        ("xteam-a/runner", 3),
    ],
)
def test_the_first_rule_that_matches_counts(name: str, priority: int) -> None:
    allowances = Allowances(
        [
            ClientRule(("team-a/*", "key:ci-*"), priority=1),
            ClientRule(("tailscale:*@example.com",), priority=2),
            ClientRule(ANY, priority=3),
        ]
    )
    assert allowances.of(name).rule.priority == priority


def test_without_a_rule_there_is_no_limit() -> None:
    caller = Caller("a/b", Allowances([ClientRule(("x",), deny=True)]).of("a/b"))
    for _ in range(1000):
        caller.begin("/v1/messages", 0)
    caller.allowance.check_models(["anything"])


def test_a_rule_can_keep_clients_out() -> None:
    with pytest.raises(NotPermitted, match="keeps this client out"):
        Caller("a/b", Allowance(ClientRule(ANY, deny=True))).begin("/v1/messages", 0)


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("/v1/messages", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/messages/batches", False),
        ("/v1/messages/%62atches", False),
        ("/v1/messages/../files", False),
        ("/v1/models", False),
    ],
)
def test_paths_count_however_they_are_written(path: str, is_allowed: bool) -> None:
    allowance = Allowance(ClientRule(ANY, paths=("/v1/messages",), denied_paths=("/v1/messages/batches",)))
    assert allowance.admits_path(path) is is_allowed
    if not is_allowed:
        with pytest.raises(NotPermitted, match="may not ask for this path"):
            Caller("a/b", allowance).begin(path, 0)


@pytest.mark.parametrize(
    ("models", "is_allowed"),
    [
        (["claude-haiku-9"], True),
        ([], True),
        (["CLAUDE-Haiku-9"], True),
        (["claude-haiku-old"], False),
        (["claude-HAIKU-old"], False),
        (["claude-opus-9"], False),
        (["claude-haiku-9", "claude-opus-9"], False),
        (["claude-haiku-" + "9" * 200], False),
        (["x\nclaude-haiku-9"], False),
        (None, False),
    ],
)
def test_models_are_globs_to_allow_and_to_deny(models: list[str] | None, is_allowed: bool) -> None:
    allowance = Allowance(ClientRule(ANY, models=("claude-haiku-*", "claude-sonnet-*"), denied_models=("*-old",)))
    assert allowance.limits_models
    if is_allowed:
        allowance.check_models(models)
    else:
        with pytest.raises(NotPermitted):
            allowance.check_models(models)


def test_what_is_not_denied_is_allowed_where_nothing_else_is_said() -> None:
    allowance = Allowance(ClientRule(ANY, denied_models=("*opus*",)))
    allowance.check_models(["claude-sonnet-9"])
    with pytest.raises(NotPermitted):
        allowance.check_models(["claude-opus-9"])


def test_so_many_requests_are_under_way_at_once_and_no_more() -> None:
    caller = Caller("a/b", Allowance(ClientRule(ANY, max_concurrent_requests=2)))
    caller.begin("/", 0)
    caller.begin("/", 0)
    with pytest.raises(ClientLimited, match="2 requests under way") as caught:
        caller.begin("/", 0)
    assert caught.value.headers() == [(b"retry-after", b"1")]
    caller.end()
    caller.begin("/", 0)
    assert caller.in_flight == 2


def times_admitted(caller: Caller, now: float) -> int:
    for number in range(1000):
        try:
            caller.begin("/", now)
        except ClientLimited:
            return number
    return 1000


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600])
def test_a_bucket_of_requests_is_full_at_first_and_fills_evenly(per_minute: int) -> None:
    caller = Caller("a/b", Allowance(ClientRule(ANY, requests_per_minute=per_minute)))
    assert times_admitted(caller, 1000) == per_minute
    assert times_admitted(caller, 1000 + 60 / per_minute) == 1
    assert times_admitted(caller, 2000) == per_minute
    with pytest.raises(ClientLimited, match=f"{per_minute} requests a minute") as caught:
        caller.begin("/", 2000)
    assert caught.value.retry_after == pytest.approx(60 / per_minute)


def test_what_is_refused_takes_nothing_from_the_bucket_and_is_not_under_way() -> None:
    rule = ClientRule(ANY, requests_per_minute=2, max_concurrent_requests=1, paths=("/v1/",))
    caller = Caller("a/b", Allowance(rule))
    with pytest.raises(NotPermitted):
        caller.begin("/v2/", 0)
    caller.begin("/v1/", 0)
    with pytest.raises(ClientLimited, match="at once"):
        caller.begin("/v1/", 0)
    caller.end()
    caller.begin("/v1/", 0)
