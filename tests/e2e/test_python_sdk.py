"""The provider's official Python SDK, unchanged, through the proxy: what works directly works the same."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageParam

from tests.e2e.gateway import ALICE, DUMMY_KEY, MODEL, Gateway
from tests.e2e.questions import PLACE, TEXT, WEATHER, asking, served
from tests.simulator.bearer import OAUTH_BETA
from tests.simulator.recorder import Outcome
from tests.support.proxy_server import until


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=20) as client:
        yield client


def text_of(message: Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


@pytest.mark.parametrize("compressed", [False, True])
def test_a_message_is_whole(gateway: Gateway, client: anthropic.Anthropic, compressed: bool) -> None:
    gateway.simulator.switches.set(cache_creation_tokens=11, cache_read_tokens=2000, gzip=compressed)
    message: Message = client.messages.create(**asking(TEXT))
    assert text_of(message) in served(TEXT)
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    assert (message.usage.cache_creation_input_tokens, message.usage.cache_read_input_tokens) == (11, 2000)
    assert message._request_id == gateway.request().request_id


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, id="plain"),
        pytest.param({"chunk_bytes": 3}, id="split-anywhere"),
        pytest.param({"gzip": True, "chunk_bytes": 50}, id="compressed"),
    ],
)
def test_a_stream_makes_the_same_message(
    gateway: Gateway, client: anthropic.Anthropic, switches: dict[str, Any]
) -> None:
    gateway.simulator.switches.set(reply=TEXT, cache_creation_tokens=11, cache_read_tokens=2000, **switches)
    with client.messages.stream(**asking(TEXT)) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 5
    assert "".join(pieces) == text_of(final) == TEXT
    assert final.stop_reason == "end_turn"
    # the numbers of a stream are cumulative: its last word is what the message costs
    whole: Message = client.messages.create(**asking(TEXT))
    counted = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert [getattr(final.usage, name) for name in counted] == [getattr(whole.usage, name) for name in counted]
    assert final.usage.cache_read_input_tokens == 2000


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_is_called_and_its_result_handed_back(client: anthropic.Anthropic, is_streamed: bool) -> None:
    turns: list[MessageParam] = [{"role": "user", "content": PLACE}]

    def turn() -> Message:
        parameters = asking(messages=turns, tools=[WEATHER], tool_choice={"type": "any"})
        if not is_streamed:
            message: Message = client.messages.create(**parameters)
            return message
        with client.messages.stream(**parameters) as stream:
            return stream.get_final_message()

    called = turn()
    block = called.content[-1]
    assert block.type == "tool_use"
    assert (block.name, block.input, called.stop_reason) == ("weather", {"place": PLACE}, "tool_use")
    turns += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}]},
    ]
    assert text_of(turn()) in served("sunny")


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": TEXT}])
    assert counted.input_tokens == client.messages.create(**asking(TEXT)).usage.input_tokens


def test_models_are_listed_page_after_page(gateway: Gateway, client: anthropic.Anthropic) -> None:
    ids = [model.id for model in client.models.list(limit=1)]
    assert MODEL in ids
    assert len(set(ids)) == 3
    queries = [request.query for request in gateway.simulator.requests("/v1/models")]
    assert queries == ["limit=1", f"limit=1&after_id={ids[0]}", f"limit=1&after_id={ids[1]}"]
    assert client.models.retrieve(MODEL).id == MODEL


async def test_the_async_client_does_all_of_it(async_client: anthropic.AsyncAnthropic) -> None:
    assert text_of(await async_client.messages.create(**asking(TEXT))) in served(TEXT)
    async with async_client.messages.stream(**asking(TEXT)) as stream:
        pieces = [piece async for piece in stream.text_stream]
        assert "".join(pieces) == text_of(await stream.get_final_message())
    counted = await async_client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": TEXT}])
    assert counted.input_tokens > 0
    assert len([model.id async for model in async_client.models.list(limit=2)]) == 3


async def test_fifty_streams_at_once_keep_apart(async_client: anthropic.AsyncAnthropic) -> None:
    async def ask(number: int) -> tuple[str, Message]:
        async with async_client.messages.stream(**asking(f"number {number} of fifty")) as stream:
            return "".join([piece async for piece in stream.text_stream]), await stream.get_final_message()

    answers = await asyncio.gather(*(ask(number) for number in range(50)))
    for number, (text, final) in enumerate(answers):
        assert text == text_of(final)
        assert text in served(f"number {number} of fifty")
        assert final.stop_reason == "end_turn"


# The SDK leaves its generators where they are when a stream is left; Python 3.11 stumbles over them when it collects them.
@pytest.mark.filterwarnings("ignore:.*BoundAsyncStream.__aiter__:pytest.PytestUnraisableExceptionWarning")
async def test_fifty_streams_are_open_at_once_and_end_when_their_client_leaves(
    gateway: Gateway, async_client: anthropic.AsyncAnthropic
) -> None:
    gateway.simulator.switches.set(stream_stall_after="content_block_delta")
    have_begun, may_leave = 0, asyncio.Event()

    async def ask() -> None:
        nonlocal have_begun
        async with async_client.messages.stream(**asking()) as stream:
            assert await anext(aiter(stream.text_stream)) == "Served "
            have_begun += 1
            await may_leave.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(ask())
        await until(lambda: have_begun == 50, "the first word of all streams")
        requests = gateway.simulator.requests("/v1/messages")
        assert [request.outcome for request in requests] == [Outcome.PENDING] * 50
        may_leave.set()
    await until(lambda: {request.outcome for request in requests} == {Outcome.CLIENT_DISCONNECTED}, "all are ended")


def test_leaving_a_stream_ends_the_upstream_request(gateway: Gateway, client: anthropic.Anthropic) -> None:
    gateway.simulator.switches.set(stream_stall_after="content_block_delta")
    with client.messages.stream(**asking()) as stream:
        texts = stream.text_stream
        assert next(texts) == "Served "
        record = gateway.request()
        assert record.outcome is Outcome.PENDING
    asyncio.run(until(lambda: record.outcome is Outcome.CLIENT_DISCONNECTED, "the upstream request is ended"))


async def test_cancelling_ends_a_request_that_has_no_answer_yet(
    gateway: Gateway, async_client: anthropic.AsyncAnthropic
) -> None:
    gateway.simulator.switches.set(headers_delay=60)
    task = asyncio.create_task(async_client.messages.create(**asking()))
    await until(lambda: gateway.simulator.requests("/v1/messages"), "the request")
    task.cancel()
    await until(lambda: gateway.request().outcome is Outcome.CLIENT_DISCONNECTED, "the upstream request is ended")
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("is_streamed", [False, True])
def test_every_header_and_the_body_arrive_as_if_sent_directly(
    gateway: Gateway, client: anthropic.Anthropic, is_streamed: bool
) -> None:
    direct = client.with_options(base_url=gateway.upstream_url, api_key=gateway.simulator.issue_access_token(ALICE))

    def ask(client: anthropic.Anthropic) -> None:
        betas = ["context-1m-2025-08-07", OAUTH_BETA, "files-api-2025-04-14"]
        answer = client.beta.messages.create(
            **asking(TEXT, betas=betas, stream=is_streamed, extra_query={"beta": "true", "path": "a/b ö"})
        )
        assert not is_streamed or list(answer)

    ask(client)
    ask(direct)
    through, directly = gateway.simulator.requests("/v1/messages")
    assert (through.path, through.query, through.body) == (directly.path, directly.query, directly.body)
    assert through.query == "beta=true&path=a%2Fb%20%C3%B6"
    # these three are a matter of the connection and of the account
    apart = {"host", "connection", "authorization"}
    arrived = sorted(header for header in through.headers if header[0] not in apart)
    assert arrived == sorted(header for header in directly.headers if header[0] not in apart)
    assert len([name for name, _ in arrived if name.startswith("x-stainless-")]) > 5
    assert "anthropic-version" in dict(arrived)


def test_the_sdk_s_beta_values_come_first_and_none_twice(gateway: Gateway, client: anthropic.Anthropic) -> None:
    client.beta.messages.create(**asking(betas=["one-2025-01-01", "two-2025-01-01"]))
    client.messages.create(**asking())
    merged, alone = [request.header("anthropic-beta") for request in gateway.simulator.requests("/v1/messages")]
    assert merged == f"one-2025-01-01,two-2025-01-01,{OAUTH_BETA}"
    assert alone == OAUTH_BETA


def test_the_key_of_the_client_goes_as_far_as_the_mode_says(gateway: Gateway, client: anthropic.Anthropic) -> None:
    client.messages.create(**asking())
    values = [value for _, value in gateway.request().headers]
    assert (f"Bearer {gateway.key}" in values) is (gateway.mode == "passthrough")
    assert not [value for value in values if DUMMY_KEY in value]
    assert len([value for value in values if value.startswith("Bearer ")]) == 1
