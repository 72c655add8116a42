"""The reflector against an API server that misbehaves in every way we know, and the folder."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oauth_pool_proxy.config import KubernetesConfig
from oauth_pool_proxy.pool.backoff import Backoff
from oauth_pool_proxy.pool.config_maps import MOST_SHARDS
from oauth_pool_proxy.pool.index_folder import FolderIndex
from oauth_pool_proxy.pool.index_watcher import ConfigMapIndex
from oauth_pool_proxy.pool.kube_api import KubeApi
from tests.support.api_server import ApiServer, Call, api_server, config_map
from tests.support.proxy_server import Clock

State = dict[str, str]


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as api:
        yield api


class Watching:
    """A running reflector, and the states that it has handed on."""

    index: ConfigMapIndex

    def __init__(self) -> None:
        self.states: asyncio.Queue[State] = asyncio.Queue()

    def on_index(self, data: Mapping[str, str]) -> None:
        self.states.put_nowait(dict(data))

    async def state(self) -> State:
        async with asyncio.timeout(20):
            return await self.states.get()


@asynccontextmanager
async def watching(
    server: ApiServer, token_file: Path | None = None, clock: Clock | None = None, read_timeout: float = 20
) -> AsyncIterator[Watching]:
    result = Watching()
    config = KubernetesConfig(server.url, "pool", None, token_file)
    api = KubeApi(config, read_timeout=read_timeout, clock=clock or Clock())
    result.index = ConfigMapIndex(api, "oauth-pool", result.on_index, lambda: Backoff(0.001, 0.01))
    task = asyncio.create_task(result.index.run())
    try:
        yield result
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        api.close()


async def began(server: ApiServer, data: State | None = None) -> Call:
    """List with this data, and the watch that follows."""
    await (await server.call()).list({"a": "1"} if data is None else data, 10)
    watch = await server.call()
    await watch.begin_watch()
    return watch


async def test_it_lists_and_then_watches_from_there(server: ApiServer) -> None:
    async with watching(server) as result:
        listing = await server.call()
        assert (listing.method, listing.path) == ("GET", "/api/v1/namespaces/pool/configmaps")
        assert listing.query == {"fieldSelector": "metadata.name=oauth-pool"}
        await listing.list({"a": "1"}, 10)
        assert await result.state() == {"a": "1"}
        watch = await server.call()
        assert watch.query == {
            "fieldSelector": "metadata.name=oauth-pool",
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": "10",
            "timeoutSeconds": "290",
        }
        await watch.begin_watch()
        await watch.event("MODIFIED", config_map({"a": "2"}, 11))
        assert await result.state() == {"a": "2"}
        await watch.event("MODIFIED", config_map({"b": "1"}, 13))
        assert await result.state() == {"b": "1"}


async def test_a_config_map_that_was_never_there_is_an_empty_pool(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await server.call()).list(None)
        assert await result.state() == {}


@pytest.mark.parametrize("data", [{}, None], ids=["no key", "no data"])
async def test_an_index_that_is_there_and_names_no_account_empties_the_pool(
    server: ApiServer, data: State | None
) -> None:
    async with watching(server) as result:
        watch = await began(server)
        assert await result.state() == {"a": "1"}
        await watch.event("MODIFIED", config_map(data, 11))
        assert await result.state() == {}


async def test_a_deleted_index_keeps_the_last_accounts_and_is_warned_of_once(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(server) as result:
        watch = await began(server)
        assert await result.state() == {"a": "1"}
        with caplog.at_level(logging.WARNING):
            await watch.event("DELETED", config_map({"a": "1"}, 12))
            assert await result.state() == {"a": "1"}
            seen = result.index.last_success
            await watch.event("BOOKMARK", {"metadata": {"resourceVersion": "13"}})
            watch.connection.abort()
            await (await server.call()).list(None, 14)  # it is still gone
            assert await result.state() == {"a": "1"}
            assert result.index.last_success == seen  # its age tells that it is gone
            warnings = [record.message for record in caplog.records if "index is gone" in record.message]
            assert len(warnings) == 1
        watch = await server.call()
        await watch.begin_watch()
        await watch.event("ADDED", config_map({"b": "1"}, 15))
        assert await result.state() == {"b": "1"}
        assert result.index.last_success != seen


async def test_an_index_that_fails_and_starts_anew_remembers_what_it_knew(server: ApiServer) -> None:
    """What runs it starts it again after a bug."""
    async with watching(server) as result:
        watch = await began(server)
        assert await result.state() == {"a": "1"}
        again = asyncio.create_task(result.index.run())
        await (await server.call()).list(None)
        assert await result.state() == {"a": "1"}
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        watch.connection.abort()


async def test_a_watch_that_ends_in_peace_is_resumed_where_it_was(server: ApiServer) -> None:
    async with watching(server):
        watch = await began(server)
        await watch.event("BOOKMARK", {"metadata": {"resourceVersion": "25"}})
        await watch.end_watch()
        again = await server.call()
        assert again.is_watch and again.query["resourceVersion"] == "25"


async def test_a_watch_that_ends_without_a_word_is_trouble(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await began(server)).end_watch()
        await began(server, {"b": "1"})
        assert [await result.state(), await result.state()] == [{"a": "1"}, {"b": "1"}]


GONE = {"kind": "Status", "code": 410, "reason": "Expired"}


@pytest.mark.parametrize("trouble", ["410 event", "410", "cut", "garbage", "stall", "500", "401", "429", "not a list"])
async def test_after_any_trouble_it_lists_again(server: ApiServer, trouble: str) -> None:
    async with watching(server, read_timeout=0.2 if trouble == "stall" else 20) as result:
        if trouble in ("500", "401", "429"):
            await (await server.call()).answer({}, int(trouble))
        elif trouble == "not a list":
            await (await server.call()).answer([1])
        elif trouble == "410":
            await (await server.call()).list({"a": "1"})
            await (await server.call()).answer(GONE, 410)
            await result.state()
        else:
            watch = await began(server)
            await result.state()
            if trouble == "410 event":
                await watch.event("ERROR", GONE)
            elif trouble == "cut":
                watch.connection.abort()
            elif trouble == "garbage":
                await watch.connection.chunk(b"not json\n")
        listing = await server.call()
        assert not listing.is_watch
        await listing.list({"z": "9"}, 99)
        assert await result.state() == {"z": "9"}


async def test_the_state_is_kept_while_the_api_server_is_away(server: ApiServer) -> None:
    async with watching(server) as result:
        watch = await began(server)
        assert await result.state() == {"a": "1"}
        watch.connection.abort()
        for _ in range(5):
            await (await server.call()).answer({}, 503)
        assert result.states.empty()


async def test_an_api_server_that_is_down_at_the_start_is_waited_for() -> None:
    """Nobody listens at first; then somebody does, at the same address."""
    async with api_server() as gone:
        pass
    async with watching(gone) as result:
        await asyncio.sleep(0.02)
        assert result.states.empty()


async def test_the_token_is_read_again_every_minute_and_after_a_401(
    server: ApiServer, tmp_path: Path, clock: Clock
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with watching(server, file, clock):
        call = await server.call()
        assert call.token == "first"
        file.write_text("second\n")
        await call.answer({}, 503)
        call = await server.call()
        assert call.token == "first"
        await call.answer({}, 401)
        call = await server.call()
        assert call.token == "second"
        file.write_text("third\n")
        clock.advance(61)
        await call.answer({}, 503)
        call = await server.call()
        assert call.token == "third"
        file.unlink()
        clock.advance(61)
        await call.answer({}, 503)
        await asyncio.sleep(0.02)
        file.write_text("fourth\n")
        assert (await server.call()).token == "fourth"


ONE, TWO = "oauth-pool", "oauth-pool-1"


async def watch_of(server: ApiServer, name: str) -> Call:
    watch = await server.call(name)
    assert watch.is_watch
    await watch.begin_watch()
    return watch


async def test_further_config_maps_are_read_and_handed_on_together(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await server.call(ONE)).list({"a": "1", "both": "first"}, shards="2")
        listing = await server.call(TWO)
        first = await watch_of(server, ONE)
        await first.event("MODIFIED", config_map({"a": "2", "both": "first"}, 2, "2"))
        bookmark = {"metadata": {"resourceVersion": "3"}}
        await first.event("BOOKMARK", bookmark)
        assert result.states.empty()  # half of the accounts are not all of them
        await listing.list({"b": "1", "both": "second"})
        assert await result.state() == {"a": "2", "b": "1", "both": "first"}
        second = await watch_of(server, TWO)
        await second.event("MODIFIED", config_map({"b": "2"}, 5))
        assert await result.state() == {"a": "2", "b": "2", "both": "first"}
        await first.event("MODIFIED", config_map({}, 6, "2"))
        assert await result.state() == {"b": "2"}
        await second.event("MODIFIED", config_map({}, 7))
        assert await result.state() == {}


async def test_a_deleted_part_of_the_index_keeps_its_accounts_unless_there_are_fewer_parts(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await server.call(ONE)).list({"a": "1"}, shards="2")
        await (await server.call(TWO)).list({"b": "1"})
        assert await result.state() == {"a": "1", "b": "1"}
        first, second = await watch_of(server, ONE), await watch_of(server, TWO)
        await second.event("DELETED", config_map({"b": "1"}, 5))
        assert await result.state() == {"a": "1", "b": "1"}
        await first.event("DELETED", config_map({"a": "1"}, 6, "2"))
        assert await result.state() == {"a": "1", "b": "1"}
        await first.event("ADDED", config_map({"c": "1"}, 7, "2"))
        assert await result.state() == {"b": "1", "c": "1"}
        await first.event("MODIFIED", config_map({"c": "1"}, 8))
        assert await result.state() == {"c": "1"}


async def test_an_index_may_grow_while_it_is_watched(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await server.call(ONE)).list({"a": "1"})
        assert await result.state() == {"a": "1"}
        first = await watch_of(server, ONE)
        await first.event("MODIFIED", config_map({"a": "1"}, 2, "2"))
        assert await result.state() == {"a": "1"}
        await (await server.call(TWO)).list({"b": "1"})
        assert await result.state() == {"a": "1", "b": "1"}
        await first.event("MODIFIED", config_map({"a": "1"}, 3, "3"))
        assert await result.state() == {"a": "1", "b": "1"}
        await (await server.call("oauth-pool-2")).list(None)  # is not there yet
        assert await result.state() == {"a": "1", "b": "1"}


async def test_a_further_config_map_that_cannot_be_read_holds_up_no_news_of_the_others(server: ApiServer) -> None:
    """As with a Role that does not name it."""
    async with watching(server) as result:
        await (await server.call(ONE)).list({"a": "1"})
        first = await watch_of(server, ONE)
        await result.state()
        await first.event("MODIFIED", config_map({"a": "1"}, 2, "2"))
        await result.state()
        for _ in range(3):
            await (await server.call(TWO)).answer({}, 403)
        await first.event("MODIFIED", config_map({"a": "2"}, 3, "2"))
        assert await result.state() == {"a": "2"}
        await (await server.call(TWO)).list({"b": "1"})
        assert await result.state() == {"a": "2", "b": "1"}


async def test_trouble_with_one_config_map_is_not_the_others(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await server.call(ONE)).list({"a": "1"}, shards="2")
        await (await server.call(TWO)).list({"b": "1"})
        assert await result.state() == {"a": "1", "b": "1"}
        first, second = await watch_of(server, ONE), await watch_of(server, TWO)
        second.connection.abort()
        for _ in range(3):
            await (await server.call(TWO)).answer({}, 503)
        await first.event("MODIFIED", config_map({"a": "2"}, 2, "2"))
        assert await result.state() == {"a": "2", "b": "1"}
        await (await server.call(TWO)).list({"b": "2"})
        assert await result.state() == {"a": "2", "b": "2"}


@pytest.mark.parametrize("shards", ["", "1", "0", "-2", "two", "²", "1e3"])
async def test_a_number_of_config_maps_that_is_none_is_one(server: ApiServer, shards: str) -> None:
    async with watching(server) as result:
        await (await server.call()).list({"a": "1"}, shards=shards)
        assert await result.state() == {"a": "1"}
        assert (await server.call()).name == ONE


async def test_no_more_config_maps_are_followed_than_there_can_be(server: ApiServer) -> None:
    async with watching(server) as result:
        await (await server.call(ONE)).list({"a": "1"}, shards="1000000")
        for number in range(1, MOST_SHARDS):
            await (await server.call(f"{ONE}-{number}")).list({f"b{number}": "1"})
        assert len(await result.state()) == MOST_SHARDS
        for _ in range(MOST_SHARDS):
            assert (await server.call()).is_watch


async def test_the_index_is_as_old_as_its_oldest_part(server: ApiServer) -> None:
    async with watching(server) as result:
        assert (result.index.last_success, result.index.lists) == (None, 0)
        await (await server.call(ONE)).list({"a": "1"}, shards="2")
        listing = await server.call(TWO)
        assert (result.index.last_success, result.index.lists) == (None, 1)
        await listing.list({"b": "1"})
        await result.state()
        oldest = result.index.last_success
        assert oldest and result.index.lists == 2
        second = await watch_of(server, TWO)
        await second.event("MODIFIED", config_map({"b": "2"}, 5))
        await result.state()
        assert result.index.last_success == oldest


class Folder:
    def __init__(self, path: Path) -> None:
        self.path, self.states = path, list[State]()
        self.index = FolderIndex(path, lambda data: self.states.append(dict(data)))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "index").mkdir()
    return Folder(tmp_path / "index")


async def test_a_folder_is_read_when_it_changes_and_only_then(folder: Folder) -> None:
    (folder.path / "a").write_text("1")
    (folder.path / ".hidden").write_text("x")
    (folder.path / "subfolder").mkdir()
    await folder.index.poll()
    await folder.index.poll()
    assert folder.states == [{"a": "1"}]
    (folder.path / "b").write_text("2")
    await folder.index.poll()
    (folder.path / "a").unlink()
    await folder.index.poll()
    assert folder.states[1:] == [{"a": "1", "b": "2"}, {"b": "2"}]


async def test_a_mounted_config_map_is_swapped_as_a_whole(folder: Folder) -> None:
    """The kubelet's way: `..data` is a link to a hidden folder, and each key a link through it."""
    for version in ("1", "2"):
        hidden = folder.path / f"..version-{version}"
        hidden.mkdir()
        (hidden / "a").write_text(version)
    os.symlink("..version-1", folder.path / "..data")
    os.symlink("..data/a", folder.path / "a")
    await folder.index.poll()
    os.symlink("..version-2", folder.path / "..data-new")
    (folder.path / "..data-new").rename(folder.path / "..data")
    await folder.index.poll()
    assert folder.states == [{"a": "1"}, {"a": "2"}]


