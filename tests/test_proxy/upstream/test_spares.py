"""Connections to the upstream that are open before anybody needs them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import UpstreamUnreachable
from oauth_pool_proxy.upstream.spares import MOST_SPARE, WINDOW_SECONDS, YOUNG_SECONDS, Spares
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.proxy_server import Clock, until
from tests.support.upstream_server import UpstreamServer, json_answer, upstream_server
from tests.test_proxy.conftest import Start
from tests.test_proxy.upstream.test_upstream import ask, read_all
from tests.test_proxy.upstream.test_upstream_tls import certificate, server_context


@asynccontextmanager
async def client_of(server: UpstreamServer, spare: int, ca_file: Path | None = None) -> AsyncIterator[Upstream]:
    url = UpstreamUrl(ca_file is not None, "127.0.0.1", server.port, b"")
    client = Upstream(url, timeout=60, ca_file=ca_file, spare=spare)
    try:
        yield client
    finally:
        client.close()


async def idle(client: Upstream, count: int) -> None:
    await until(lambda: client.idle_connections == count, f"{count} idle connections")


async def test_a_lone_request_on_an_idle_proxy_makes_no_connection(tmp_path: Path) -> None:
    pair = certificate(tmp_path, "127.0.0.1")
    async with upstream_server(server_context(*pair)) as server, client_of(server, 2, pair[0]) as client:
        server.answer_all(json_answer())
        await idle(client, 2)
        await read_all(await ask(client))
        assert client.requests == {"new": 0, "reused": 1, "resent": 0}


class FarAway:
    """A relay to a server that is `ONE_WAY` seconds away in each direction. It counts the round trips."""

    ONE_WAY = 0.015

    def __init__(self, port: int) -> None:
        self._to = port
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.round_trips: list[int] = []
        """Of each connection."""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.gather(*self._tasks, *(one.wait_closed() for one in self._writers), return_exceptions=True)

    async def _accept(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        number = len(self.round_trips)
        self.round_trips.append(0)
        there, onward = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += (back, onward)
        directions: list[str] = []
        for source, sink, direction in ((here, onward, "there"), (there, back, "back")):
            self._tasks.append(asyncio.create_task(self._carry(number, source, sink, direction, directions)))

    async def _carry(
        self,
        number: int,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: str,
        directions: list[str],
    ) -> None:
        while data := await source.read(65536):
            self.round_trips[number] += direction == "back" and directions[-1:] == ["there"]
            directions.append(direction)
            await asyncio.sleep(self.ONE_WAY)
            sink.write(data)
        sink.close()


@pytest.mark.parametrize(("spare", "round_trips"), [(4, 1), (0, 2)])
async def test_a_lone_request_to_an_upstream_far_away_takes_one_round_trip(
    tmp_path: Path, start: Start, spare: int, round_trips: int
) -> None:
    """Without spare connections it takes one more for the handshake, besides that of TCP, which the relay does not see."""
    pair = certificate(tmp_path, "127.0.0.1")
    async with upstream_server(server_context(*pair)) as server:
        server.answer_all(json_answer())
        far = FarAway(server.port)
        async with far.listening() as port:
            url = f"https://127.0.0.1:{port}"
            proxy = start(upstream_url=url, upstream_ca_file=str(pair[0]), spare_connections=spare)
            await until(lambda: far.round_trips == [2] * spare, "the spare connections, and their tickets")
            async with proxy.connect() as client:
                await client.request("POST", "/v1/messages", "", b"{}")
                await client.head()
            # What is taken is made up for by new connections, which are none of the request's.
            asked = far.round_trips[:spare] if spare else far.round_trips
            assert sum(asked) - 2 * spare == round_trips


async def test_what_is_taken_or_ends_is_made_up_for(upstream: UpstreamServer) -> None:
    async with client_of(upstream, 2) as client:
        first = [await upstream.accept() for _ in range(2)]
        await idle(client, 2)
        asking = asyncio.create_task(ask(client))
        await upstream.accept()
        await idle(client, 2)
        assert client.open_connections == 3
        asking.cancel()
        for connection in first:
            connection.abort()
        await upstream.accept()
        await idle(client, 2)


async def test_without_any_a_request_makes_its_own(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream, 0) as client:
        await asyncio.sleep(0.05)
        assert not upstream.connections
        await read_all(await ask(client))
        assert client.requests["new"] == 1


class Shelf:
    """Stands for the upstream's idle connections."""

    def __init__(self, *, holds: bool = True) -> None:
        self.clock = Clock()
        self.idle_connections = self.opened = 0
        self.error: UpstreamUnreachable | None = None
        self._holds = holds

    async def connect(self) -> None:
        if self.error:
            raise self.error
        self.opened += 1
        self.idle_connections += self._holds


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def test_there_are_as_many_as_the_last_minute_was_short_of_up_to_a_bound(shelf: Shelf) -> None:
    spares = Spares(shelf, 2, shelf.connect)
    await spares.refill()
    assert shelf.idle_connections == 2
    for _ in range(5):
        spares.missed()
    await spares.refill()
    assert shelf.idle_connections == 5
    for _ in range(3 * MOST_SPARE):
        spares.missed()
    await spares.refill()
    assert shelf.idle_connections == MOST_SPARE
    shelf.clock.advance(WINDOW_SECONDS + 1)
    assert spares.wanted == 2


async def test_an_upstream_that_cannot_be_reached_is_not_asked_again_soon(shelf: Shelf) -> None:
    shelf.error = UpstreamUnreachable("no", was_sent=False)
    assert not await Spares(shelf, 2, shelf.connect).refill()


async def test_an_upstream_that_ends_what_nobody_uses_is_not_hammered() -> None:
    shelf = Shelf(holds=False)
    spares = Spares(shelf, 2, shelf.connect)
    assert await spares.refill()
    assert shelf.opened == 2
    shelf.clock.advance(1)
    assert not await spares.refill()
    shelf.clock.advance(1)
    spares.missed()
    assert await spares.refill()
    shelf.clock.advance(YOUNG_SECONDS)
    assert await spares.refill()
