"""Files and batches exist in the account that made them: who asks for one is answered by that account."""

import gzip
import json

import pytest

from oauth_pool_proxy.observe.usage import JsonReader
from tests.support.proxy_server import PoolFolder, RunningProxy
from tests.support.upstream_server import RawRequest, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import LIMIT, account_of, asked, statuses

MISSING = b'{"type":"error","error":{"type":"not_found_error","message":"File not found"}}'


class Organizations:
    """An upstream in which every account has objects of its own."""

    def __init__(self, upstream: UpstreamServer, *, packed: bool = False) -> None:
        self.objects: dict[str, str] = {}
        self.exhausted: set[str] = set()
        self._packed = packed
        upstream.answer_all(self._answer)

    def _answer(self, request: RawRequest) -> bytes:
        account, (method, target) = account_of(request), request.line.decode().split()[:2]
        if method == "POST" and target in ("/v1/files", "/v1/messages/batches"):
            name = f"object_{len(self.objects)}"
            self.objects[name] = account
            body = json.dumps({"id": name}).encode()
            return (
                json_answer(gzip.compress(body), 200, ("content-encoding", "gzip"))
                if self._packed
                else json_answer(body)
            )
        name = next((part for part in target.split("/") if part in self.objects), "")
        if account in self.exhausted:
            return json_answer(LIMIT, 429, ("retry-after", "60"))
        return json_answer(b"here") if self.objects.get(name) == account else json_answer(MISSING, 404)


@pytest.fixture
def pool_of_three(folder: PoolFolder) -> PoolFolder:
    for name in "abc":
        folder.account(name)
    return folder


async def make(proxy: RunningProxy, path: str) -> str:
    answer = await proxy.request("POST", path, "", b"{}")
    packed = bool(answer.values(b"content-encoding"))
    return str(json.loads(gzip.decompress(answer.body) if packed else answer.body)["id"])


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("path", ["/v1/files", "/v1/messages/batches"])
async def test_who_made_an_object_is_asked_for_it(
    upstream: UpstreamServer, start: Start, pool_of_three: PoolFolder, path: str, packed: bool, usage: bool
) -> None:
    Organizations(upstream, packed=packed)
    proxy = start(oauth=pool_of_three.oauth(usage_metrics=usage))
    made = [await make(proxy, path) for _ in range(3)]
    for name in [*made, *made]:
        upstream.requests.clear()
        for method, target in (
            ("GET", f"{path}/{name}"),
            ("GET", f"{path}/{name}/content?x=1"),
            ("DELETE", f"{path}/{name}"),
        ):
            assert (await proxy.request(method, target)).body == b"here"
        assert len(upstream.requests) == 3


async def test_an_object_of_another_proxy_is_looked_for_once(
    upstream: UpstreamServer, start: Start, pool_of_three: PoolFolder
) -> None:
    world = Organizations(upstream)
    world.objects["object_x"] = "c-1"
    proxy = start(oauth=pool_of_three.oauth())
    assert (await proxy.request("GET", "/v1/files/object_x")).body == b"here"
    assert asked(upstream) == ["a-1", "b-1", "c-1"]
    upstream.requests.clear()
    assert (await proxy.request("GET", "/v1/files/object_x")).body == b"here"
    assert asked(upstream) == ["c-1"]
    assert set((await statuses(proxy)).values()) == {"available"}


async def test_an_object_that_nobody_has_is_the_upstream_s_404(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    for number in range(10):
        folder.account(f"a{number}")
    Organizations(upstream)
    answer = await start(oauth=folder.oauth()).request("GET", "/v1/files/object_y")
    assert (answer.status, answer.body) == (404, MISSING)
    assert len(set(asked(upstream))) == len(upstream.requests) == 8  # most_accounts


async def test_a_404_of_anything_else_is_not_put_to_another_account(
    upstream: UpstreamServer, start: Start, pool_of_three: PoolFolder
) -> None:
    Organizations(upstream)
    proxy = start(oauth=pool_of_three.oauth())
    assert (await proxy.request("GET", "/v1/models/object_y")).status == 404
    assert (await proxy.request("POST", "/v1/files/object_y", "", b"{}")).status == 404
    assert len(upstream.requests) == 2


async def test_an_account_that_cools_down_is_still_asked_for_what_only_it_has(
    upstream: UpstreamServer, start: Start, pool_of_three: PoolFolder
) -> None:
    world = Organizations(upstream)
    proxy = start(oauth=pool_of_three.oauth())
    name = await make(proxy, "/v1/files")
    owner = world.objects[name]
    world.exhausted.add(owner)
    world.objects["of_nobody_else"] = owner
    await proxy.request("GET", f"/v1/files/{name}")
    assert "cooling_down" in (await statuses(proxy)).values()
    world.exhausted.clear()
    assert (await proxy.request("GET", f"/v1/files/{name}")).body == b"here"


async def test_nothing_of_an_answer_is_held_when_it_has_been_read(
    upstream: UpstreamServer, start: Start, pool_of_three: PoolFolder
) -> None:
    before = JsonReader._held
    Organizations(upstream)
    proxy = start(oauth=pool_of_three.oauth(usage_metrics=False))
    await make(proxy, "/v1/files")
    assert JsonReader._held == before
