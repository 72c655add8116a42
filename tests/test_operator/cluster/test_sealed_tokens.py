"""Sealed tokens: who has which after what has happened, and what is written for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest

from oauth_pool_operator.account.documents import AccessFile
from oauth_pool_operator.cluster import hpke, sealed_tokens
from oauth_pool_operator.cluster.config_maps import SharedMap
from oauth_pool_operator.cluster.proxies import Proxies
from oauth_pool_operator.cluster.sealed_tokens import SealedTokens
from oauth_pool_operator.cluster.shards import MOST_SHARDS, Shards, room
from oauth_pool_operator.cluster.token_entry import Token, sealed, written
from oauth_pool_operator.errors import TokensFull
from tests.support.builders import account
from tests.support.declared_proxies import DeclaredProxy

NAMES = [f"claude-{number}" for number in range(5)]


class ConfigMaps:
    """An API server's, as far as the publisher can tell: each write takes a turn of the loop."""

    def __init__(self) -> None:
        self.shards: dict[int, dict[str, str]] = {}
        self.writes: list[
            tuple[int, set[str], set[str]]
        ] = []  # number, keys that are there afterwards, keys that are gone
        self.announced = 1
        self.failures = 0

    @property
    def data(self) -> dict[str, str]:
        """The union; of a key that is there twice, the first."""
        union: dict[str, str] = {}
        for _, shard in sorted(self.shards.items(), reverse=True):
            union |= shard
        return union

    async def read_tokens(self, shard: int) -> SharedMap:
        return SharedMap(dict(self.shards.get(shard, {})), self.announced if shard == 0 else 1)

    async def write_tokens(
        self, shard: int, changes: Mapping[str, str | None], *, whole: Mapping[str, str], shards: int
    ) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise httpx2.ConnectError("no API server")
        data = self.shards.setdefault(shard, {})
        for key, value in changes.items():
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
        if shard == 0:
            self.announced = shards
        assert shard < self.announced
        put = {key for key, value in changes.items() if value is not None}
        self.writes.append((shard, put, set(changes) - put))


class World:
    """The operator's part, and the proxies; `sealed` counts how many boxes were made."""

    def __init__(self, maps: ConfigMaps, shards: Shards | None = None) -> None:
        self.maps, self.sealed = maps, 0
        self.proxies = Proxies(hpke.is_usable)
        self.tokens = SealedTokens(maps, self.proxies, self._seal, shards)
        self.news: list[str] = []
        self.tokens.on_news = self.news.append

    def _seal(self, public_key: bytes, plaintext: bytes, aad: bytes) -> bytes:
        self.sealed += 1
        return hpke.seal(public_key, plaintext, aad)

    def join(self, *declared: DeclaredProxy) -> None:
        for one in declared:
            self.proxies.observe("ADDED", one.observed)

    def leave(self, *declared: DeclaredProxy) -> None:
        for one in declared:
            self.proxies.observe("DELETED", one.observed)

    async def publish(self, name: str, generation: int = 1, *, padding: int = 0) -> None:
        await self.tokens.publish(account(name=name, uid=f"uid-of-{name}"), access(name, generation, padding=padding))

    async def withdraw(self, name: str, uid: str | None = None) -> None:
        await self.tokens.withdraw(account(name=name, uid=uid or f"uid-of-{name}"))

    async def until(self, *facts: Callable[[], bool]) -> None:
        """Until each of these functions says yes."""
        async with asyncio.timeout(20):
            while not all(fact() for fact in facts):  # noqa: ASYNC110 (what they look at tells nobody)
                await asyncio.sleep(0.001)


def access(name: str, generation: int = 1, *, padding: int = 0) -> AccessFile:
    return AccessFile(generation, f"access-token-{generation}-of-{name}" + "x" * padding, "2026-11-20T20:00:00Z")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_tokens, "JOIN_SECONDS", 0.01)
    monkeypatch.setattr(sealed_tokens, "LEAVE_SECONDS", 0.02)


@asynccontextmanager
async def world(
    maps: ConfigMaps, *declared: DeclaredProxy, names: list[str] = NAMES, shards: Shards | None = None
) -> AsyncIterator[World]:
    """One life of the operator, with these proxies; `names` are the accounts that exist."""
    of = World(maps, shards)
    of.join(*declared)
    await of.tokens.load(set(names))
    task = asyncio.create_task(of.tokens.run())
    try:
        yield of
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def has(maps: ConfigMaps, one: DeclaredProxy, name: str, generation: int = 1) -> bool:
    token = one.opened(maps.data.get(name))
    return token is not None and token["access_token"].startswith(access(name, generation).access_token)


