"""What every reader of such ConfigMaps can rely on; how they are followed is in test_index_watcher.py."""

import asyncio
import logging

import pytest

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.config_maps import ConfigMaps, Parts
from oauth_pool_proxy.pool.kube_api import KubeApi
from tests.support.api_server import api_server, config_map


async def test_parts_are_handed_on_by_number_and_a_key_may_stand_in_two_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when an entry moves: which of the two is the old one is for the reader to decide."""
    handed_on: asyncio.Queue[Parts] = asyncio.Queue()
    async with api_server() as server:
        api = KubeApi(KubernetesConfig(server.url, "pool"))
        maps = ConfigMaps(
            *(api, "oauth-tokens", handed_on.put_nowait),
            what="the words of the reader",
            gone="it is gone",
            backoff=lambda: Backoff(0.001, 0.01),
        )
        task = asyncio.create_task(maps.run())
        with caplog.at_level(logging.WARNING):
            await (await server.call("oauth-tokens")).answer({}, 503)
            await (await server.call("oauth-tokens")).list({"a": "old", "b": "1"}, shards="2")
            await (await server.call("oauth-tokens-1")).list({"a": "new"})
            async with asyncio.timeout(20):
                assert list(await handed_on.get()) == [{"a": "old", "b": "1"}, {"a": "new"}]
            first = await server.call("oauth-tokens")
            await first.begin_watch()
            await first.event("MODIFIED", config_map({"b": "1"}, 2, "2"))
            async with asyncio.timeout(20):
                assert list(await handed_on.get()) == [{"b": "1"}, {"a": "new"}]
            await first.event("DELETED", config_map({"b": "1"}, 3, "2"))
            async with asyncio.timeout(20):
                assert list(await handed_on.get()) == [{"b": "1"}, {"a": "new"}]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        api.close()
    assert [record.message for record in caplog.records] == [
        "the words of the reader cannot be read; going on with what is known",
        "it is gone",
    ]
