"""An answer that ends at any byte but its last never looks whole, and whole ones do."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.proxy_server import PoolFolder, RawAnswer, RunningProxy
from tests.support.upstream_server import SSE_HEAD, UpstreamConnection, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

EVENTS = [b'event: a\ndata: {"x":1}\n\n', b"data: \xc3\xa9\r\n\r\n"]
STREAM = SSE_HEAD + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
JSON = json_answer(b'{"a":"b"}')
END_OF_HEAD = len(SSE_HEAD)


async def cut(
    proxy: RunningProxy, upstream: UpstreamServer, wire: bytes, end: Callable[[UpstreamConnection], None]
) -> RawAnswer:
    """What the client sees of an answer of which no more than this comes."""
    task = asyncio.create_task(proxy.request("POST", "/", "", b"{}"))
    connection = await upstream.accept()
    await connection.request()
    await connection.send(wire)
    end(connection)
    return await task


ENDS = pytest.mark.parametrize("end", [UpstreamConnection.close, UpstreamConnection.abort], ids=["close", "abort"])


@ENDS
@pytest.mark.parametrize("mode", ["passthrough", "pool"])
async def test_an_event_stream_cut_at_every_byte(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, mode: str, end: Callable[[UpstreamConnection], None]
) -> None:
    folder.account("a")
    proxy = start(oauth=folder.oauth()) if mode == "pool" else start()
    for at in range(len(STREAM)):
        answer = await cut(proxy, upstream, STREAM[:at], end)
        if at < END_OF_HEAD:
            assert (at, answer.status, answer.is_complete) == (at, 502, True)
            continue
        if answer.status == 502:  # nothing but a head had come, or not enough to tell whether it is an error
            assert mode == "pool" and at < STREAM.index(b"event: a\n") + len(b"event: a\n")
            continue
        assert (at, answer.status, answer.is_complete) == (at, 200, False)
        relayed, _, farewell = answer.body.partition(b"event: error\ndata: ")
        # What came of whole and half events, an end to the half one, and then an event of its own that says so.
        assert b"".join(EVENTS).startswith(relayed) or b"".join(EVENTS).startswith(relayed.removesuffix(b"\n\n"))
        assert not relayed or relayed.endswith((b"\n\n", b"\r\n\r\n"))
        assert farewell.startswith(b'{"type":"error"') and farewell.endswith(b"}\n\n")
    whole = await cut(proxy, upstream, STREAM, end)
    assert (whole.status, whole.body, whole.is_complete) == (200, b"".join(EVENTS), True)


@ENDS
async def test_an_answer_with_a_length_cut_at_every_byte(
    upstream: UpstreamServer, start: Start, end: Callable[[UpstreamConnection], None]
) -> None:
    proxy = start()
    head = JSON.index(b"\r\n\r\n") + 4
    for at in range(len(JSON)):
        answer = await cut(proxy, upstream, JSON[:at], end)
        assert (at, answer.status, answer.is_complete) == ((at, 502, True) if at < head else (at, 200, False))
        assert answer.status == 502 or answer.values(b"content-length") == [b"9"]
    whole = await cut(proxy, upstream, JSON, end)
    assert (whole.body, whole.is_complete) == (b'{"a":"b"}', True)
