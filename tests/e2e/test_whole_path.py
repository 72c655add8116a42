"""From `kubectl apply` to a streamed answer: all processes real, the client the provider's official SDK."""

import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import MessageParam, TextBlock

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.every_login import DEAD, WRONG_CODE, log_in_in_every_way
from tests.support.stack import Stack, running_stack

ALICE = "alice@example.com"
MODEL = "claude-test"


@pytest.fixture(scope="module")
def stack(control_plane: ControlPlane) -> Iterator[Stack]:
    with running_stack(control_plane, log_level="debug", tokens="sealed") as stack:
        stack.apply(stack.account("alice", cooldown="45m"))
        stack.apply(stack.workload_account("workload"))
        stack.log_in("alice", ALICE)
        stack.wait_for_reason("workload", "Ready", "Available")
        wait_until(lambda: health(stack)["pool"]["accounts_available"] == 2, "the proxy to have both accounts")
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[anthropic.Anthropic]:
    """As a user has it: a key that means nothing to the pool, and no retries that would hide a failure."""
    with anthropic.Anthropic(base_url=stack.proxy_url, api_key="unused", max_retries=0) as client:
        yield client


def health(stack: Stack) -> dict[str, Any]:
    document: dict[str, Any] = httpx2.get(f"{stack.proxy_url}/health").json()
    return document


def ask(client: anthropic.Anthropic, text: str) -> str:
    message = client.messages.create(model=MODEL, max_tokens=64, messages=[{"role": "user", "content": text}])
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


def test_the_official_sdk_gets_a_message(client: anthropic.Anthropic) -> None:
    assert "a question of mine" in ask(client, "a question of mine")


def test_the_official_sdk_gets_a_stream(client: anthropic.Anthropic) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "a streamed question"}]
    with client.messages.stream(model=MODEL, max_tokens=64, messages=messages) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "a streamed question" in "".join(pieces)
    assert final.usage.output_tokens > 0


def test_counting_tokens_and_listing_models_go_through(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "how many"}])
    assert counted.input_tokens > 0
    assert [model.id for model in client.models.list()]


def test_conversations_are_spread_over_both_accounts(stack: Stack, client: anthropic.Anthropic) -> None:
    answers = [ask(client, f"whose turn, number {number}") for number in range(20)]  # twenty conversations
    assert 0 < sum(ALICE in answer for answer in answers) < 20


def test_the_client_s_own_credentials_never_reach_the_upstream(stack: Stack, client: anthropic.Anthropic) -> None:
    ask(client, "with a key")
    headers = stack.simulator.requests("/v1/messages")[-1]["headers"]
    assert "unused" not in json.dumps(headers)
    assert [name.lower() for name, _ in headers].count("authorization") == 1


def test_an_error_of_the_api_arrives_as_its_typed_exception(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model=MODEL, max_tokens=64, messages=[])


def test_an_exhausted_account_is_left_and_everybody_hears_of_it(stack: Stack, client: anthropic.Anthropic) -> None:
    stack.simulator.exhaust(ALICE, reset_in=1800)
    # as many conversations as it takes for some to begin with alice
    answers = [ask(client, f"still there, number {number}?") for number in range(25)]
    assert not any(ALICE in answer for answer in answers)

    # the report arrives in status, the operator folds it into the index, and kubectl shows it
    stack.wait_for_reason("alice", "Ready", "CoolingDown")
    entry = wait_until(lambda: e if (e := stack.index()["alice"])["status"] == "CoolingDown" else None, "the index")
    until = time.strptime(entry["cooldownUntil"], "%Y-%m-%dT%H:%M:%SZ")
    assert until > time.gmtime(time.time() + 1500)
    (report,) = stack.get("alice")["status"]["reports"]
    assert (report["reporter"], report["reason"], report["tokenGeneration"]) == ("proxy-0", "QuotaExhausted", 1)
    columns = stack.kubectl("get", "oauthaccounts").splitlines()
    assert columns[0].split() == ["NAME", "STATUS", "5H", "7D", "RESETS", "TOKEN-EXPIRES", "AGE"]
    assert columns[1].split()[:3] == ["alice", "CoolingDown", "100%"]
    assert health(stack)["status"] == "degraded"
    metrics = httpx2.get(f"{stack.proxy_url}/metrics").text
    assert 'pool_quota_exhaustions_total{account_id="alice"} 1.0' in metrics
    assert 'pool_failovers_total{from_account="alice"' in metrics


def test_with_every_account_exhausted_the_client_is_told_when_to_come_back(
    stack: Stack, client: anthropic.Anthropic
) -> None:
    workload = stack.get("workload")["status"]["subject"]
    subject = next(subject for subject in stack.simulator.subjects() if subject == workload)
    stack.simulator.exhaust(subject, reset_in=900)
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(client, "anybody?")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 960


def test_no_secret_is_anywhere_but_on_the_two_volumes(stack: Stack) -> None:
    """Runs last: everything above was logged at debug level."""
    commands = log_in_in_every_way(stack)
    by_kind: dict[str, list[str]] = stack.simulator.call("GET", "secrets")
    assert all(by_kind.values())  # of each kind there is one to be found
    secrets = [*stack.simulator.secrets(), WRONG_CODE, DEAD["access"]]
    assert DEAD["refresh"] in secrets
    kinds = "oauthaccounts,configmaps,events,serviceaccounts,roles,rolebindings,secrets"
    places = {
        "objects": stack.kubectl("get", kinds, "-o", "json", "--show-managed-fields"),
        "events as kubectl shows them": stack.kubectl("get", "events"),
        "the operator's output": stack.operator.output,
        "the output of imports": "".join(ended.stdout + ended.stderr for ended in commands),
        "the proxy's output": stack.proxy.output,
        "the operator's metrics": httpx2.get(f"{stack.metrics_url}/metrics").text,
        "the proxy's metrics": httpx2.get(f"{stack.proxy_url}/metrics").text,
        "health": httpx2.get(f"{stack.proxy_url}/health").text,
    }
    assert "reconcile" in places["the operator's output"] or "index: wrote" in places["the operator's output"]
    leaks = [(place, index) for place, text in places.items() for index, secret in enumerate(secrets) if secret in text]
    assert leaks == []
    # the search finds what is there: the volumes do hold them
    stored = "".join(path.read_text() for path in stack.state_dir.rglob("credential.json"))
    assert any(secret in stored for secret in secrets)
    # and what is over leaves nothing behind
    logins = "".join(path.read_text() for path in stack.state_dir.rglob("login.json"))
    assert not any(secret in logins for secret in (*by_kind["code"], *by_kind["device_code"]))
    assert not list(stack.state_dir.rglob("import.json"))
