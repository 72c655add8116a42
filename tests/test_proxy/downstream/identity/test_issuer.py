"""The API server's keys: fetched in the background, seldom, and kept while it is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from oauth_pool_proxy.downstream.identity.issuer import (
    AGAIN_SECONDS,
    CONFIGURATION_PATH,
    KEYS_PATH,
    Issuer,
    IssuerUnreachable,
)
from tests.support.proxy_server import Clock, until
from tests.support.service_account_tokens import ISSUER, configuration, published, rsa_key


class ApiServer:
    """Answers in memory; `down` says that it does not."""

    def __init__(self) -> None:
        self.documents = {CONFIGURATION_PATH: configuration(), KEYS_PATH: published(rsa_key("first"))}
        self.down, self.fetches = False, 0

    async def fetch(self, path: str) -> bytes:
        self.fetches += path == CONFIGURATION_PATH
        if self.down:
            raise IssuerUnreachable("no connection to the API server")
        return self.documents[path]


class Sleeps:
    """Time that passes when somebody waits."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.lasted = clock, list[float]()
        self.may_end = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.lasted.append(seconds)
        await self.may_end.wait()
        self.may_end.clear()
        self.clock.advance(seconds)


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps(Clock(0))


@asynccontextmanager
async def running(run: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_keys_are_known_once_they_are_read_and_every_other_set_is_told_of(
    server: ApiServer, sleeps: Sleeps
) -> None:
    changes = list[int]()
    issuer = Issuer(server.fetch, lambda: changes.append(1), sleeps.clock, sleeps.sleep)
    assert (issuer.name, issuer.keys) == (None, {})
    async with running(issuer.run):
        await until(lambda: issuer.name, "the first fetch")
        assert (issuer.name, list(issuer.keys), changes) == (ISSUER, ["first"], [1])
        server.documents[KEYS_PATH] = published(rsa_key("first"), rsa_key("second"))
        assert issuer.seconds_until_known("second") == AGAIN_SECONDS
        sleeps.may_end.set()
        await until(lambda: "second" in issuer.keys, "the fetch for an unknown key")
        assert changes == [1, 1]


async def test_an_unknown_key_has_them_fetched_once_in_ten_seconds_and_is_then_refused(
    server: ApiServer, sleeps: Sleeps
) -> None:
    issuer = Issuer(server.fetch, clock=sleeps.clock, sleep=sleeps.sleep)
    async with running(issuer.run):
        await until(lambda: sleeps.lasted == [AGAIN_SECONDS], "the pause after a fetch")
        sleeps.clock.advance(1)
        assert issuer.seconds_until_known("made-up") == AGAIN_SECONDS - 1
        for number in range(10_000):  # each with another id
            issuer.seconds_until_known(f"made-up-{number}")
        issuer.seconds_until_known("made-up")
        assert server.fetches == 1
        sleeps.may_end.set()
        await until(lambda: server.fetches == 2 and len(sleeps.lasted) == 2, "the fetch for all of them")
        assert issuer.seconds_until_known("made-up") is None
        assert issuer.seconds_until_known("made-up") is None


async def test_while_the_api_server_is_away_its_keys_stay_and_it_is_asked_again_later_and_later(
    server: ApiServer, sleeps: Sleeps, caplog: pytest.LogCaptureFixture
) -> None:
    server.down = True
    issuer = Issuer(server.fetch, clock=sleeps.clock, sleep=sleeps.sleep)
    async with running(issuer.run):
        for number, seconds in enumerate([0.5, 1, 2, 4, 8, 10, 10], 1):
            await until(lambda number=number: len(sleeps.lasted) == number, "a pause")  # type: ignore[misc]
            assert sleeps.lasted[-1] == seconds
            sleeps.may_end.set()
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
            "the API server's keys cannot be read; going on with those that are known"
        ]
        await until(lambda: len(sleeps.lasted) == 8, "a pause")
        server.down = False
        sleeps.may_end.set()
        await until(lambda: issuer.name, "the first fetch that succeeds")
        await until(lambda: len(sleeps.lasted) == 9, "a pause")
        server.documents[KEYS_PATH] = b"<html>a gateway's page</html>"
        issuer.seconds_until_known("unknown")
        sleeps.may_end.set()
        await until(lambda: len(sleeps.lasted) == 10, "a fetch that brings nothing")
        assert list(issuer.keys) == ["first"]
        assert issuer.seconds_until_known("unknown") is not None  # nobody can say yet
