"""The pool index: what an entry says, and how changes become writes of the ConfigMap."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from oauth_pool_operator.account.index_entry import Entry, render_entry
from oauth_pool_operator.cluster import publisher as publishing
from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.shards import MOST_BYTES, MOST_SHARDS, PREFERRED_BYTES, NoRoom, Shards, room
from oauth_pool_operator.errors import IndexFull
from tests.support.builders import account, credential, facts, report


def entry(name: str, **changes: object) -> Entry:
    rendered = render_entry(facts(account(name=name, uid=f"uid-of-{name}"), credential=credential()))
    return msgspec.structs.replace(rendered, **changes)


def encoded(of: Entry) -> str:
    return msgspec.json.encode(of).decode()


class ConfigMap:
    """An API server's ConfigMaps, as far as the publisher can tell: each write takes a turn of the loop."""

    def __init__(self, data: Mapping[str, str] | None = None, **further: Mapping[str, str]) -> None:
        self.shards = {0: dict(data or {})} | {int(number[1:]): dict(shard) for number, shard in further.items()}
        self.writes: list[set[str]] = []
        self.written: list[tuple[int, set[str]]] = []  # the same, with the number of the ConfigMap
        self.announced = 1
        self.failures = 0
        self.is_being_written = False

    @property
    def data(self) -> dict[str, str]:
        return self.shards[0]

    @data.setter
    def data(self, data: dict[str, str]) -> None:
        self.shards[0] = data

    @property
    def keys(self) -> dict[int, set[str]]:
        return {shard: set(data) for shard, data in self.shards.items() if data}

    async def read_index(self, shard: int) -> SharedMap:
        return SharedMap(dict(self.shards.get(shard, {})), self.announced if shard == 0 else 1)

    async def write_index(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None:
        self.is_being_written = True
        await asyncio.sleep(0)
        self.is_being_written = False
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        self.writes.append(set(changes))
        self.written.append((shard, set(changes)))
        if shard == 0:
            self.announced = shards
        assert shard < self.announced  # or readers would not look there
        data = self.shards.setdefault(shard, {})
        for key, value in changes.items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
        assert data == whole or not changes  # what a ConfigMap that has to be made anew would hold


@asynccontextmanager
async def publisher(
    config_map: ConfigMap, accounts: set[str] | None = None, *, room_for: int = 1000, most: int = 1000
) -> AsyncIterator[IndexPublisher]:
    """`room_for` is how many accounts one ConfigMap is to take, `most` how many it may take if need be."""
    size = room("a", encoded(entry("a")))
    published = IndexPublisher(config_map, Shards(preferred_bytes=room_for * size, most_bytes=most * size))
    await published.load(accounts if accounts is not None else set().union(*config_map.keys.values()))
    task = asyncio.create_task(published.run())
    try:
        yield published
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_an_entry_without_a_token_says_so() -> None:
    rendered = render_entry(facts(account()))
    assert (rendered.status, rendered.generation, rendered.fingerprint) == ("LoginRequired", 0, "")
    assert (rendered.expires, rendered.cooldown_until, rendered.cooldown_seconds) == (None, None, 7200)


def test_an_entry_holds_no_secret() -> None:
    of = facts(account(reports=(report(until=timedelta(hours=1)),)), credential=credential())
    assert b"of-a-test" not in msgspec.json.encode(render_entry(of))


async def test_publishing_returns_when_it_is_written() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
        assert config_map.data["a"] == encoded(entry("a"))


async def test_what_becomes_dirty_together_is_written_together() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await asyncio.gather(*(index.publish(entry(f"account-{number}")) for number in range(500)))
    assert len(config_map.data) == 500
    assert len(config_map.writes) <= 3


async def test_what_is_there_already_is_not_written() -> None:
    config_map = ConfigMap({"a": encoded(entry("a"))})
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
    assert config_map.writes == []


async def test_the_last_of_two_changes_stays() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await asyncio.gather(index.publish(entry("a")), index.publish(entry("a", priority=7)))
        assert msgspec.json.decode(config_map.data["a"])["priority"] == 7


async def test_a_value_that_comes_back_while_another_is_being_written_is_there_in_the_end() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
        other = asyncio.create_task(index.publish(entry("a", priority=7)))
        while not config_map.is_being_written:  # noqa: ASYNC110 (the double tells nobody)
            await asyncio.sleep(0)
        await asyncio.gather(other, index.publish(entry("a")))
        assert config_map.data["a"] == encoded(entry("a"))


async def test_a_failed_write_is_the_publisher_s_caller_s_to_repeat() -> None:
    config_map = ConfigMap()
    config_map.failures = 1
    async with publisher(config_map) as index:
        with pytest.raises(ConnectionError):
            await index.publish(entry("a"))
        await index.publish(entry("a"))
    assert "a" in config_map.data


async def test_withdrawing_removes_this_object_s_key_and_no_other_s() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
        await index.withdraw(account(name="a", uid="uid-of-an-older-a"))
        assert "a" in config_map.data
        await index.withdraw(account(name="a", uid="uid-of-a"))
        assert "a" not in config_map.data
        await index.withdraw(account(name="a", uid="uid-of-a"))  # and once more is no mistake


async def test_a_key_that_is_not_an_entry_does_not_keep_an_account_from_going() -> None:
    config_map = ConfigMap({"a": "garbage"})
    async with publisher(config_map) as index:
        await index.withdraw(account(name="a", uid="uid-of-a"))
    assert config_map.data == {}


async def test_keys_without_an_account_go_at_the_start() -> None:
    config_map = ConfigMap({"a": encoded(entry("a")), "ghost": "{}"})
    async with publisher(config_map, {"a"}) as index:
        await index.publish(entry("b"))
    assert set(config_map.data) == {"a", "b"}


async def test_an_index_that_cannot_be_read_does_not_hold_up_a_reconcile_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "LOAD_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await IndexPublisher(ConfigMap()).publish(entry("a"))


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param({}, id="the ConfigMap is gone"),
        pytest.param({"a": "edited"}, id="a key was edited, another removed"),
        pytest.param({"ghost": "{}"}, id="a key was added"),
    ],
)
async def test_what_somebody_else_changed_is_written_again(drift: dict[str, str]) -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await asyncio.gather(index.publish(entry("a")), index.publish(entry("b")))
        right = dict(config_map.data)
        config_map.data = drift
        await index.repair()
        assert config_map.data == right


