"""The provider's official TypeScript SDK, unchanged, through the proxy: what works directly works the same."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.error_answers import PASSED_ON, STATUSES, ErrorAnswer
from tests.e2e.gateway import ALICE, BOB, DUMMY_KEY, MODEL, Gateway
from tests.e2e.questions import PLACE, TEXT, WEATHER, asking, served
from tests.e2e.typescript_sdk import TypeScriptSdk, running_typescript_sdk
from tests.simulator.bearer import OAUTH_BETA
from tests.simulator.recorder import Outcome
from tests.support.proxy_server import until


@pytest.fixture(scope="module")
def typescript() -> Iterator[TypeScriptSdk]:
    with running_typescript_sdk() as sdk:
        yield sdk


def text_of(message: dict[str, Any]) -> str:
    (block,) = message["content"]
    text: str = block["text"]
    return text


@pytest.mark.parametrize("compressed", [False, True])
def test_a_message_is_whole(gateway: Gateway, typescript: TypeScriptSdk, compressed: bool) -> None:
    gateway.simulator.switches.set(gzip=compressed, cache_read_tokens=2000)
    seen = typescript.play("message", gateway, **asking(TEXT))["seen"]
    assert text_of(seen["message"]) in served(TEXT)
    assert seen["message"]["stop_reason"] == "end_turn"
    assert seen["message"]["usage"]["cache_read_input_tokens"] == 2000
    assert seen["requestID"] == gateway.request().request_id


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, id="plain"),
        pytest.param({"chunk_bytes": 3}, id="split-anywhere"),
        pytest.param({"gzip": True, "chunk_bytes": 50}, id="compressed"),
    ],
)
def test_a_stream_makes_the_same_message(gateway: Gateway, typescript: TypeScriptSdk, switches: dict[str, Any]) -> None:
    gateway.simulator.switches.set(reply=TEXT, cache_creation_tokens=11, cache_read_tokens=2000, **switches)
    seen = typescript.play("stream", gateway, **asking(TEXT))["seen"]
    assert len(seen["texts"]) > 5
    assert "".join(seen["texts"]) == text_of(seen["message"]) == TEXT
    whole = typescript.play("message", gateway, **asking(TEXT))["seen"]["message"]
    assert seen["message"]["stop_reason"] == whole["stop_reason"]
    counted = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert [seen["message"]["usage"][name] for name in counted] == [whole["usage"][name] for name in counted]
    assert seen["message"]["usage"]["cache_read_input_tokens"] == 2000


@pytest.mark.parametrize("scenario", ["message", "stream"])
def test_a_tool_is_called_and_its_result_handed_back(
    gateway: Gateway, typescript: TypeScriptSdk, scenario: str
) -> None:
    parameters = asking(PLACE, tools=[WEATHER], tool_choice={"type": "any"})
    called = typescript.play(scenario, gateway, **parameters)["seen"]["message"]
    block = called["content"][-1]
    assert (block["name"], block["input"], called["stop_reason"]) == ("weather", {"place": PLACE}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": "sunny"}
    parameters["messages"] += [
        {"role": "assistant", "content": called["content"]},
        {"role": "user", "content": [result]},
    ]
    assert text_of(typescript.play(scenario, gateway, **parameters)["seen"]["message"]) in served("sunny")


def test_tokens_are_counted(gateway: Gateway, typescript: TypeScriptSdk) -> None:
    counted = typescript.play("countTokens", gateway, model=MODEL, messages=asking(TEXT)["messages"])["seen"]
    message = typescript.play("message", gateway, **asking(TEXT))["seen"]["message"]
    assert counted["tokens"]["input_tokens"] == message["usage"]["input_tokens"]


def test_models_are_listed_page_after_page(gateway: Gateway, typescript: TypeScriptSdk) -> None:
    ids = typescript.play("models", gateway, limit=1)["seen"]["ids"]
    assert MODEL in ids
    assert len(set(ids)) == len(gateway.simulator.requests("/v1/models")) == 3


def test_fifty_streams_at_once_keep_apart(gateway: Gateway, typescript: TypeScriptSdk) -> None:
    texts = typescript.play("streams", gateway, number=50, model=MODEL, max_tokens=100)["seen"]["texts"]
    assert len(texts) == 50
    for number, text in enumerate(texts):
        assert text in served(f"number {number}")


async def test_leaving_a_stream_ends_the_upstream_request(gateway: Gateway, typescript: TypeScriptSdk) -> None:
    gateway.simulator.switches.set(stream_stall_after="content_block_delta")
    assert typescript.play("leave", gateway, **asking())["seen"]["text"] == "Served "
    await until(lambda: gateway.request().outcome is Outcome.CLIENT_DISCONNECTED, "the upstream request is ended")


async def test_giving_up_ends_a_request_that_has_no_answer_yet(gateway: Gateway, typescript: TypeScriptSdk) -> None:
    gateway.simulator.switches.set(headers_delay=60)
    assert typescript.play("giveUp", gateway, **asking())["error"]["name"] == "APIConnectionTimeoutError"
    await until(lambda: gateway.request().outcome is Outcome.CLIENT_DISCONNECTED, "the upstream request is ended")


def test_the_headers_of_the_sdk_arrive(gateway: Gateway, typescript: TypeScriptSdk) -> None:
    typescript.play("beta", gateway, **asking(betas=["one-2025-01-01", "two-2025-01-01"]))
    request = gateway.request()
    assert request.header("anthropic-beta") == f"one-2025-01-01,two-2025-01-01,{OAUTH_BETA}"
    assert request.header("x-stainless-lang") == "js"
    assert len([name for name, _ in request.headers if name.startswith("x-stainless-")]) > 5
    assert (request.header("user-agent") or "").startswith("Anthropic/JS")
    assert request.header("anthropic-version")
    values = [value for _, value in request.headers]
    assert (f"Bearer {gateway.key}" in values) is (gateway.mode == "passthrough")
    assert not [value for value in values if DUMMY_KEY in value]


@pytest.mark.parametrize(("mode", "answer"), PASSED_ON)
@pytest.mark.parametrize("scenario", ["message", "stream"])
def test_an_error_of_the_upstream_is_its_typed_exception(
    gateway: Gateway, typescript: TypeScriptSdk, answer: ErrorAnswer, scenario: str
) -> None:
    gateway.simulator.switches.set(**answer.switches)
    error = typescript.play(scenario, gateway, **asking())["error"]
    assert (error["name"], error["status"], error["type"]) == (answer.exception, answer.status, answer.type)
    # what is not of the API has no message that the SDK would take out
    assert answer.message in (None, error["message"])
    assert error.get("retryAfter") == answer.retry_after
    asked = 2 if answer.is_put_to_both and gateway.mode == "pool" else 1
    assert error["requestID"] == gateway.last_of(asked).request_id


@pytest.mark.parametrize("mode", ["pool"])
@pytest.mark.parametrize("scenario", ["message", "stream"])
@pytest.mark.parametrize("status", STATUSES)
def test_after_any_error_the_next_request_works(
    start_gateway: StartGateway, typescript: TypeScriptSdk, status: int, scenario: str
) -> None:
    gateway = start_gateway()
    gateway.simulator.switches.set(api_failures=1, api_failure_status=status)
    typescript.play(scenario, gateway, **asking())
    assert gateway.simulator.switches.get().api_failures == 0
    assert "error" not in typescript.play(scenario, gateway, **asking())


@pytest.mark.parametrize("mode", ["pool"])
def test_with_all_accounts_cooling_the_client_hears_when_to_come_back(
    start_gateway: StartGateway, typescript: TypeScriptSdk
) -> None:
    gateway = start_gateway()
    gateway.simulator.exhaust(ALICE, reset_in=7200)
    gateway.simulator.exhaust(BOB, reset_in=3600)
    error = typescript.play("message", gateway, **asking())["error"]
    assert (error["name"], error["type"]) == ("RateLimitError", "rate_limit_error")
    assert 3600 < int(error["retryAfter"]) <= 3630
    assert error["requestID"].startswith("req_")


@pytest.mark.parametrize("mode", ["pool"])
def test_a_pool_without_a_usable_account_is_unavailable(start_gateway: StartGateway, typescript: TypeScriptSdk) -> None:
    gateway = start_gateway(status="LoginRequired")
    error = typescript.play("message", gateway, **asking())["error"]
    assert (error["name"], error["status"], error["type"]) == ("ServiceUnavailableError", 503, "pool_exhausted")


@pytest.mark.parametrize(
    ("switches", "kind"),
    [
        pytest.param({"stream_cut_after": "content_block_delta"}, "api_error", id="cut"),
        pytest.param({"stream_cut_after": "message_delta"}, "api_error", id="cut-before-the-last-event"),
        pytest.param({"stream_cut_after": "content_block_delta", "chunk_bytes": 7}, "api_error", id="cut-in-pieces"),
        pytest.param({"stream_error_after": 5}, "overloaded_error", id="error"),
        pytest.param({"stream_error_after": 0}, "overloaded_error", id="error-first"),
    ],
)
@pytest.mark.parametrize("scenario", ["stream", "events"])
def test_a_stream_that_breaks_is_never_a_whole_message(
    gateway: Gateway, typescript: TypeScriptSdk, switches: dict[str, Any], kind: str, scenario: str
) -> None:
    gateway.simulator.switches.set(**switches)
    result = typescript.play(scenario, gateway, **asking())
    assert (result["error"]["isOfTheSDK"], result["error"]["type"]) == (True, kind)
    assert not {"message", "isAtEnd"} & set(result["seen"])


def test_a_stream_that_stalls_is_never_a_whole_message(start_gateway: StartGateway, typescript: TypeScriptSdk) -> None:
    gateway = start_gateway(idle_timeout_secs=1)
    gateway.simulator.switches.set(stream_stall_after="content_block_stop")
    result = typescript.play("stream", gateway, **asking())
    assert (result["error"]["isOfTheSDK"], result["error"]["type"]) == (True, "api_error")
    assert "message" not in result["seen"]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_json_answer_that_is_cut_is_no_message(gateway: Gateway, typescript: TypeScriptSdk, compressed: bool) -> None:
    gateway.simulator.switches.set(json_cut_after=60, gzip=compressed)
    result = typescript.play("message", gateway, **asking())
    # how fetch calls a body that ended before its end
    assert (result["error"]["name"], result["error"]["message"]) == ("TypeError", "terminated")
    assert not result["seen"]
