"""Puts the pool together and keeps it up to date: the index, the access tokens, and what the operator is told.

Which tasks there are depends on where index and access tokens come from. All of them run beside the requests.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from oauth_pool_proxy.config import KubernetesConfig, OAuthConfig, SealedConfig
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.pool_metrics import PoolCollector, SealedTokensCollector
from oauth_pool_proxy.pool.affinity import Affinity
from oauth_pool_proxy.pool.config_maps import ConfigMaps
from oauth_pool_proxy.pool.dispatch import Dispatcher
from oauth_pool_proxy.pool.due_tokens import AccessTokens
from oauth_pool_proxy.pool.index import PoolIndexReader
from oauth_pool_proxy.pool.index_folder import FolderIndex
from oauth_pool_proxy.pool.index_source import OnIndex
from oauth_pool_proxy.pool.index_watcher import ConfigMapIndex
from oauth_pool_proxy.pool.kube_api import KubeApi
from oauth_pool_proxy.pool.objects import Objects
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.registration import Registration
from oauth_pool_proxy.pool.reports import StatusReporter
from oauth_pool_proxy.pool.token_files import TokenFiles

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""For reports that still wait when the proxy ends."""

Forever = Callable[[], Coroutine[object, object, None]]


@asynccontextmanager
async def pool_mode(
    config: OAuthConfig,
    pool: Pool,
    metrics: Metrics,
    clock: Callable[[], float],
    api_of: Callable[[KubernetesConfig], KubeApi],
) -> AsyncIterator[Dispatcher]:
    """Everything of pool mode, and the tasks that keep it up to date while the block lasts.

    `api_of` gives the client of an API server, which others may use, too, and which outlives this.
    """
    tokens: AccessTokens
    index: ConfigMapIndex | FolderIndex
    reporter = None
    forever: list[Forever]
    async with AsyncExitStack() as stack:
        if isinstance(config.source, KubernetesConfig):
            api = api_of(config.source)
            if config.sealed:
                tokens, forever = _sealed(config.sealed, api, pool, metrics)
            else:
                tokens = TokenFiles(config.access_dir, pool, asyncio.get_running_loop().time)
                forever = [tokens.run]
            stack.callback(tokens.close)
            index = ConfigMapIndex(api, config.source.config_map, _on_index(config.provider, pool, tokens))
            told = reporter = StatusReporter(api, os.environ.get("POD_NAME") or socket.gethostname())
            stack.push_async_callback(reporter.flush, FLUSH_SECONDS)
            pool.on_expired = lambda account: told.expired(account, clock())
            forever += [index.run, reporter.run]
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


def _sealed(config: SealedConfig, api: KubeApi, pool: Pool, metrics: Metrics) -> tuple[AccessTokens, list[Forever]]:
    # Imported here: the library behind it takes 13 MiB, which nobody pays who does not seal.
    from oauth_pool_proxy.pool.key_pair import key_pair_in
    from oauth_pool_proxy.pool.sealed_tokens import CONFIG_MAP, GONE, WHAT, SealedTokens

    clock = asyncio.get_running_loop().time
    keys = key_pair_in(config.key_dir)
    tokens = SealedTokens(pool, config.pod_name, keys, clock)
    registration = Registration(
        api, config.pod_name, config.pod_uid, keys.public, version("oauth-pool-proxy"), clock=clock
    )
    tokens.on_held, tokens.on_doubt = registration.held, registration.doubt
    boxes = ConfigMaps(api, CONFIG_MAP, tokens.parts_changed, what=WHAT, gone=GONE)
    metrics.add(SealedTokensCollector(tokens.unopened))
    return tokens, [registration.run, boxes.run, tokens.run]


@asynccontextmanager
async def running(forever: list[Forever]) -> AsyncIterator[None]:
    """Run these beside the block. One that fails is a bug: it is logged and started again, and costs the others nothing."""

    async def supervised(run: Forever) -> None:
        while True:
            try:
                await run()
            except Exception:
                log.exception("background task failed", extra={"fields": {"task": run.__qualname__}})
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(supervised(run)) for run in forever]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
