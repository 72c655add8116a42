"""An upstream that the test plays, and real proxies in front of it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.proxy_server import Clock, PoolFolder, RunningProxy, proxy_config, running_proxy
from tests.support.upstream_server import UpstreamServer, upstream_server

Start = Callable[..., RunningProxy]


@pytest.fixture
async def upstream() -> AsyncIterator[UpstreamServer]:
    async with upstream_server() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> PoolFolder:
    return PoolFolder(tmp_path)


@pytest.fixture
def start(upstream: UpstreamServer, clock: Clock) -> Iterator[Start]:
    """Starts a proxy in front of `upstream`; settings are those of `proxy_config`. Stopped when the test is over."""
    with ExitStack() as stack:

        def start_one(**settings: object) -> RunningProxy:
            url = str(settings.pop("upstream_url", upstream.url))
            oauth = settings.pop("oauth", None)
            assert oauth is None or isinstance(oauth, dict)
            return stack.enter_context(running_proxy(proxy_config(url, oauth, **settings), clock))

        yield start_one