def pods(maps: ConfigMaps, name: str) -> list[str]:
    return list(json.loads(maps.data[name])["sealed"])


async def test_publishing_returns_when_every_proxy_can_open_the_token() -> None:
    maps, proxies = ConfigMaps(), [DeclaredProxy("proxy-0"), DeclaredProxy("proxy-1")]
    async with world(maps, *proxies) as w:
        await w.publish("claude-0")
        assert [has(maps, one, "claude-0") for one in proxies] == [True, True]
        await w.publish("claude-0", 2)
        assert [has(maps, one, "claude-0", 2) for one in proxies] == [True, True]
        assert len(maps.writes) == 2


async def test_what_is_published_already_is_neither_sealed_nor_written_again() -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one) as w:
        for _ in range(3):
            await w.publish("claude-0")
        assert (len(maps.writes), w.sealed) == (1, 1)


async def test_without_a_proxy_nothing_is_written() -> None:
    maps = ConfigMaps()
    async with world(maps) as w:
        await w.publish("claude-0")
    assert (maps.writes, w.sealed) == ([], 0)


async def test_a_proxy_that_joins_has_all_tokens_after_one_write() -> None:
    maps, old, new = ConfigMaps(), DeclaredProxy("proxy-0"), DeclaredProxy("proxy-1")
    async with world(maps, old) as w:
        await asyncio.gather(*(w.publish(name) for name in NAMES))
        maps.writes.clear()
        w.join(new)
        await w.until(lambda: all(has(maps, new, name) for name in NAMES))
        assert all(has(maps, old, name) for name in NAMES)
        assert (len(maps.writes), w.sealed) == (1, 2 * len(NAMES))


async def test_proxies_that_join_together_are_one_write() -> None:
    maps, crowd = ConfigMaps(), [DeclaredProxy(f"proxy-{number}") for number in range(20)]
    async with world(maps) as w:
        await asyncio.gather(*(w.publish(name) for name in NAMES))
        w.join(*crowd)
        await w.until(lambda: all(has(maps, one, name) for one in crowd for name in NAMES))
    assert len(maps.writes) == 1


async def test_what_is_of_a_proxy_that_is_gone_goes_and_the_others_keep_theirs() -> None:
    maps, stays, goes = ConfigMaps(), DeclaredProxy("stays"), DeclaredProxy("goes")
    async with world(maps, stays, goes) as w:
        await w.publish("claude-0")
        before = json.loads(maps.data["claude-0"])["sealed"]["stays"]
        w.leave(goes)
        await w.until(lambda: pods(maps, "claude-0") == ["stays"])
        assert json.loads(maps.data["claude-0"])["sealed"]["stays"] == before
        w.leave(stays)
        await w.until(lambda: maps.data == {})


async def test_a_proxy_with_a_new_key_has_all_tokens_for_that() -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one) as w:
        await w.publish("claude-0")
        one.renew_key()
        w.proxies.observe("MODIFIED", one.observed)
        await w.until(lambda: has(maps, one, "claude-0"))


async def test_a_token_that_is_withdrawn_is_in_no_entry() -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one) as w:
        await w.publish("claude-0")
        await w.withdraw("claude-0", "uid-of-an-older-one")
        assert has(maps, one, "claude-0")
        await w.withdraw("claude-0")
        await w.withdraw("claude-0")  # and once more is no mistake
        assert maps.data == {}
        w.join(DeclaredProxy("proxy-1"))
        await w.publish("claude-1")
        assert maps.data.keys() == {"claude-1"}


async def test_a_restart_seals_nothing_and_writes_nothing() -> None:
    maps, proxies = ConfigMaps(), [DeclaredProxy("proxy-0"), DeclaredProxy("proxy-1")]
    async with world(maps, *proxies) as w:
        await asyncio.gather(*(w.publish(name) for name in NAMES))
    maps.writes.clear()
    async with world(maps, *proxies) as w:
        await asyncio.gather(*(w.publish(name) for name in reversed(NAMES)))
        await w.tokens.repair()
        assert (maps.writes, w.sealed) == ([], 0)