async def test_looking_at_an_index_in_order_writes_nothing() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
        await index.repair()
    assert len(config_map.writes) == 1


async def test_a_write_of_our_own_during_the_look_is_not_taken_for_somebody_else_s(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
        await asyncio.gather(index.repair(), index.publish(entry("a", priority=1)), index.repair())
        assert msgspec.json.decode(config_map.data["a"])["priority"] == 1
    assert "somebody else" not in caplog.text


# --- more accounts than one ConfigMap takes --------------------------------------------------------------------------


async def test_one_config_map_is_used_until_it_is_full_and_then_the_next() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=2) as index:
        for name in "abcde":
            await index.publish(entry(name))
    assert config_map.keys == {0: {"a", "b"}, 1: {"c", "d"}, 2: {"e"}}


async def test_an_account_stays_where_it_is_whatever_happens_to_it_and_to_others() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=2) as index:
        for name in "abc":
            await index.publish(entry(name))
        await index.withdraw(account(name="a", uid="uid-of-a"))
        await index.publish(entry("c", priority=7))
        assert config_map.keys == {0: {"b"}, 1: {"c"}}
        await index.publish(entry("d"))
        assert config_map.keys == {0: {"b", "d"}, 1: {"c"}}


async def test_an_account_that_comes_again_is_put_where_there_is_room_now() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        for name in "ab":
            await index.publish(entry(name))
        await index.withdraw(account(name="a", uid="uid-of-a"))
        for name in "ca":
            await index.publish(entry(name))
    assert config_map.keys == {0: {"c"}, 1: {"b"}, 2: {"a"}}


