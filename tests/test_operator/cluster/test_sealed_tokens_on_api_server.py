"""More sealed tokens than fit, on a real API server and with the operator's own Role: no ConfigMap is too large for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.cluster import hpke
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.proxies import MOST_PROXIES, Proxies
from oauth_pool_operator.cluster.sealed_tokens import SealedTokens
from oauth_pool_operator.cluster.shards import MOST_BYTES, MOST_SHARDS
from oauth_pool_operator.errors import TokensFull
from tests.support.builders import account
from tests.support.control_plane import ControlPlane
from tests.support.declared_proxies import DeclaredProxy
from tests.support.stack import Stack

# More pairs than there is room for, by names as long as they may be and a token that is no short one.
NAMES = [f"{number:063}" for number in range(100)]
PROXIES = [DeclaredProxy(f"{number:063}") for number in range(MOST_PROXIES)]
TOKEN = "x" * 1000
MIB = 1024 * 1024


@pytest.fixture
def stack(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """No process: only the namespace, with its Roles."""
    stack = Stack(control_plane, tmp_path)
    stack.prepare_cluster()
    stack.close()
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig_for(stack.namespace, "oauth-pool-operator")))
    return stack


@asynccontextmanager
async def publisher(stack: Stack) -> AsyncIterator[SealedTokens]:
    cluster = Cluster(stack.namespace, "oauth-pool")
    tokens = SealedTokens(cluster, Proxies(hpke.is_usable), hpke.seal)
    await tokens.load(set(NAMES))
    task = asyncio.create_task(tokens.run())
    try:
        yield tokens
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await cluster.close()


def size(data: dict[str, str]) -> int:
    return sum(len(key) + len(value) for key, value in data.items())


async def publish(tokens: SealedTokens, name: str, generation: int) -> TokensFull | None:
    try:
        await tokens.publish(
            account(name=name, uid=f"uid-of-{name}"), AccessFile(generation, TOKEN, "2026-11-20T20:00:00Z")
        )
    except TokensFull as full:
        return full
    return None


async def test_tokens_move_while_proxies_join_and_stay_within_what_an_api_server_takes(stack: Stack) -> None:
    path = f"/api/v1/namespaces/{stack.namespace}/configmaps?labelSelector=oauthpool.dev/tokens=1"

    def config_maps() -> list[dict[str, str]]:
        return [one.get("data") or {} for one in stack.control_plane.api.get(path, timeout=60).json()["items"]]

    async with publisher(stack) as tokens:
        tokens.proxies.observe("ADDED", PROXIES[0].observed)
        await asyncio.gather(*(publish(tokens, name, 1) for name in NAMES))
        for joined in (PROXIES[1:40], PROXIES[40:]):
            for one in joined:
                tokens.proxies.observe("ADDED", one.observed)
            await asyncio.gather(*(publish(tokens, name, 2) for name in NAMES))
        # it ends by itself: what has moved is removed where it was, and makes room for others, which are looked at again
        found = config_maps()
        while sum(map(len, found)) > len(NAMES) or sum(map(size, found)) < 0.9 * MOST_SHARDS * MOST_BYTES:
            refusals = await asyncio.gather(*(publish(tokens, name, 2) for name in NAMES))
            found = config_maps()
            assert max(map(size, found)) < MIB
    assert any(refusals)
    assert not any(full.nobody_has_it for full in refusals if full is not None)
    entries = {name: value for data in found for name, value in data.items()}
    assert entries.keys() == set(NAMES)
    for value in entries.values():
        sealed = list(json.loads(value)["sealed"])
        assert sealed == [one.pod for one in PROXIES[: len(sealed)]]  # the oldest, whoever lacks it
        token = PROXIES[len(sealed) - 1].opened(value)
        assert token is not None
        assert token["generation"] == 2
