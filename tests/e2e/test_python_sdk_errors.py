"""What goes wrong reaches the official Python SDK's user as the right exception, and never as half an answer."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anthropic
import pytest

from tests.e2e.conftest import ClientOf, StartGateway
from tests.e2e.error_answers import PASSED_ON, STATUSES, ErrorAnswer
from tests.e2e.gateway import ALICE, BOB, Gateway
from tests.e2e.questions import asking

UNIFIED = "anthropic-ratelimit-unified"


def ask(client: anthropic.Anthropic) -> object:
    return client.messages.create(**asking())


def ask_for_stream(client: anthropic.Anthropic) -> object:
    with client.messages.stream(**asking()) as stream:
        return stream.get_final_message()


def read_stream(client: anthropic.Anthropic) -> object:
    with client.messages.stream(**asking()) as stream:
        return list(stream.text_stream)


async def ask_async(gateway: Gateway) -> object:
    async with (
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=20) as client,
        client.messages.stream(**asking()) as stream,
    ):
        return await stream.get_final_message()


@pytest.mark.parametrize(("mode", "answer"), PASSED_ON)
@pytest.mark.parametrize("way", [ask, ask_for_stream])
def test_an_error_of_the_upstream_is_its_typed_exception(
    gateway: Gateway,
    client: anthropic.Anthropic,
    answer: ErrorAnswer,
    way: Callable[[anthropic.Anthropic], object],
) -> None:
    gateway.simulator.switches.set(**answer.switches)
    with pytest.raises(anthropic.APIStatusError) as caught:
        way(client)
    error = caught.value
    assert (type(error).__name__, error.status_code, error.type) == (answer.exception, answer.status, answer.type)
    assert error.api_message == answer.message
    assert error.response.headers.get("retry-after") == answer.retry_after
    # one request for an account, whatever it said about trying again, and the id of the last
    asked = 2 if answer.is_put_to_both and gateway.mode == "pool" else 1
    assert error.request_id == gateway.last_of(asked).request_id


@pytest.mark.parametrize("mode", ["pool"])
@pytest.mark.parametrize("way", [ask, ask_for_stream])
@pytest.mark.parametrize("status", STATUSES)
def test_after_any_error_the_next_request_works(
    start_gateway: StartGateway,
    client_of: ClientOf,
    status: int,
    way: Callable[[anthropic.Anthropic], object],
) -> None:
    gateway = start_gateway()
    gateway.simulator.switches.set(api_failures=1, api_failure_status=status)
    with suppress(anthropic.APIStatusError):
        way(client_of(gateway))
    assert gateway.simulator.switches.get().api_failures == 0
    assert way(client_of(gateway))


@pytest.mark.parametrize("mode", ["passthrough"])
def test_an_exhausted_account_s_limits_arrive(start_gateway: StartGateway, client_of: ClientOf) -> None:
    gateway = start_gateway()
    gateway.simulator.exhaust(ALICE, "7d", reset_in=3600)
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(client_of(gateway))
    headers = caught.value.response.headers
    assert (headers[f"{UNIFIED}-status"], headers[f"{UNIFIED}-7d-status"]) == ("rejected", "rejected")
    assert headers[f"{UNIFIED}-representative-claim"] == "seven_day"
    assert headers["retry-after"] == "3600"


@pytest.mark.parametrize("mode", ["pool"])
@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({"api_failure_status": 401}, id="401"),
        pytest.param({"api_failure_status": 402}, id="402"),
        pytest.param({"api_failure_status": 403}, id="403"),
        pytest.param({"api_failure_status": 429}, id="429-windowless"),
        pytest.param({"api_failure_status": 429, "api_failure_retry_after": 60}, id="429-retry-after"),
    ],
)
def test_what_is_the_account_s_fault_is_not_the_client_s_business(
    start_gateway: StartGateway, client_of: ClientOf, switches: dict[str, Any]
) -> None:
    gateway = start_gateway()
    gateway.simulator.switches.set(api_failures=1, **switches)
    assert ask(client_of(gateway))
    assert {request.subject for request in gateway.simulator.requests()} == {ALICE, BOB}


@pytest.mark.parametrize("mode", ["pool"])
@pytest.mark.parametrize("way", [ask, ask_for_stream])
def test_with_all_accounts_cooling_the_client_hears_when_to_come_back(
    start_gateway: StartGateway, client_of: ClientOf, way: Callable[[anthropic.Anthropic], object]
) -> None:
    gateway = start_gateway()
    gateway.simulator.exhaust(ALICE, reset_in=7200)
    gateway.simulator.exhaust(BOB, reset_in=3600)
    for _ in range(2):
        with pytest.raises(anthropic.RateLimitError) as caught:
            way(client_of(gateway))
        assert caught.value.type == "rate_limit_error"
        # the soonest reset, and up to 30 s so that not everybody comes at once
        assert 3600 < int(caught.value.response.headers["retry-after"]) <= 3630
        assert (caught.value.request_id or "").startswith("req_")
    # the second time nobody was asked
    assert len(gateway.simulator.requests()) == 2


@pytest.mark.parametrize("mode", ["pool"])
def test_a_pool_without_a_usable_account_is_unavailable(start_gateway: StartGateway, client_of: ClientOf) -> None:
    gateway = start_gateway(status="LoginRequired")
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(client_of(gateway))
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["type"]) == (503, "pool_exhausted")
    assert body["error"]["pool"]["accounts_total"] == 2
    assert body["request_id"] == caught.value.request_id
    assert "retry-after" not in caught.value.response.headers
    assert gateway.simulator.requests() == []


def test_a_body_beyond_the_proxy_s_own_limit_is_too_large(start_gateway: StartGateway, client_of: ClientOf) -> None:
    gateway = start_gateway(max_body_bytes=50)
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client_of(gateway))
    assert caught.value.status_code == 413
    assert (caught.value.request_id or "").startswith("req_")
    assert gateway.simulator.requests() == []


def test_an_upstream_that_is_gone_is_an_error_of_the_server(start_gateway: StartGateway, client_of: ClientOf) -> None:
    gateway = start_gateway()
    gateway.stop_upstream()
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(client_of(gateway))
    assert caught.value.status_code == 502


BROKEN_STREAMS = [
    pytest.param({"stream_cut_after": "content_block_delta"}, "api_error", id="cut"),
    pytest.param({"stream_cut_after": "message_delta"}, "api_error", id="cut-before-the-last-event"),
    pytest.param({"stream_cut_after": "content_block_delta", "chunk_bytes": 7}, "api_error", id="cut-in-pieces"),
    pytest.param({"stream_error_after": 5, "stream_error_type": "rate_limit_error"}, "rate_limit_error", id="error"),
    pytest.param({"stream_error_after": 0}, "overloaded_error", id="error-first"),
]


@pytest.mark.parametrize(("switches", "kind"), BROKEN_STREAMS)
@pytest.mark.parametrize("way", [ask_for_stream, read_stream])
def test_a_stream_that_breaks_is_never_a_whole_message(
    gateway: Gateway,
    client: anthropic.Anthropic,
    switches: dict[str, Any],
    kind: str,
    way: Callable[[anthropic.Anthropic], object],
) -> None:
    gateway.simulator.switches.set(**switches)
    with pytest.raises(anthropic.APIStatusError) as caught:
        way(client)
    assert caught.value.type == kind


def test_a_stream_that_stalls_is_never_a_whole_message(start_gateway: StartGateway, client_of: ClientOf) -> None:
    gateway = start_gateway(idle_timeout_secs=1)
    gateway.simulator.switches.set(stream_stall_after="content_block_stop")
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask_for_stream(client_of(gateway))
    assert caught.value.type == "api_error"


async def test_a_stream_that_breaks_raises_in_the_async_client_too(gateway: Gateway) -> None:
    gateway.simulator.switches.set(stream_cut_after="content_block_stop")
    with pytest.raises(anthropic.APIStatusError):
        await ask_async(gateway)


@pytest.mark.parametrize("after", [0, 60], ids=["before-its-body", "within-its-body"])
@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, id="plain"),
        pytest.param({"gzip": True}, id="compressed"),
        pytest.param({"json_chunked": True}, id="chunked"),
    ],
)
def test_a_json_answer_that_is_cut_is_no_message(
    gateway: Gateway, client: anthropic.Anthropic, after: int, switches: dict[str, bool]
) -> None:
    gateway.simulator.switches.set(json_cut_after=after, **switches)
    with pytest.raises(anthropic.APIConnectionError):
        ask(client)
