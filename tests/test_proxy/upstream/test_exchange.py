"""An answer belongs to its request: what is read of it is never another request's, and it is gone when it is released."""

import asyncio
import gc

import pytest

from oauth_pool_proxy.errors import StreamBroken
from oauth_pool_proxy.upstream.exchange import Exchange
from tests.support.proxy_server import Clock, until
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.upstream.test_upstream import ask, begun, client_of, read_all


async def test_a_released_answer_has_nothing_of_the_next_request(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        await connection.send(json_answer(b"first"))
        first = await task
        assert await first.read() == b"first"
        first.release()

        task = asyncio.create_task(ask(client))
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsec")
        second = await task
        assert (first.read_now(), await first.read(), first.is_at_end) == (b"", b"", True)
        first.resume()
        first.release()  # the connection is another one's now
        await connection.send(b"ond")
        assert await read_all(second) == b"second"
        assert len(upstream.connections) == client.idle_connections == 1


async def test_an_answer_that_is_released_before_its_end_keeps_nobody_waiting(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task, connection = await begun(client, upstream)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        answer = await task
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        answer.release()
        with pytest.raises(StreamBroken):
            await reading
        with pytest.raises(StreamBroken):
            await answer.read()
        await connection.wait_closed()


async def test_an_exchange_is_freed_with_its_last_user(upstream: UpstreamServer) -> None:
    """Not when the garbage collector comes around: a thousand requests a second would pile up until then."""
    upstream.answer_all(json_answer())
    gc.collect()
    gc.disable()
    try:
        async with client_of(upstream) as client:
            for _ in range(5):
                await read_all(await ask(client))
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Exchange)]
    finally:
        gc.enable()


async def test_a_reader_s_pause_is_not_the_upstream_s_silence(upstream: UpstreamServer, clock: Clock) -> None:
    """The time counts anew from when the upstream may go on."""
    async with client_of(upstream, clock) as client:
        task, connection = await begun(client, upstream)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        answer = await task
        pieces: list[bytes] = []

        def write(data: bytes, is_last: bool) -> bool:
            pieces.append(data)
            return is_last  # no more for now

        pumping = asyncio.create_task(answer.pump(write))
        await until(lambda: pieces, "the first piece")
        clock.advance(1000)
        client.look()
        answer.resume()
        client.look()
        clock.advance(299)
        client.look()
        await asyncio.sleep(0)
        assert not pumping.done()
        await connection.send(b"other")
        await pumping
        assert pieces == [b"first", b"other"]
        answer.release()


async def test_silence_after_a_reader_s_pause_counts(upstream: UpstreamServer, clock: Clock) -> None:
    async with client_of(upstream, clock) as client:
        task, connection = await begun(client, upstream)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
        answer = await task
        pumping = asyncio.create_task(answer.pump(lambda data, is_last: False))
        await asyncio.sleep(0)
        answer.resume()
        clock.advance(301)
        client.look()
        with pytest.raises(StreamBroken) as caught:
            await pumping
        assert caught.value.error_type == "timeout"
        answer.release()


async def test_a_reader_s_last_pause_does_not_outlive_its_answer(upstream: UpstreamServer) -> None:
    """The next request needs the connection to be read from."""
    upstream.answer_all(json_answer(b"whole"))
    async with client_of(upstream) as client:
        for _ in range(2):
            answer = await ask(client)
            await answer.pump(lambda data, is_last: False)
            answer.release()
        assert len(upstream.connections) == client.idle_connections == 1
