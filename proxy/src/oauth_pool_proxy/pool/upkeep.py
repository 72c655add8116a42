"""Assembles the pool and keeps it up to date: the index, the access tokens, and the reports to the operator.

The tasks depend on where the index and the access tokens come from. All of them run in the background.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from oauth_pool_proxy.config import KubernetesConfig, OAuthConfig
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.pool_metrics import PoolCollector
from oauth_pool_proxy.pool.affinity import Affinity
from oauth_pool_proxy.pool.dispatch import Dispatcher
from oauth_pool_proxy.pool.due_tokens import AccessTokens
from oauth_pool_proxy.pool.index import PoolIndexReader
from oauth_pool_proxy.pool.index_folder import FolderIndex
from oauth_pool_proxy.pool.index_source import OnIndex
from oauth_pool_proxy.pool.objects import Objects
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.supervised import running
from oauth_pool_proxy.pool.token_files import TokenFiles

if TYPE_CHECKING:
    from oauth_pool_proxy.pool.index_watcher import ConfigMapIndex
    from oauth_pool_proxy.pool.kube_api import KubeApi


@asynccontextmanager
async def pool_mode(
    config: OAuthConfig,
    pool: Pool,
    metrics: Metrics,
    clock: Callable[[], float],
    api_of: Callable[[KubernetesConfig], "KubeApi"],
) -> AsyncIterator[Dispatcher]:
    """Everything that pool mode needs, and the tasks that keep it up to date while the block lasts.

    `api_of` returns the client for an API server. It is shared with others, and outlives this block.
    """
    tokens: AccessTokens
    index: ConfigMapIndex | FolderIndex
    reporter = None
    async with AsyncExitStack() as stack:
        if isinstance(config.source, KubernetesConfig):
            from oauth_pool_proxy.pool.in_cluster import in_cluster

            api, on_index_with = api_of(config.source), partial(_on_index, config.provider, pool)
            cluster = await stack.enter_async_context(
                in_cluster(config, api, config.source.config_map, pool, metrics, on_index_with)
            )
            tokens, index, forever = cluster.tokens, cluster.index, cluster.forever
            told = reporter = cluster.reporter
            pool.on_expired = lambda account: told.expired(account, clock())
        else:
            tokens = files = TokenFiles(config.access_dir, pool, asyncio.get_running_loop().time)
            stack.callback(files.close)
            index = FolderIndex(config.source, _on_index(config.provider, pool, files))
            await index.poll()
            await files.poll()
            forever = [index.run, files.run]
        metrics.add(PoolCollector(pool, clock, lambda: (index.last_success, index.lists)))
        await stack.enter_async_context(running(forever))
        yield Dispatcher(config, pool, tokens, Affinity(pool.home_of), Objects(), reporter, metrics, clock)


def _on_index(provider: str, pool: Pool, tokens: AccessTokens) -> OnIndex:
    reader = PoolIndexReader(provider)

    def on_index(data: Mapping[str, str]) -> None:
        pool.replace(reader.read(data))
        tokens.index_changed()

    return on_index
