"""The proxy's own object: declared, put right, and told how many tokens there are, whatever the API server does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.kube_api import KubeApi
from oauth_pool_proxy.pool.registration import Registration
from tests.support.api_server import ApiServer, Call, api_server

KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
PATH = "/apis/oauthpool.dev/v1alpha1/namespaces/pool/oauthproxies"
OBJECT = {
    "apiVersion": "oauthpool.dev/v1alpha1",
    "kind": "OAuthProxy",
    "metadata": {
        "name": "proxy-0",
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "proxy-0", "uid": "pod-uid"}],
    },
    "spec": {"publicKey": KEY, "version": "1.2.3"},
}


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as api:
        yield api


@asynccontextmanager
async def registering(
    server: ApiServer, *, look: float = 3600, doubt: float = 0, status: float = 0
) -> AsyncIterator[Registration]:
    api = KubeApi(KubernetesConfig(server.url, "pool"))
    loop = asyncio.get_running_loop()
    registration = Registration(
        *(api, "proxy-0", "pod-uid", KEY, "1.2.3"),
        clock=loop.time,
        backoff=Backoff(0.001, 0.01),
        look=look,
        doubt=doubt,
        status=status,
    )
    task = asyncio.create_task(registration.run())
    try:
        yield registration
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        api.close()


def found(uid: str = "a", generation: int = 1, tokens: int | None = None) -> dict[str, object]:
    """What the API server answers to a write."""
    status = {} if tokens is None else {"status": {"tokens": tokens}}
    return {"metadata": {"name": "proxy-0", "uid": uid, "generation": generation}, **status}


async def is_told(server: ApiServer, tokens: int) -> None:
    """The next request says how many tokens there are."""
    call = await server.call()
    assert (call.method, call.path, call.content_type) == (
        "PATCH",
        f"{PATH}/proxy-0/status",
        "application/merge-patch+json",
    )
    assert call.body == {"status": {"tokens": tokens}}
    await call.answer(found())


async def is_declared(server: ApiServer) -> Call:
    call = await server.call()
    assert (call.method, call.path, call.content_type) == ("PATCH", f"{PATH}/proxy-0", "application/merge-patch+json")
    assert call.body == OBJECT
    return call


async def test_a_new_proxy_creates_its_object_and_says_what_it_holds(server: ApiServer) -> None:
    async with registering(server) as registration:
        await (await is_declared(server)).answer({}, 404)
        create = await server.call()
        assert (create.method, create.path, create.body) == ("POST", PATH, OBJECT)
        await create.answer(found(), 201)
        await is_told(server, 0)
        registration.held(3)
        await is_told(server, 3)


async def test_a_container_that_restarts_finds_its_object_and_writes_no_number_that_stands_there(
    server: ApiServer,
) -> None:
    async with registering(server) as registration:
        registration.held(3)
        await (await is_declared(server)).answer(found(tokens=3))
        registration.held(4)
        await is_told(server, 4)


async def test_numbers_that_change_quickly_are_told_together(server: ApiServer) -> None:
    async with registering(server, status=0.05) as registration:
        await (await is_declared(server)).answer(found())
        await is_told(server, 0)
        for number in range(1, 8):
            registration.held(number)
        await is_told(server, 7)


@pytest.mark.parametrize("status", [401, 403, 409, 422, 429, 500, 503])
async def test_what_fails_is_tried_again_and_warned_of_once(
    server: ApiServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with registering(server) as registration:
            for _ in range(3):
                await (await is_declared(server)).answer({}, status)
            await (await is_declared(server)).answer(found())
            await (await server.call()).answer({}, status)  # the number of tokens
            await (await is_declared(server)).answer(found())
            await is_told(server, 0)
            registration.held(1)
            await is_told(server, 1)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["the OAuthProxy cannot be written, trying again"]
    assert "the OAuthProxy can be written again" in caplog.text


async def test_a_crd_that_is_not_there_is_named(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with registering(server):
            await (await is_declared(server)).answer({}, 404)
            await (await server.call()).answer({}, 404)
            await is_declared(server)
    (record,) = caplog.records
    assert "crds/" in str(record.__dict__["fields"])


async def test_it_is_looked_at_now_and_then(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async with registering(server, look=0.02):
        await (await is_declared(server)).answer(found(tokens=0))
        with caplog.at_level(logging.WARNING):
            await (await is_declared(server)).answer(found(tokens=0))
            await (await is_declared(server)).answer(found(tokens=0))
        assert caplog.records == []


@pytest.mark.parametrize("done", ["deleted", "another key"])
async def test_when_tokens_do_not_come_it_is_put_right(
    done: str, server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with registering(server) as registration:
        registration.held(2)
        await (await is_declared(server)).answer(found())
        await is_told(server, 2)
        with caplog.at_level(logging.WARNING):
            registration.doubt()
            if done == "deleted":
                await (await is_declared(server)).answer({}, 404)
                await (await server.call()).answer(found("b"), 201)
                await is_told(server, 2)  # the new object says nothing yet
            else:
                await (await is_declared(server)).answer(found(generation=3, tokens=2))
            registration.held(1)
            await is_told(server, 1)
        assert [record.message for record in caplog.records] == [
            "the OAuthProxy was changed or deleted, and is put right"
        ]


async def test_many_doubts_are_one_look(server: ApiServer) -> None:
    async with registering(server, doubt=0.1) as registration:
        await (await is_declared(server)).answer(found())
        await is_told(server, 0)
        for _ in range(100):
            registration.doubt()
        await (await is_declared(server)).answer(found(tokens=0))
        registration.held(1)
        await is_told(server, 1)