async def test_after_a_restart_what_is_gone_goes_also_of_accounts_that_were_not_looked_at_yet() -> None:
    maps, stays, goes = ConfigMaps(), DeclaredProxy("stays"), DeclaredProxy("goes")
    async with world(maps, stays, goes) as w:
        await asyncio.gather(*(w.publish(name) for name in NAMES))
    async with world(maps, stays, names=NAMES[1:]) as w:
        await w.until(
            lambda: maps.data.keys() == set(NAMES[1:]), lambda: {*map(len, map(_pods(maps), NAMES[1:]))} == {1}
        )
        assert w.sealed == 0


def _pods(maps: ConfigMaps) -> Any:
    return lambda name: pods(maps, name)


async def test_a_token_that_was_replaced_while_no_operator_ran_is_sealed_anew() -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one) as w:
        await w.publish("claude-0", 2)
        rollback = dict(maps.shards[0])
        await w.publish("claude-0", 3)
    maps.shards[0] = rollback
    async with world(maps, one) as w:
        await w.publish("claude-0", 3)
        assert has(maps, one, "claude-0", 3)


@pytest.mark.parametrize(
    "rubbish",
    [
        {},
        {"claude-0": "rubbish"},
        {"claude-0": "{}", "ghost": "x"},
        {"claude-0": '{"version":1,"name":"claude-1","uid":"u","generation":1,"fingerprint":"","sealed":{}}'},
    ],
    ids=["deleted", "rubbish", "and a ghost", "an entry of another name"],
)
@pytest.mark.parametrize("is_restarted", [False, True], ids=["while it runs", "while no operator runs"])
async def test_what_somebody_else_put_there_is_written_again(rubbish: dict[str, str], is_restarted: bool) -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one) as w:
        await w.publish("claude-0")
        await w.publish("claude-1")
        if not is_restarted:
            maps.shards[0] = dict(rubbish)
            async with asyncio.timeout(10):
                while maps.data == rubbish:
                    await w.tokens.repair()  # a look that meets a write of our own leaves it to the next one
    if is_restarted:
        maps.shards[0] = rubbish
        async with world(maps, one) as w:
            w.join(DeclaredProxy("proxy-1"))  # what is no entry is of no use to anybody, and stops nobody
            await w.publish("claude-0")
            await w.publish("claude-1")
            await w.until(lambda: "ghost" not in maps.data)
    assert all(has(maps, one, name) for name in ("claude-0", "claude-1"))


async def test_rubbish_under_the_name_of_an_account_without_a_token_goes() -> None:
    maps = ConfigMaps()
    maps.shards[0] = {"claude-0": "rubbish"}
    async with world(maps) as w:
        await w.withdraw("claude-0")
    assert maps.data == {}


async def test_a_write_that_fails_is_told_to_whoever_published_and_repeated_for_who_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps, old, new = ConfigMaps(), DeclaredProxy("proxy-0"), DeclaredProxy("proxy-1")
    async with world(maps, old) as w:
        maps.failures = 1
        with pytest.raises(httpx2.ConnectError):
            await w.publish("claude-0")
        await w.publish("claude-0")
        maps.failures = 1
        w.join(new)
        await w.until(lambda: has(maps, new, "claude-0"))


async def test_nothing_is_published_before_the_load_and_not_after_the_lease_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("oauth_pool_operator.cluster.publisher.LOAD_SECONDS", 0.01)
    maps, new = ConfigMaps(), DeclaredProxy("proxy-1")
    async with world(maps, DeclaredProxy("proxy-0")) as w:
        await w.publish("claude-0")
        w.tokens.unload()
        with pytest.raises(TimeoutError):
            await w.publish("claude-1")
        w.join(new)
        await asyncio.sleep(0.1)  # more than it takes to notice
        assert len(maps.writes) == 1
        await w.tokens.load(set(NAMES))
        await w.publish("claude-0")
        assert has(maps, new, "claude-0")


async def test_a_token_from_before_another_operator_led_is_not_sealed_again() -> None:
    maps, one, new = ConfigMaps(), DeclaredProxy("proxy-0"), DeclaredProxy("proxy-1")
    async with world(maps, one) as w:
        await w.publish("claude-0")
        w.tokens.unload()
        async with world(maps, one) as other:
            await other.publish("claude-0", 2)
        await w.tokens.load(set(NAMES))
        w.join(new)
        await w.publish("claude-1")
        await w.until(lambda: has(maps, new, "claude-1"))
        assert has(maps, one, "claude-0", 2)


# --- more than fits --------------------------------------------------------------------------------------------------


