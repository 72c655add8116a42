"""A name with several addresses, some of which answer, looked up while requests go on."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.addresses import GOOD_SECONDS, Addresses, look_up
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.proxy_server import Clock
from tests.support.upstream_server import DEADLINE, json_answer, upstream_server

NAME = "upstream.example"


class Lookup:
    """The look-ups, answered by the test."""

    def __init__(self) -> None:
        self.count = 0
        self._asked: asyncio.Queue[asyncio.Future[list[str]]] = asyncio.Queue()

    async def __call__(self, host: str, port: int) -> list[str]:
        assert (host, port) == (NAME, 1234)
        self.count += 1
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait(answer)
        return await answer

    async def answer(self, *addresses: str) -> None:
        async with asyncio.timeout(DEADLINE):
            (await self._asked.get()).set_result(list(addresses))
        await settled()

    async def fail(self) -> None:
        async with asyncio.timeout(DEADLINE):
            (await self._asked.get()).set_exception(socket.gaierror(socket.EAI_AGAIN, "try again"))
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def lookup() -> Lookup:
    return Lookup()


@pytest.fixture
def addresses(lookup: Lookup, clock: Clock) -> Addresses:
    return Addresses(NAME, 1234, clock, lookup)


async def first_known(addresses: Addresses, lookup: Lookup, *found: str) -> list[str]:
    task = asyncio.create_task(addresses.current())
    await lookup.answer(*found)
    return await task


async def test_those_who_come_first_wait_for_one_look_up_together(addresses: Addresses, lookup: Lookup) -> None:
    tasks = [asyncio.create_task(addresses.current()) for _ in range(3)]
    await settled()
    tasks[0].cancel()  # costs the others nothing
    await lookup.answer("a", "b")
    assert [await task for task in tasks[1:]] == [["a", "b"]] * 2
    assert await addresses.current() == ["a", "b"]
    assert lookup.count == 1


async def test_after_a_while_it_is_looked_up_again_and_nobody_waits_for_that(
    addresses: Addresses, lookup: Lookup, clock: Clock
) -> None:
    await first_known(addresses, lookup, "a", "b")
    clock.advance(GOOD_SECONDS)
    await addresses.current()
    assert lookup.count == 1
    clock.advance(1)
    for _ in range(3):
        assert await addresses.current() == ["a", "b"]
    await lookup.answer("c", "b")
    assert await addresses.current() == ["c", "b"]
    assert lookup.count == 2


async def test_a_look_up_that_fails_changes_nothing_and_is_made_again(
    addresses: Addresses, lookup: Lookup, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await first_known(addresses, lookup, "a")
    clock.advance(GOOD_SECONDS + 1)
    for _ in range(2):
        assert await addresses.current() == ["a"]
        await lookup.fail()
    assert [record.message for record in caplog.records] == ["the upstream's name cannot be looked up"] * 2
    assert await addresses.current() == ["a"]
    await lookup.answer("b")
    assert await addresses.current() == ["b"]


async def test_the_one_that_worked_goes_first_as_long_as_it_is_there(
    addresses: Addresses, lookup: Lookup, clock: Clock
) -> None:
    await first_known(addresses, lookup, "a", "b", "c")
    addresses.worked("c")
    assert await addresses.current() == ["c", "a", "b"]
    clock.advance(GOOD_SECONDS + 1)
    await addresses.current()
    await lookup.answer("a", "b", "c", "d")
    assert await addresses.current() == ["c", "a", "b", "d"]
    clock.advance(GOOD_SECONDS + 1)
    await addresses.current()
    await lookup.answer("a", "b")
    addresses.worked("c")  # a connection that was begun before
    assert await addresses.current() == ["a", "b"]


async def test_a_name_without_addresses_is_an_os_error(addresses: Addresses, lookup: Lookup) -> None:
    for answer in (lookup.fail, lookup.answer):
        task = asyncio.create_task(addresses.current())
        await answer()
        with pytest.raises(OSError, match="address"):
            await task


async def test_an_address_is_not_looked_up(lookup: Lookup, clock: Clock) -> None:
    for host in ("127.0.0.1", "::1"):
        assert await Addresses(host, 1234, clock, lookup).current() == [host]
    assert lookup.count == 0


async def test_the_system_s_look_up_finds_each_address_once() -> None:
    found = await look_up("localhost", 80)
    assert found and len(found) == len(set(found))
    with pytest.raises(OSError):
        await look_up("name.invalid", 80)


@asynccontextmanager
async def connecting(
    port: int, *found: str, connect_timeout: float = 5, clock: Clock | None = None
) -> AsyncIterator[tuple[Upstream, list[list[str]]]]:
    """A client for a name with these addresses; append to the list to change them."""
    answers = [list(found)]

    async def lookup(host: str, port: int) -> list[str]:
        return answers[-1]

    url = UpstreamUrl(False, NAME, port, b"")
    client = Upstream(url, timeout=60, connect_timeout=connect_timeout, clock=clock, lookup=lookup)
    try:
        yield client, answers
    finally:
        client.close()


async def ask(client: Upstream) -> None:
    """One request on a connection of its own."""
    answer = await client.send(b"GET", b"/", [], b"")
    answer.release()


CLOSING = json_answer(b"{}", 200, ("connection", "close"))


async def test_all_addresses_are_tried_and_the_one_that_worked_is_the_next_one_s_first() -> None:
    async with upstream_server(host="127.0.0.3") as third:
        third.answer_all(CLOSING)
        async with connecting(third.port, "127.0.0.1", "127.0.0.2", "127.0.0.3") as (client, _):
            await ask(client)
            async with upstream_server(host="127.0.0.1", port=third.port) as first:
                await ask(client)
                assert (len(third.connections), len(first.connections)) == (2, 0)


async def test_an_address_that_does_not_answer_costs_its_share_of_the_time_only() -> None:
    with socket.socket() as silent:  # its queue of connections is full, so that nothing comes back
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        with socket.create_connection(silent.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(silent.getsockname())
            async with upstream_server(host="127.0.0.2", port=silent.getsockname()[1]) as server:
                server.answer_all(CLOSING)
                async with connecting(server.port, "127.0.0.1", "127.0.0.2", connect_timeout=0.2) as (client, _):
                    await ask(client)
                async with connecting(server.port, "127.0.0.1", connect_timeout=0.05) as (client, _):
                    with pytest.raises(UpstreamTimeout):
                        await ask(client)
                    assert client.open_connections == 0


async def test_with_every_address_refusing_the_request_was_not_sent() -> None:
    async with connecting(1, "127.0.0.1", "127.0.0.2") as (client, _):
        with pytest.raises(UpstreamUnreachable) as caught:
            await ask(client)
        assert not caught.value.was_sent


async def test_a_name_that_cannot_be_looked_up_is_a_failure_that_was_not_sent() -> None:
    async with connecting(1) as (client, _):
        with pytest.raises(UpstreamUnreachable) as caught:
            await ask(client)
        assert not caught.value.was_sent
        assert NAME not in str(caught.value)


async def test_an_upstream_that_moves_is_followed(clock: Clock) -> None:
    async with upstream_server(host="127.0.0.1") as old, upstream_server(host="127.0.0.2", port=old.port) as new:
        old.answer_all(CLOSING)
        new.answer_all(CLOSING)
        async with connecting(old.port, "127.0.0.1", clock=clock) as (client, answers):
            await ask(client)
            answers.append(["127.0.0.2"])
            await ask(client)
            clock.advance(GOOD_SECONDS + 1)
            await ask(client)  # still with what was known, and looks it up meanwhile
            await ask(client)
            assert (len(old.connections), len(new.connections)) == (3, 1)
