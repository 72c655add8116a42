"""The pool index: what an entry says, and how changes become writes of the ConfigMap."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import msgspec
import pytest

from oauth_pool_operator import pool_index
from oauth_pool_operator.pool_index import Entry, IndexPublisher, render_entry
from tests.support.builders import account, credential, facts, report


def entry(name: str, **changes: object) -> Entry:
    rendered = render_entry(facts(account(name=name, uid=f"uid-of-{name}"), credential=credential()))
    return msgspec.structs.replace(rendered, **changes)


class ConfigMap:
    """An API server's ConfigMap, as far as the publisher can tell: each write takes a turn of the loop."""

    def __init__(self, data: Mapping[str, str] | None = None) -> None:
        self.data = dict(data or {})
        self.writes: list[set[str]] = []
        self.failures = 0

    async def read_index(self) -> dict[str, str]:
        return dict(self.data)

    async def write_index(self, changes: Mapping[str, str | None], *, whole: Mapping[str, str]) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        self.writes.append(set(changes))
        for key, value in changes.items():
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value
        assert self.data == whole  # what a ConfigMap that has to be made anew would hold


@asynccontextmanager
async def publisher(config_map: ConfigMap, accounts: set[str] | None = None) -> AsyncIterator[IndexPublisher]:
    published = IndexPublisher(config_map)
    await published.load(accounts if accounts is not None else set(config_map.data))
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
        assert config_map.data["a"] == msgspec.json.encode(entry("a")).decode()


async def test_what_becomes_dirty_together_is_written_together() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await asyncio.gather(*(index.publish(entry(f"account-{number}")) for number in range(500)))
    assert len(config_map.data) == 500
    assert len(config_map.writes) <= 3


async def test_what_is_there_already_is_not_written() -> None:
    config_map = ConfigMap({"a": msgspec.json.encode(entry("a")).decode()})
    async with publisher(config_map) as index:
        await index.publish(entry("a"))
    assert config_map.writes == []


async def test_the_last_of_two_changes_stays() -> None:
    config_map = ConfigMap()
    async with publisher(config_map) as index:
        await asyncio.gather(index.publish(entry("a")), index.publish(entry("a", priority=7)))
        assert msgspec.json.decode(config_map.data["a"])["priority"] == 7


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
    config_map = ConfigMap({"a": msgspec.json.encode(entry("a")).decode(), "ghost": "{}"})
    async with publisher(config_map, {"a"}) as index:
        await index.publish(entry("b"))
    assert set(config_map.data) == {"a", "b"}


async def test_an_index_that_cannot_be_read_does_not_hold_up_a_reconcile_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_index, "LOAD_SECONDS", 0.01)
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
