"""A name with several addresses, some of which answer, looked up while requests go on."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.addresses import AVOID_SECONDS, GOOD_SECONDS, Addresses, look_up
from oauth_pool_proxy.upstream.happy_eyeballs import first_connected
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.proxy_server import Clock, until
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
    assert [await task for task in tasks[1:]] == [["a", "b"], ["b", "a"]]
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
        assert set(await addresses.current()) == {"a", "b"}
    await lookup.answer("c", "b")
    assert set(await addresses.current()) == {"c", "b"}
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


async def test_addresses_take_turns(addresses: Addresses, lookup: Lookup) -> None:
    orders = [await first_known(addresses, lookup, "a", "b", "c")]
    orders += [await addresses.current() for _ in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


async def test_an_address_that_did_not_work_comes_last_for_a_while(
    addresses: Addresses, lookup: Lookup, clock: Clock
) -> None:
    await first_known(addresses, lookup, "a", "b", "c")
    addresses.avoid("b")
    assert [await addresses.current() for _ in range(2)] == [["c", "a", "b"], ["a", "c", "b"]]
    clock.advance(GOOD_SECONDS + 1)
    await addresses.current()
    await lookup.answer("a", "b", "c")  # is not forgotten by a look-up
    assert [(await addresses.current())[-1] for _ in range(2)] == ["b", "b"]
    clock.advance(AVOID_SECONDS)
    await addresses.current()
    await lookup.answer("a", "b", "c")
    assert {(await addresses.current())[0] for _ in range(3)} == {"a", "b", "c"}


async def test_if_none_works_all_are_tried(addresses: Addresses, lookup: Lookup) -> None:
    await first_known(addresses, lookup, "a", "b")
    addresses.avoid("a")
    addresses.avoid("b")
    assert await addresses.current() == ["a", "b"]


async def test_both_families_are_among_the_first_two(addresses: Addresses, lookup: Lookup) -> None:
    """RFC 8305 4. The family that the system puts first stays first, since addresses take turns within it."""
    found = "fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"
    orders = [await first_known(addresses, lookup, *found), await addresses.current()]
    assert orders == [
        ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.0.3"],
        ["fd00::2", "10.0.0.2", "fd00::1", "10.0.0.3", "10.0.0.1"],
    ]


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


async def test_all_addresses_are_tried_and_those_that_refused_come_last() -> None:
    async with upstream_server(host="127.0.0.3") as third:
        third.answer_all(CLOSING)
        async with connecting(third.port, "127.0.0.1", "127.0.0.2", "127.0.0.3") as (client, _):
            await ask(client)
            async with upstream_server(host="127.0.0.1", port=third.port) as first:
                for _ in range(3):
                    await ask(client)
                assert (len(third.connections), len(first.connections)) == (4, 0)


async def test_addresses_that_work_share_the_connections() -> None:
    async with upstream_server(host="127.0.0.1") as one, upstream_server(host="127.0.0.2", port=one.port) as two:
        one.answer_all(CLOSING)
        two.answer_all(CLOSING)
        async with connecting(one.port, "127.0.0.1", "127.0.0.2") as (client, _):
            for _ in range(6):
                await ask(client)
        assert (len(one.connections), len(two.connections)) == (3, 3)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def silence(port: int, *addresses: str) -> Iterator[None]:
    """Nothing comes back from these: their queues of connections are full."""
    with ExitStack() as stack:
        for address in addresses:
            listener = stack.enter_context(socket.socket())
            listener.bind((address, port))
            listener.listen(0)
            stack.enter_context(socket.create_connection((address, port)))
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        yield


def attempts(port: int) -> int:
    """How many connections to this port wait for an answer, as the operating system sees it."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


async def test_addresses_are_tried_beside_each_other() -> None:
    """RFC 8305 5: one that is silent does not cost the next one its time."""
    silent = [f"127.0.0.{number}" for number in range(1, 6)]
    port = free_port()
    with silence(port, *silent):
        before = attempts(port)
        async with connecting(port, *silent, connect_timeout=DEADLINE) as (client, _):
            task = asyncio.create_task(ask(client))
            await until(lambda: attempts(port) == before + len(silent), "all of them to be tried at once")
            task.cancel()
            await until(lambda: attempts(port) == before, "the attempts to end with their request")
            assert client.open_connections == 0


async def test_the_first_that_answers_is_taken_and_the_others_are_given_up() -> None:
    async with upstream_server(host="127.0.0.1") as server:
        server.answer_all(CLOSING)
        with silence(server.port, "127.0.0.2", "127.0.0.3"):
            before = attempts(server.port)
            found = "127.0.0.2", "127.0.0.3", "127.0.0.1"
            async with connecting(server.port, *found, connect_timeout=DEADLINE) as (client, _):
                await ask(client)
                await until(lambda: attempts(server.port) == before, "the other attempts to end")


async def test_addresses_that_failed_or_were_overtaken_are_told_of() -> None:
    """So that the next connection does not begin with them."""

    async def connect(address: str) -> asyncio.Transport:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, address, server.port)
        return transport

    avoided: list[str] = []
    async with upstream_server(host="127.0.0.1") as server:
        with silence(server.port, "127.0.0.2"):
            tried = "127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.4"  # silent, refusing, good, and not needed
            transport = await first_connected(tried, connect, avoided.append)
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"
            transport.abort()
    assert sorted(avoided) == ["127.0.0.2", "127.0.0.3"]


async def test_with_every_address_silent_the_time_ends_and_nothing_is_left() -> None:
    async with upstream_server(host="127.0.0.1") as server:
        with silence(server.port, "127.0.0.2", "127.0.0.3"):
            for addresses in (["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]):
                async with connecting(server.port, *addresses, connect_timeout=0.3) as (client, _):
                    with pytest.raises(UpstreamTimeout) as caught:
                        await ask(client)
                    assert not caught.value.was_sent
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