async def test_an_account_that_comes_again_while_the_one_before_goes_is_listed_once() -> None:
    config_map, next_uid = ConfigMap(), "uid-of-the-next-a"
    async with publisher(config_map, room_for=1) as index:
        await index.publish(entry("a"))
        going = index.withdraw(account(name="a", uid="uid-of-a"))
        await asyncio.gather(going, index.publish(entry("a", uid=next_uid)))
        await index.publish(entry("a", uid=next_uid, priority=1))
    assert config_map.keys == {0: {"a"}}


async def test_after_a_restart_everybody_is_where_they_were() -> None:
    of = {name: encoded(entry(name)) for name in "abc"}
    config_map = ConfigMap({"a": of["a"]}, _1={"c": of["c"]})
    async with publisher(config_map, room_for=2) as index:
        for name in "cab":
            await index.publish(entry(name, priority=1))
    assert config_map.keys == {0: {"a", "b"}, 1: {"c"}}


async def test_an_account_that_is_listed_twice_stays_in_the_first_place() -> None:
    value = encoded(entry("a"))
    config_map = ConfigMap(_1={"a": value}, _3={"a": value, "ghost": "{}"})
    async with publisher(config_map, {"a"}) as index:
        await index.publish(entry("a", priority=1))
        await index.publish(entry("b"))
    assert config_map.keys == {0: {"b"}, 1: {"a"}}


async def test_drift_in_any_config_map_is_written_again() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        for name in "ab":
            await index.publish(entry(name))
        config_map.shards[1] = {}
        await index.repair()
    assert config_map.keys == {0: {"a"}, 1: {"b"}}


async def test_a_config_map_that_cannot_be_written_costs_the_accounts_of_others_nothing() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        config_map.failures = 1
        results = await asyncio.gather(*(index.publish(entry(name)) for name in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, type(None)]
    assert config_map.keys == {1: {"b"}}


async def test_readers_hear_of_a_further_config_map_before_there_is_anything_in_it_and_it_is_never_taken_back() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        await index.publish(entry("a"))
        assert config_map.announced == 1
        await index.publish(entry("b"))  # the double looks that it is not written into before
        assert config_map.announced == 2
        await index.withdraw(account(name="b", uid="uid-of-b"))
        await index.publish(entry("a", priority=1))
        assert config_map.announced == 2
    async with publisher(config_map, room_for=1) as index:  # a restart
        await index.publish(entry("a", priority=2))
        assert config_map.announced == 2


async def test_a_further_config_map_that_cannot_be_announced_is_not_written() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        await index.publish(entry("a"))
        config_map.failures = 1
        with pytest.raises(ConnectionError):
            await index.publish(entry("b"))
        assert config_map.keys == {0: {"a"}}
        await index.publish(entry("b"))
    assert (config_map.keys, config_map.announced) == ({0: {"a"}, 1: {"b"}}, 2)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["while it runs", "before it starts"])
async def test_an_announcement_that_somebody_removes_is_written_again(is_restarted: bool) -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        for name in "ab":
            await index.publish(entry(name))
        config_map.announced = 1
        if not is_restarted:
            await index.repair()
    if is_restarted:
        async with publisher(config_map, room_for=1) as index:
            await index.repair()
    assert config_map.announced == 2


async def test_more_config_maps_than_there_are_may_be_announced_and_keys_in_them_are_removed() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
        config_map.announced, config_map.shards[2] = 3, {"ghost": "{}"}  # what somebody thought of
        await index.repair()
        await index.repair()
    assert (config_map.announced, config_map.keys) == (3, {0: {"a"}})


ALPHABET = "abcdefghijklmnopqrstuvwxyz"


async def test_when_all_are_as_full_as_they_should_be_they_grow_alike_and_nobody_moves() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1) as index:
        for name in ALPHABET[:MOST_SHARDS]:
            await index.publish(entry(name))
        small = config_map.keys
        for name in ALPHABET[MOST_SHARDS:]:
            await index.publish(entry(name))
        assert sorted(len(keys) for keys in config_map.keys.values()) == [2] * 4 + [3] * 6
        assert all(small[number] < keys for number, keys in config_map.keys.items())
        await index.withdraw(account(name="a", uid="uid-of-a"))
        await index.withdraw(account(name="k", uid="uid-of-k"))
        await index.publish(entry("0"))
        assert "0" in config_map.shards[0]  # the emptiest