def roomy(proxies: int) -> Shards:
    """ConfigMaps that each take one account for so many proxies."""
    of = World(ConfigMaps())
    of.join(*(DeclaredProxy(f"proxy-{number}") for number in range(proxies)))
    token = Token("claude-00", "uid-of-claude-00", access("claude-00"))
    size = room("claude-00", written(sealed(token, of.proxies.served, None, hpke.seal)))
    return Shards(preferred_bytes=size, most_bytes=size, may_move=True)


async def test_an_entry_that_outgrows_its_config_map_is_written_elsewhere_first_and_then_removed() -> None:
    maps, proxies = ConfigMaps(), [DeclaredProxy(f"proxy-{number}") for number in range(2)]
    names = [f"claude-{number:02}" for number in range(6)]
    async with world(maps, proxies[0], names=names, shards=roomy(4)) as w:
        await asyncio.gather(*(w.publish(name) for name in names))
        assert [len(data) for data in maps.shards.values()] == [2, 2, 2]
        maps.writes.clear()
        w.join(proxies[1])
        await w.until(lambda: [len(data) for data in maps.shards.values()] == [1] * 6)
        assert all(has(maps, one, name) for one in proxies for name in names)
    moved = {key for _, _, gone in maps.writes for key in gone}
    assert len(moved) == 3
    for key in moved:
        put = next(number for number, (_, keys, _) in enumerate(maps.writes) if key in keys)
        gone = next(number for number, (_, _, keys) in enumerate(maps.writes) if key in keys)
        assert put < gone


async def test_a_move_that_fails_halfway_is_ended_later() -> None:
    maps, proxies = ConfigMaps(), [DeclaredProxy(f"proxy-{number}") for number in range(2)]
    names = ["claude-00", "claude-01"]
    async with world(maps, proxies[0], names=names, shards=roomy(4)) as w:
        await asyncio.gather(*(w.publish(name) for name in names))
        maps.failures = 2
        w.join(proxies[1])
        await w.until(lambda: [len(data) for data in maps.shards.values()] == [1, 1])
        assert all(has(maps, one, name) for one in proxies for name in names)


async def test_an_entry_that_a_crash_left_in_two_places_is_in_one_after_the_restart() -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one) as w:
        await w.publish("claude-0")
        old = dict(maps.shards[0])
        await w.publish("claude-0", 2)
    maps.shards[0], maps.shards[1], maps.announced = old, maps.shards[0], 2
    async with world(maps, one) as w:
        await w.publish("claude-0", 2)
        await w.until(lambda: not maps.shards[1])
        assert has(maps, one, "claude-0", 2)


async def test_when_nothing_fits_the_oldest_proxies_keep_getting_tokens_and_the_account_says_how_many_lack_it() -> None:
    maps, proxies = ConfigMaps(), [DeclaredProxy(f"proxy-{number}") for number in range(3)]
    names = [f"claude-{number:02}" for number in range(MOST_SHARDS)]
    async with world(maps, *proxies[:2], names=names, shards=roomy(2)) as w:
        await asyncio.gather(*(w.publish(name) for name in names))
        w.join(proxies[2])
        await w.until(lambda: len(w.news) == len(names))  # they are looked at, and say so
        with pytest.raises(TokensFull, match=r"10 accounts times 3 proxies .* 1 of the proxies lack") as full:
            await w.publish(names[0], 2)
        assert not full.value.nobody_has_it
        assert [has(maps, one, names[0], 2) for one in proxies] == [True, True, False]
        w.leave(proxies[0])
        await w.until(lambda: all(has(maps, proxies[2], name) for name in names[1:]))
        await w.publish(names[0], 3)
        assert len(w.news) == 2 * len(names)


async def test_an_account_that_fits_for_nobody_keeps_the_token_that_it_has() -> None:
    maps, one = ConfigMaps(), DeclaredProxy("proxy-0")
    async with world(maps, one, shards=roomy(1)) as w:
        await w.publish("claude-0")
        with pytest.raises(TokensFull) as full:
            await w.publish("claude-0", 2, padding=1000)
        assert full.value.nobody_has_it
        assert has(maps, one, "claude-0", 1)
        with pytest.raises(TokensFull):
            await w.publish("claude-1", padding=1000)
        assert maps.data.keys() == {"claude-0"}


async def test_the_token_that_proxies_may_use_is_known() -> None:
    async with world(ConfigMaps()) as w:
        await w.publish("claude-0", 7)
        assert await w.tokens.held("uid-of-claude-0") == access("claude-0", 7)
        await w.withdraw("claude-0")
        assert await w.tokens.held("uid-of-claude-0") is None
