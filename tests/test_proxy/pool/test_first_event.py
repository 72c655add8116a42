"""An event stream that was answered with 200 and begins with an error: until then nothing has gone to the client."""

import gzip

import pytest

from oauth_pool_proxy.pool.stream_start import MOST_OF_A_START, error_data
from tests.support.proxy_server import NOW, Clock, PoolFolder, until
from tests.support.upstream_server import SSE_HEAD, UpstreamServer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import account_of, answers, asked, statuses

LIMIT = b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"%s"}}\n\n'
SHORT = LIMIT % b"This request would exceed your rate limit"
QUOTA = LIMIT % b"You have reached the usage limit for your plan"
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
START = b'event: message_start\ndata: {"type":"message_start"}\n\n'
STREAM = START + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
WINDOW = (
    b"anthropic-ratelimit-unified-status: rejected\r\nanthropic-ratelimit-unified-5h-status: rejected\r\n"
    b"anthropic-ratelimit-unified-5h-reset: %d\r\n" % (NOW + 600)
)


def chunked(*pieces: bytes, headers: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return SSE_HEAD[:-2] + headers + b"\r\n" + chunks + b"0\r\n\r\n"


DATA = SHORT.partition(b"data: ")[2].strip()

NOT_YET = [
    b"",
    b"\n",
    b"\r\n",
    b"e",
    b"event: er",
    b"event: error",
    b"event: error\n",
    b"event: error\ndata: {",
    SHORT[:-1],
    b": comment\n\n",
    PING,
    PING + b"event: error\n",
    b"data: {",
    b"retry: 3\nid: 1\n",
]
ERRORS = [
    SHORT,
    SHORT.replace(b"\n", b"\r\n"),
    SHORT.replace(b"\n", b"\r"),
    b"\xef\xbb\xbf" + SHORT,
    b"\n\n" + SHORT,
    SHORT + START,
    b": comment\n\n" + SHORT,
    PING + PING + SHORT,
    b'data: {"type":"ping"}\n\n' + SHORT,
    SHORT.replace(b"event: ", b"event:").replace(b"data: ", b"data:"),
    b"data: " + DATA + b"\nevent: error\n\n",
    b"id: 7\nevent: error\nretry: 10\ndata: " + DATA + b"\n\n",
    b"data: " + DATA + b"\n\n",
]
OTHERS = [
    START,
    PING + START,
    b"event: e\n",
    b"event: message_start\ndata: {",
    b"event: error\n\n",
    b'data: {"type":"message_start"}\n\n',
    b"event: error\ndata: " + b"x" * MOST_OF_A_START,
]


@pytest.mark.parametrize("text", NOT_YET)
def test_more_is_needed_until_the_first_real_event_is_there(text: bytes) -> None:
    assert error_data(text) is None


@pytest.mark.parametrize("text", ERRORS)
def test_an_error_as_first_event_is_found_however_it_is_written(text: bytes) -> None:
    assert error_data(text) == DATA
    for at in range(text.index(DATA) + len(DATA)):
        assert error_data(text[:at]) is None


@pytest.mark.parametrize("text", OTHERS)
def test_another_first_event_is_known_as_soon_as_it_can_be(text: bytes) -> None:
    assert error_data(text) == b""


@pytest.mark.parametrize(
    "limit",
    [
        chunked(SHORT),
        chunked(*(SHORT[at : at + 1] for at in range(len(SHORT)))),
        chunked(PING + SHORT),
        chunked(b": hello\n\n", SHORT.replace(b": ", b":")),
    ],
    ids=["whole", "byte by byte", "after a ping", "after a comment"],
)
async def test_an_account_whose_stream_begins_with_its_limit_is_left_for_the_next(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, limit: bytes
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": limit}, otherwise=chunked(STREAM))
    proxy = start(oauth=folder.oauth())
    answer = await proxy.request("POST", "/v1/messages", "", b"{}")
    assert (answer.status, answer.body, answer.is_complete) == (200, STREAM, True)
    assert asked(upstream) == ["a-1", "b-1"]
    assert (await proxy.metrics())['pool_failovers_total{from_account="a",reason="next_account"}'] == 1


@pytest.mark.parametrize(
    ("limit", "status", "seconds"),
    [
        (chunked(QUOTA, headers=WINDOW), "cooling_down", 600),
        (chunked(SHORT, headers=b"retry-after: 30\r\n"), "cooling_down", 30),
        (chunked(QUOTA), "cooling_down", 7200),
        (chunked(SHORT), "available", 0),
    ],
    ids=["window", "retry-after", "words", "nothing"],
)
async def test_what_its_head_says_of_the_limit_is_what_it_cools_down_for(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, clock: Clock, limit: bytes, status: str, seconds: int
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": limit}, otherwise=chunked(STREAM))
    proxy = start(oauth=folder.oauth())
    await proxy.request()
    assert (await statuses(proxy))["a"] == status
    if seconds:
        folder.write_token("a", 1, NOW + 1e6)
        clock.advance(seconds - 1)
        assert proxy.app.pool is not None
        cooling = next(account for account in proxy.app.pool.accounts if account.name == "a").cooling_until
        assert NOW + seconds <= cooling <= NOW + seconds + 30


async def test_with_nobody_left_it_is_a_429_and_not_a_stream(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    answers(upstream, {"a": chunked(SHORT, headers=b"retry-after: 30\r\n")})
    answer = await start(oauth=folder.oauth()).request()
    assert (answer.status, answer.values(b"retry-after")) == (429, [b"30"])


@pytest.mark.parametrize(
    "body",
    [OVERLOADED, PING + STREAM, STREAM, b"event: err\n\n" + SHORT, b"", b"event: er"],
    ids=["another error", "ping first", "no error", "nearly", "nothing", "not even an event"],
)
async def test_every_other_beginning_passes_as_it_is(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, body: bytes
) -> None:
    folder.account("a")
    folder.account("b")
    answers(upstream, {"a": chunked(body) if body else SSE_HEAD + b"0\r\n\r\n"})
    answer = await start(oauth=folder.oauth()).request()
    assert (answer.status, answer.body, answer.is_complete) == (200, body, True)
    assert asked(upstream) == ["a-1"]


async def test_a_beginning_in_pieces_is_passed_on_whole_and_what_follows_at_once(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    async with start(oauth=folder.oauth()).connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD)
        for piece in (b"eve", b"nt: er", b"ror\n"):
            await connection.chunk(piece)
        await connection.chunk(OVERLOADED.removeprefix(b"event: error\n"))
        await client.head()
        assert await client.chunk() == OVERLOADED
        await connection.chunk(PING)
        assert await client.chunk() == PING


async def test_a_compressed_beginning_is_looked_into_and_passed_on_as_it_came(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    gzipped = b"content-encoding: gzip\r\n"
    packed = gzip.compress(STREAM)
    pieces = [packed[at : at + 9] for at in range(0, len(packed), 9)]
    answers(
        upstream, {"a": chunked(gzip.compress(SHORT), headers=gzipped)}, otherwise=chunked(*pieces, headers=gzipped)
    )
    answer = await start(oauth=folder.oauth()).request()
    assert (answer.body, answer.values(b"content-encoding")) == (packed, [b"gzip"])
    assert asked(upstream) == ["a-1", "b-1"]


@pytest.mark.parametrize("beginning", [b"", PING, b"event: er"], ids=["nothing", "a ping", "a piece"])
async def test_a_model_that_thinks_does_not_hold_back_the_head_for_long(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, beginning: bytes
) -> None:
    folder.account("a")
    async with start(oauth=folder.oauth()).connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD)
        if beginning:
            await connection.chunk(beginning)
        assert (await client.head()).startswith(b"HTTP/1.1 200")  # although the first event is still to come
        if beginning:
            assert await client.chunk() == beginning
        await connection.chunk(START)
        assert await client.chunk() == START


async def test_a_stream_that_falls_silent_after_its_head_ends_with_an_error_event_and_is_not_asked_again(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a", maxConcurrentRequests=1)
    folder.account("b")
    proxy = start(idle_timeout_secs=1, attempts=3, oauth=folder.oauth())
    answers(upstream, {"a": SSE_HEAD + b"%x\r\n%s\r\n" % (len(PING), PING)})
    answer = await proxy.request()
    assert answer.status in (200, 504) and not (answer.status == 200 and answer.is_complete)
    assert asked(upstream) == ["a-1"]  # the upstream has begun to work on it: it is not paid again
    await until(lambda: proxy.app.upstream.open_connections == 0, "the connection to be gone")
    assert await statuses(proxy) == {"a": "available", "b": "available"}


@pytest.mark.parametrize("beginning", [b"", b"9\r\nevent: er\r\n"], ids=["nothing", "a piece"])
async def test_a_stream_that_is_cut_before_it_begins_is_a_502(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, beginning: bytes
) -> None:
    folder.account("a")
    async with start(oauth=folder.oauth()).connect() as client:
        await client.request()
        connection = await upstream.accept()
        assert account_of(await connection.request()) == "a-1"
        await connection.send(SSE_HEAD + beginning)
        connection.close()
        assert (await client.answer()).status == 502


async def test_without_a_pool_nothing_is_waited_for(upstream: UpstreamServer, start: Start) -> None:
    async with start().connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD)
        assert (await client.head()).startswith(b"HTTP/1.1 200")
