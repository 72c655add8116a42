"""The downstream side of a request, through ASGI, with a `receive` that the test plays."""

import asyncio

import pytest
from starlette.types import Message

from oauth_pool_proxy.downstream.client import READ_AHEAD, AsgiClient, announced_length
from oauth_pool_proxy.errors import ClientGone, InvalidRequest


class Receive:
    def __init__(self, *messages: Message) -> None:
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self._queue.put_nowait(message)

    async def __call__(self) -> Message:
        return await self._queue.get()

    def put(self, message: Message) -> None:
        self._queue.put_nowait(message)

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


async def never(message: Message) -> None:
    raise AssertionError("nothing is sent")


def client(receive: Receive, announced: int | None = None) -> AsgiClient:
    framing = (b"transfer-encoding", b"chunked") if announced is None else (b"content-length", b"%d" % announced)
    return AsgiClient({"headers": [framing]}, receive, never)


async def body_of(receive: Receive, announced: int | None = None, most: int = 1_000_000) -> bytes:
    return await client(receive, announced).body(most, timeout=20)


async def test_a_body_in_pieces() -> None:
    assert await body_of(Receive(piece(b"a"), piece(b""), piece(b"b", more=False))) == b"ab"


async def test_a_client_that_leaves_in_its_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        await body_of(Receive(piece(b"a"), GONE))


async def test_too_long_is_said_as_soon_as_it_is_known() -> None:
    receive = Receive(piece(b"a" * 11), piece(b"never read"))
    with pytest.raises(InvalidRequest):
        await body_of(receive, most=10)
    assert not receive.is_empty
    with pytest.raises(InvalidRequest):
        await body_of(Receive(), announced=11, most=10)


async def test_leaving_ends_what_is_watched_and_only_that() -> None:
    receive = Receive(piece(b"", more=False))
    with pytest.raises(ClientGone), client(receive).watched():
        receive.put(GONE)
        await asyncio.sleep(20)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        with client(Receive()).watched():
            await asyncio.sleep(20)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_comes_while_it_is_watched_is_kept_up_to_a_limit() -> None:
    big = b"x" * (READ_AHEAD + 1)
    receive = Receive(piece(big), piece(b"later", more=False))
    reading = client(receive)
    with reading.watched():
        for _ in range(10):
            await asyncio.sleep(0)
    assert not receive.is_empty
    assert await reading.body(1_000_000, timeout=20) == big + b"later"


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], 0), ([(b"content-length", b"12")], 12), ([(b"transfer-encoding", b"chunked")], None)],
)
def test_the_announced_length(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    assert announced_length(dict(headers)) == length
