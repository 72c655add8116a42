"""Watches the pool index in ConfigMaps and passes on each complete new state. `index_source.py` states the guarantees."""

from collections.abc import Callable, Mapping

from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.config_maps import ConfigMaps, Parts
from oauth_pool_proxy.pool.index_source import GONE, OnIndex
from oauth_pool_proxy.pool.kube_api import KubeApi


class ConfigMapIndex(ConfigMaps):
    """The pool index. If an account is in two ConfigMaps, the one with the lower number counts: accounts do not move."""

    def __init__(self, api: KubeApi, name: str, on_index: OnIndex, backoff: Callable[[], Backoff] = Backoff) -> None:
        super().__init__(
            api, name, lambda parts: on_index(_merged(parts)), what="the pool index", gone=GONE, backoff=backoff
        )


def _merged(parts: Parts) -> Mapping[str, str]:
    merged: dict[str, str] = {}
    for part in reversed(parts):
        merged.update(part)
    return merged
