"""How the API server is spoken with: never through the environment's proxies, and with a time limit for each kind of request."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.kube_api import WRITE_TIMEOUT, KubeApi, KubeApiError
from tests.support.api_server import ApiServer, api_server
from tests.support.upstream_server import UpstreamServer, upstream_server

PATH = "/api/v1/namespaces/pool/configmaps"


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as api:
        yield api


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[UpstreamServer]:
    """A proxy for the internet, which every variable of the environment names."""
    async with upstream_server() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, server.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server


async def test_a_proxy_of_the_environment_is_not_the_way_to_the_api_server(
    server: ApiServer, proxy: UpstreamServer
) -> None:
    api = KubeApi(KubernetesConfig(server.url, "pool"))

    async def ask() -> bytes:
        async with api.request("GET", PATH, {}) as response:
            return await response.whole()

    asking = asyncio.create_task(ask())
    await (await server.call()).answer({"kind": "ConfigMapList"})
    assert b"ConfigMapList" in await asking
    assert proxy.connections == []
    api.close()


async def test_nor_for_https(proxy: UpstreamServer) -> None:
    async with upstream_server() as server:
        api = KubeApi(KubernetesConfig(server.url.replace("http://", "https://"), "pool"))

        async def ask() -> None:
            async with api.request("GET", PATH, {}):
                pass

        asking = asyncio.create_task(ask())
        connection = await server.accept()
        async with asyncio.timeout(20):
            assert await connection.reader.readexactly(2) == b"\x16\x03"  # a TLS handshake, and no CONNECT
        connection.abort()
        with pytest.raises(KubeApiError):
            await asking
    assert proxy.connections == []
    api.close()


async def test_a_write_has_a_time_limit_of_its_own(server: ApiServer) -> None:
    api = KubeApi(KubernetesConfig(server.url, "pool"), read_timeout=3600, write_timeout=0.05)
    with pytest.raises(KubeApiError):
        async with asyncio.timeout(20), api.request("PATCH", PATH, {}, b"{}", "application/json"):
            pass
    assert WRITE_TIMEOUT == 10
    api.close()


async def test_a_watch_may_be_silent_for_longer_than_a_write(server: ApiServer) -> None:
    api = KubeApi(KubernetesConfig(server.url, "pool"), write_timeout=0.05)

    async def ask() -> bytes:
        async with api.request("GET", PATH, {"watch": "1"}) as response:
            return await response.whole()

    asking = asyncio.create_task(ask())
    call = await server.call()
    _, pending = await asyncio.wait([asking], timeout=0.2)
    assert pending
    await call.answer({"kind": "ConfigMapList"})
    assert await asking
    api.close()