async def test_an_index_without_room_says_so_and_takes_the_next_account_when_there_is_some() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=1, most=2) as index:
        for name in ALPHABET[: 2 * MOST_SHARDS]:
            await index.publish(entry(name))
        full = config_map.keys
        with pytest.raises(IndexFull, match=f"{2 * MOST_SHARDS} accounts in {MOST_SHARDS} ConfigMaps"):
            await index.publish(entry("x"))
        assert config_map.keys == full
        await index.publish(entry("a", priority=1))  # who is in stays in, and can change
        await index.withdraw(account(name="b", uid="uid-of-b"))
        await index.publish(entry("x"))
        assert set().union(*config_map.keys.values()) == {*ALPHABET[: 2 * MOST_SHARDS], "x"} - {"b"}


async def test_an_entry_that_grows_and_goes_leaves_the_room_that_it_took() -> None:
    """Counted wrong, a ConfigMap would fill up with nothing, or beyond what the API server takes."""
    config_map = ConfigMap()
    async with publisher(config_map, room_for=3) as index:
        for _ in range(20):
            await index.publish(entry("a"))
            await index.publish(entry("a", cooldown_until="2026-11-20T20:00:00Z", status="StorageUnavailable"))
            await index.withdraw(account(name="a", uid="uid-of-a"))
        for name in "bcde":
            await index.publish(entry(name))
    assert config_map.keys == {0: {"b", "c", "d"}, 1: {"e"}}


async def test_a_report_is_a_write_of_its_own_account_s_config_map_only() -> None:
    config_map = ConfigMap()
    async with publisher(config_map, room_for=2) as index:
        for name in "abcdef":
            await index.publish(entry(name))
        config_map.written.clear()
        await index.publish(entry("c", status="CoolingDown"))
        assert config_map.written == [(1, {"c"})]


@pytest.mark.parametrize("name", ["claude-1", "a" * 63], ids=["ordinary name", "longest name"])
async def test_no_config_map_gets_too_large_for_the_api_server(name: str) -> None:
    """Filled to the brim while each entry is at its shortest, and then each grows to its longest."""
    shards = Shards()
    short = msgspec.structs.replace(entry(name), generation=0, fingerprint="", expires=None, status="Available")
    longest = msgspec.structs.replace(
        entry(name),
        status="ServiceAccountTokenRefused",
        generation=10**6,
        fingerprint="0" * 16,
        expires="2026-11-20T20:00:00Z",
        cooldown_until="2026-11-20T20:00:00Z",
        max_concurrent_requests=1000,
        priority=-1000,
        weight=1000,
    )
    names: list[str] = []
    full = False
    while not full:
        names.append(f"{len(names):0{len(name)}}")
        try:
            shards.put(names[-1], encoded(msgspec.structs.replace(short, name=names[-1])))
        except NoRoom:
            full = True
    for one in names[:-1]:
        shards.put(one, encoded(msgspec.structs.replace(longest, name=one)))
    assert len(names) > 15_000
    for shard in shards:
        assert sum(len(key) + len(value) for key, value in shard.wanted.items()) < 2**20


@pytest.mark.parametrize(
    ("limit", "said"),
    [(PREFERRED_BYTES, 480), (MOST_SHARDS * PREFERRED_BYTES, 4_800), (MOST_SHARDS * MOST_BYTES, 21_500)],
)
def test_as_many_accounts_fit_as_the_documentation_says(limit: int, said: int) -> None:
    available = entry("account-00000", uid="3f8b7c1e-0000-4000-8000-000000000001", generation=17)
    benched = msgspec.structs.replace(available, status="CoolingDown", cooldown_until="2026-11-20T20:00:00Z")
    least, most = (limit // room(one.name, encoded(one)) for one in (benched, available))
    assert least <= said <= most
    assert f"{said:,}" in (Path(__file__).parents[3] / "docs/operator.md").read_text()