async def test_a_folder_that_goes_away_leaves_the_state_as_it_was(folder: Folder) -> None:
    (folder.path / "a").write_text("1")
    await folder.index.poll()
    folder.path.rename(folder.path.with_name("elsewhere"))
    await folder.index.poll()
    assert folder.states == [{"a": "1"}]
    folder.path.with_name("elsewhere").rename(folder.path)
    await folder.index.poll()
    assert folder.states == [{"a": "1"}]


async def test_an_empty_folder_is_an_index_that_is_gone(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    (folder.path / "a").write_text("1")
    await folder.index.poll()
    seen = folder.index.last_success
    (folder.path / "a").unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await folder.index.poll()
    assert [record.message for record in caplog.records if "index is gone" in record.message] == [caplog.messages[0]]
    assert (folder.states, folder.index.last_success) == ([{"a": "1"}], seen)
    (folder.path / "b").write_text("2")
    await folder.index.poll()
    assert folder.states == [{"a": "1"}, {"b": "2"}]


async def test_a_folder_that_was_empty_from_the_start_is_an_empty_pool(folder: Folder) -> None:
    await folder.index.poll()
    await folder.index.poll()
    assert folder.states == [{}]


async def test_a_mounted_config_map_without_data_names_no_account(folder: Folder) -> None:
    (folder.path / "..version-1").mkdir()
    (folder.path / "..data").symlink_to("..version-1")
    (folder.path / "..version-1" / "a").write_text("1")
    (folder.path / "a").symlink_to("..data/a")
    await folder.index.poll()
    (folder.path / "..version-1" / "a").unlink()
    (folder.path / "a").unlink()
    await folder.index.poll()
    assert folder.states == [{"a": "1"}, {}]


def test_waits_double_up_to_a_limit_with_some_chance_in_them() -> None:
    backoff = Backoff(1, 8)
    waits = [backoff.next() for _ in range(6)]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, [1, 2, 4, 8, 8, 8], strict=True))
    backoff.reset()
    assert backoff.next() <= 1
