"""The pool of a proxy that watches an API server. The index and any sealed access tokens come from there; reports go to it.

Imported only in such a proxy: it takes a MiB that others do not need.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from oauth_pool_proxy.config import OAuthConfig, SealedConfig
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.pool_metrics import SealedTokensCollector
from oauth_pool_proxy.pool.config_maps import ConfigMaps
from oauth_pool_proxy.pool.due_tokens import AccessTokens
from oauth_pool_proxy.pool.index_source import OnIndex
from oauth_pool_proxy.pool.index_watcher import ConfigMapIndex
from oauth_pool_proxy.pool.kube_api import KubeApi
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.registration import Registration
from oauth_pool_proxy.pool.reports import StatusReporter
from oauth_pool_proxy.pool.supervised import Forever
from oauth_pool_proxy.pool.token_files import TokenFiles

FLUSH_SECONDS = 1.0
"""Time for reports that still wait when the proxy ends."""


@dataclass
class InCluster:
    tokens: AccessTokens
    index: ConfigMapIndex
    reporter: StatusReporter
    forever: list[Forever]


@asynccontextmanager
async def in_cluster(
    config: OAuthConfig,
    api: KubeApi,
    config_map: str,
    pool: Pool,
    metrics: Metrics,
    on_index_with: Callable[[AccessTokens], OnIndex],
) -> AsyncIterator[InCluster]:
    """`on_index_with` returns the callback for changes of the index in `config_map`."""
    if config.sealed:
        tokens, forever = _sealed(config.sealed, api, pool, metrics)
    else:
        tokens = TokenFiles(config.access_dir, pool, asyncio.get_running_loop().time)
        forever = [tokens.run]
    index = ConfigMapIndex(api, config_map, on_index_with(tokens))
    reporter = StatusReporter(api, os.environ.get("POD_NAME") or socket.gethostname())
    try:
        yield InCluster(tokens, index, reporter, [*forever, index.run, reporter.run])
    finally:
        await reporter.flush(FLUSH_SECONDS)
        tokens.close()


def _sealed(config: SealedConfig, api: KubeApi, pool: Pool, metrics: Metrics) -> tuple[AccessTokens, list[Forever]]:
    # Imported here: the library behind it takes 13 MiB, which only proxies with sealed tokens should pay for.
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
