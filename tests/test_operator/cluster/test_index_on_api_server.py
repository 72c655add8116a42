"""More accounts than one ConfigMap takes, on a real API server and with the operator's own Role."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from oauth_pool_operator.account.index_entry import Entry, render_entry
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.shards import MOST_SHARDS, Shards, room
from tests.support.builders import account, credential, facts
from tests.support.control_plane import ControlPlane
from tests.support.stack import Stack

NAMES = [f"account-{number:02}" for number in range(25)]


def entry(name: str) -> Entry:
    return render_entry(facts(account(name=name, uid=f"uid-of-{name}"), credential=credential()))


ROOM = room(NAMES[0], msgspec.json.encode(entry(NAMES[0])).decode())


@asynccontextmanager
async def publisher(stack: Stack, *, room_for: int) -> AsyncIterator[IndexPublisher]:
    cluster = Cluster(stack.namespace, "oauth-pool")
    index = IndexPublisher(cluster, Shards(preferred_bytes=room_for * ROOM))
    await index.load(set(NAMES))
    task = asyncio.create_task(index.run())
    try:
        yield index
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await cluster.close()


@pytest.fixture
def stack(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """No process: only the namespace, with its Roles."""
    stack = Stack(control_plane, tmp_path)
    stack.prepare_cluster()
    stack.close()
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig_for(stack.namespace, "oauth-pool-operator")))
    return stack


def found(stack: Stack) -> dict[str, list[str]]:
    """Every ConfigMap of the index, and its keys."""
    listed = json.loads(stack.kubectl("get", "configmaps", "-l", "oauthpool.dev/index=1", "-o", "json"))["items"]
    return {item["metadata"]["name"]: sorted(item.get("data", {})) for item in listed}


async def test_further_config_maps_are_made_when_one_is_full(stack: Stack) -> None:
    async with publisher(stack, room_for=10) as index:
        for name in NAMES:
            await index.publish(entry(name))
        first = found(stack)
        assert first == {"oauth-pool": NAMES[:10], "oauth-pool-1": NAMES[10:20], "oauth-pool-2": NAMES[20:]}
    async with publisher(stack, room_for=10) as index:  # a restart, and accounts in another order
        await asyncio.gather(*(index.publish(entry(name)) for name in reversed(NAMES)))
        stack.kubectl("delete", "configmap", "oauth-pool-1")
        await index.repair()
        assert found(stack) == first


async def test_the_role_allows_as_many_config_maps_as_there_may_be(stack: Stack) -> None:
    async with publisher(stack, room_for=1) as index:
        for name in NAMES[:MOST_SHARDS]:
            await index.publish(entry(name))
            await index.publish(msgspec.structs.replace(entry(name), priority=1))  # a patch, after the create
    assert len(found(stack)) == MOST_SHARDS
