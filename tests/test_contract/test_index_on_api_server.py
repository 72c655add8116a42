"""What the operator writes into a real API server, read by the proxy's own reader with no more than the proxy's Role."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from oauth_pool_operator.account.index_entry import Entry, render_entry
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.shards import MOST_SHARDS, Shards, room
from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.index import PoolIndexReader
from oauth_pool_proxy.pool.index_watcher import ConfigMapIndex
from oauth_pool_proxy.pool.kube_api import KubeApi, KubeApiError
from tests.support.builders import account, credential, facts
from tests.support.control_plane import ControlPlane
from tests.support.stack import Stack

NAMES = [f"account-{number}" for number in range(MOST_SHARDS)]


def entry(name: str) -> Entry:
    return render_entry(facts(account(name=name, uid=f"uid-of-{name}"), credential=credential()))


ROOM_FOR_ONE = room(NAMES[0], msgspec.json.encode(entry(NAMES[0])).decode())


class Reader:
    """A proxy's, and what it last handed on."""

    def __init__(self, api: KubeApi) -> None:
        self.seen: Mapping[str, str] = {}
        self.lost: set[str] = set()  # accounts that it knew and then, for a moment at least, did not
        self._news = asyncio.Event()
        self.index = ConfigMapIndex(api, "oauth-pool", self._take, lambda: Backoff(0.01, 0.1))

    def _take(self, found: Mapping[str, str]) -> None:
        self.lost |= self.seen.keys() - found.keys()
        self.seen = found
        self._news.set()

    async def sees(self, names: list[str]) -> None:
        """Returns when these accounts, and no others, are in the pool that it makes of them."""
        async with asyncio.timeout(20):
            while sorted(one.name for one in PoolIndexReader("anthropic").read(self.seen)) != names:
                self._news.clear()
                await self._news.wait()

    async def has(self, name: str, value: str) -> None:
        """Returns when the account's entry is this."""
        async with asyncio.timeout(20):
            while self.seen.get(name) != value:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
def stack(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """No process: only the namespace, with its Roles."""
    stack = Stack(control_plane, tmp_path)
    stack.prepare_cluster()
    stack.close()
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig_for(stack.namespace, "oauth-pool-operator")))
    return stack


@asynccontextmanager
async def operator(stack: Stack, *, room_for: int = 1) -> AsyncIterator[IndexPublisher]:
    """Its publisher, whose ConfigMaps are full with one account or so many."""
    cluster = Cluster(stack.namespace, "oauth-pool")
    index = IndexPublisher(cluster, Shards(preferred_bytes=room_for * ROOM_FOR_ONE))
    await index.load(set(NAMES))
    task = asyncio.create_task(index.run())
    try:
        yield index
    finally:
        await ended(task)
        await cluster.close()


def proxy_api(stack: Stack, folder: Path) -> KubeApi:
    token = folder / "token"
    token.write_text(stack.control_plane.service_account_token(stack.namespace, "oauth-pool-proxy"))
    plane = stack.control_plane
    return KubeApi(KubernetesConfig(plane.server, stack.namespace, ca_file=plane.ca_file, token_file=token))


@asynccontextmanager
async def proxy(stack: Stack, folder: Path) -> AsyncIterator[Reader]:
    api = proxy_api(stack, folder)
    reader = Reader(api)
    task = asyncio.create_task(reader.index.run())
    try:
        yield reader
    finally:
        await ended(task)
        api.close()


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_proxy_follows_the_index_into_every_config_map_that_it_grows_into(stack: Stack, tmp_path: Path) -> None:
    async with proxy(stack, tmp_path) as early, operator(stack) as index:
        for number, name in enumerate(NAMES, 1):
            await index.publish(entry(name))
            await early.sees(NAMES[:number])
        async with proxy(stack, tmp_path) as late:  # started when all of them are there
            await late.sees(NAMES)
        await index.withdraw(account(name=NAMES[-1], uid=f"uid-of-{NAMES[-1]}"))
        await early.sees(NAMES[:-1])


async def test_no_proxy_ever_misses_an_account_while_entries_change_and_config_maps_are_added(
    stack: Stack, tmp_path: Path
) -> None:
    async with proxy(stack, tmp_path) as reader:
        async with operator(stack) as index:
            for number, name in enumerate(NAMES):
                changed = [msgspec.structs.replace(entry(one), priority=number) for one in NAMES[:number]]
                await asyncio.gather(index.publish(entry(name)), *(index.publish(one) for one in changed))
            await reader.sees(NAMES)
        for room_for in (3, 1):  # restarts, with other sizes, and accounts in another order
            async with operator(stack, room_for=room_for) as index:
                changed = [msgspec.structs.replace(entry(one), weight=1 + room_for) for one in reversed(NAMES)]
                await asyncio.gather(*(index.publish(one) for one in changed))
                await index.repair()
            await reader.has(NAMES[-1], msgspec.json.encode(changed[0]).decode())
        assert reader.lost == set()


async def test_a_proxy_that_starts_after_somebody_removed_the_announcement_hears_of_all_of_them(
    stack: Stack, tmp_path: Path
) -> None:
    async with operator(stack) as index:
        for name in NAMES[:3]:
            await index.publish(entry(name))
        stack.kubectl("annotate", "configmap", "oauth-pool", "oauthpool.dev/shards-")
        async with proxy(stack, tmp_path) as reader:
            await reader.sees(NAMES[:1])
            await index.repair()
            await reader.sees(NAMES[:3])
        stack.kubectl("delete", "configmap", "oauth-pool")
        await index.repair()
        async with proxy(stack, tmp_path) as reader:
            await reader.sees(NAMES[:3])


async def test_a_proxy_may_not_list_what_is_not_its_own(stack: Stack, tmp_path: Path) -> None:
    path = f"/api/v1/namespaces/{stack.namespace}/configmaps"
    api = proxy_api(stack, tmp_path)
    for params in ({}, {"labelSelector": "oauthpool.dev/index=1"}, {"fieldSelector": "metadata.name=kube-root-ca.crt"}):
        with pytest.raises(KubeApiError) as caught:
            async with api.request("GET", path, params):
                pass
        assert caught.value.status == 403
    api.close()
