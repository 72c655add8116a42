"""Access tokens that come sealed: which are opened and when, what is reported, and when the pool is ready. Time is passed by hand."""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from oauth_pool_proxy.pool import sealed_tokens
from oauth_pool_proxy.pool.account import Account
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.key_pair import KeyPair
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.sealed_entry import open_entry
from oauth_pool_proxy.pool.sealed_tokens import SealedTokens
from tests.support.proxy_server import NOW, Clock, index_entry, rfc3339, token_of, until
from tests.support.sealing import new_key, sealed_entry

POD = "proxy-0"


class Setting:
    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        private, self.public = new_key()
        self.pool, self.clock = Pool(), clock
        self.tokens = SealedTokens(self.pool, POD, KeyPair(private), clock, clock)
        self.doubts = 0
        self.held_told: list[int] = []
        self.tokens.on_held = self.held_told.append
        self.tokens.on_doubt = self._doubt
        self.looked_at: list[str] = []
        """The names of the accounts whose entries were decoded."""

        def watched(text: str, account: Account, pod: str, keys: KeyPair) -> object:
            self.looked_at.append(account.name)
            return open_entry(text, account, pod, keys)

        monkeypatch.setattr(sealed_tokens, "open_entry", watched)

    def _doubt(self) -> None:
        self.doubts += 1

    def index(self, *entries: dict[str, object]) -> None:
        self.pool.replace([msgspec.convert(entry, IndexEntry) for entry in entries])
        self.tokens.index_changed()

    def sealed(self, name: str, generation: int = 1, **changes: object) -> str:
        return sealed_entry(name, {POD: self.public, "proxy-1": new_key()[1]}, generation, **changes)  # type: ignore[arg-type]

    async def read(self, *parts: Mapping[str, str]) -> float | None:
        self.tokens.parts_changed(parts)
        return await self.tokens.open_due()

    @property
    def held(self) -> dict[str, str]:
        return {account.name: account.token.value for account in self.pool.accounts if account.token}

    def unopened(self) -> dict[str, int]:
        return {reason: count for reason, count in self.tokens.unopened().items() if count}


@pytest.fixture
def setting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(clock, monkeypatch)


async def test_what_the_index_says_is_opened_and_nothing_is_due_then(setting: Setting) -> None:
    setting.index(index_entry("a", generation=17), index_entry("b"), index_entry("c", generation=0))
    entries = {"a": setting.sealed("a", 17), "b": setting.sealed("b"), "stranger": setting.sealed("stranger")}
    assert await setting.read(entries) is None
    assert setting.held == {"a": token_of("a", 17), "b": token_of("b")}
    assert (setting.pool.is_ready, setting.unopened(), setting.held_told) == (True, {}, [2])


async def test_an_entry_whose_text_has_not_changed_is_not_decoded_again(setting: Setting) -> None:
    setting.index(index_entry("a"), index_entry("b"), index_entry("c"))
    entries = {"a": setting.sealed("a"), "b": setting.sealed("b", 2)}
    await setting.read(entries)
    assert setting.looked_at == ["a", "b"]
    for _ in range(3):
        await setting.read(dict(entries), {"else": "{}"})
    setting.index(index_entry("a", priority=7), index_entry("b", priority=7), index_entry("c", priority=7))
    await setting.read({**entries, "c": setting.sealed("c")})
    assert setting.looked_at == ["a", "b", "c"]


async def test_the_old_token_is_used_while_the_index_is_ahead(setting: Setting) -> None:
    setting.index(index_entry("a", generation=1))
    await setting.read({"a": setting.sealed("a", 1)})
    setting.index(index_entry("a", generation=2))
    assert await setting.tokens.open_due() == setting.clock.now + 90
    assert (setting.held, setting.unopened()) == ({"a": token_of("a", 1)}, {"other_token": 1})
    assert await setting.read({"a": setting.sealed("a", 2)}) is None
    assert setting.held == {"a": token_of("a", 2)}


async def test_a_token_that_is_ahead_of_the_index_waits_for_it(setting: Setting) -> None:
    setting.index(index_entry("a", generation=1))
    await setting.read({"a": setting.sealed("a", 1)})
    await setting.read({"a": setting.sealed("a", 2)})
    assert setting.held == {"a": token_of("a", 1)}
    setting.index(index_entry("a", generation=2))
    assert await setting.tokens.open_due() is None
    assert setting.held == {"a": token_of("a", 2)}


async def test_generations_may_start_again_when_the_operator_says_so(setting: Setting) -> None:
    setting.index(index_entry("a", generation=17))
    await setting.read({"a": setting.sealed("a", 17)})
    setting.index(index_entry("a", generation=1))
    await setting.read({"a": setting.sealed("a", 1)})
    assert setting.held == {"a": token_of("a", 1)}


@pytest.mark.parametrize("stale_first", [True, False])
async def test_an_account_may_stand_in_two_config_maps_and_either_may_be_the_old_one(
    stale_first: bool, setting: Setting
) -> None:
    setting.index(index_entry("a", generation=2))
    stale, current = {"a": setting.sealed("a", 1)}, {"a": setting.sealed("a", 2)}
    assert await setting.read(*((stale, current) if stale_first else (current, stale))) is None
    assert setting.held == {"a": token_of("a", 2)}


async def test_of_two_old_ones_the_reason_is_that_of_the_one_that_came_closest(setting: Setting) -> None:
    setting.index(index_entry("a", generation=2))
    for_others = sealed_entry("a", {"proxy-1": setting.public}, 2)
    await setting.read({"a": for_others}, {"a": setting.sealed("a", 1)}, {"a": "{}"})
    assert (setting.held, setting.unopened()) == ({}, {"not_sealed": 1})


async def test_one_account_s_trouble_is_not_another_s(setting: Setting) -> None:
    names = ["good", "absent", "broken", "others", "stolen", "late"]
    setting.index(*map(index_entry, names))
    entries = {
        "good": setting.sealed("good"),
        "broken": "{",
        "others": sealed_entry("others", {"proxy-1": setting.public}),
        "stolen": sealed_entry("stolen", {POD: new_key()[1]}),
        "late": setting.sealed("late", 7),
    }
    await setting.read(entries)
    assert setting.held == {"good": token_of("good")}
    assert setting.unopened() == {"missing": 1, "invalid": 1, "other_token": 1, "not_sealed": 1, "other_key": 1}
    assert setting.pool.is_ready


async def test_a_token_that_does_not_come_is_complained_about_once_and_taken_when_it_comes(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.index(index_entry("a"))
    with caplog.at_level(logging.WARNING):
        await setting.read({"a": sealed_entry("a", {})})
        setting.clock.advance(89)
        await setting.tokens.open_due()
        assert caplog.records == []
        for _ in range(3):
            setting.clock.advance(1)
            await setting.tokens.open_due()
    (record,) = caplog.records
    assert record.message == "access token is late"
    assert record.__dict__["fields"]["error"] == "the operator has not sealed it to this proxy"
    await setting.read({"a": setting.sealed("a")})
    assert setting.held == {"a": token_of("a")}


@pytest.mark.parametrize(
    ("keys", "doubts"), [({}, 1), ({"proxy-1": b"own"}, 1), ({POD: b"other"}, 1), ({POD: b"own"}, 0)]
)
async def test_an_operator_that_does_not_know_the_key_is_doubted_once_for_each_news(
    keys: dict[str, bytes], doubts: int, setting: Setting
) -> None:
    setting.index(index_entry("a"))
    kinds = {b"own": setting.public, b"other": new_key()[1]}
    entries = {"a": sealed_entry("a", {pod: kinds[kind] for pod, kind in keys.items()})}
    await setting.read(entries)
    await setting.read(entries)
    assert setting.doubts == doubts


async def test_it_is_doubted_again_when_the_token_is_late(setting: Setting) -> None:
    setting.index(index_entry("a"))
    await setting.read({"a": setting.sealed("a", 2)})
    assert setting.doubts == 0
    setting.clock.advance(90)
    await setting.tokens.open_due()
    assert setting.doubts == 1


async def test_after_a_401_what_is_there_is_opened_without_waiting(setting: Setting) -> None:
    setting.index(index_entry("a"))
    await setting.read({"a": setting.sealed("a")})
    account = setting.pool.accounts[0]
    refused = account.token
    assert refused is not None
    assert not await setting.tokens.reread(account, refused)
    setting.tokens.parts_changed([{"a": setting.sealed("a", 2)}])
    assert not await setting.tokens.reread(account, refused)  # the index does not say so
    setting.index(index_entry("a", generation=2))
    assert await setting.tokens.reread(account, refused)
    assert await setting.tokens.reread(account, refused)
    assert setting.held == {"a": token_of("a", 2)}


async def test_an_account_that_is_gone_is_neither_opened_nor_missed(setting: Setting) -> None:
    setting.index(index_entry("a"), index_entry("b"))
    await setting.read({"a": setting.sealed("a")})
    setting.index()
    assert await setting.read({"a": setting.sealed("a"), "b": setting.sealed("b")}) is None
    assert (setting.held, setting.held_told) == ({}, [1, 0])


class TestReadiness:
    async def test_a_pool_in_which_no_account_has_a_token_is_ready_at_once(self, setting: Setting) -> None:
        setting.index(index_entry("a", generation=0), index_entry("b", expires=rfc3339(NOW - 1)))
        await setting.tokens.open_due()
        assert setting.pool.is_ready

    async def test_before_the_index_was_read_nothing_is_known(self, setting: Setting) -> None:
        await setting.read({"a": setting.sealed("a")})
        assert not setting.pool.is_ready and "index" in setting.pool.waits_for

    async def test_before_the_tokens_were_read_it_is_not_ready(self, setting: Setting) -> None:
        setting.index(index_entry("a"))
        await setting.tokens.open_due()
        assert (setting.pool.is_ready, setting.pool.waits_for) == (
            False,
            "the sealed access tokens have not been read yet",
        )

    @pytest.mark.parametrize(
        "entries", [{}, {"a": sealed_entry("a", {"proxy-1": new_key()[1]})}], ids=["none", "others'"]
    )
    async def test_a_proxy_to_which_nothing_is_sealed_is_not_ready_and_says_so(
        self, entries: dict[str, str], setting: Setting
    ) -> None:
        setting.index(index_entry("a"))
        assert await setting.read(entries) == setting.clock.now + 30
        assert not setting.pool.is_ready
        assert "the operator has not sealed it" in setting.pool.waits_for

    async def test_one_that_is_opened_is_enough_and_ready_it_stays(self, setting: Setting) -> None:
        setting.index(index_entry("a"), index_entry("b"))
        await setting.read({"a": setting.sealed("a")})
        assert setting.pool.is_ready
        setting.index(index_entry("b"))
        await setting.tokens.open_due()
        assert (setting.held, setting.pool.is_ready) == ({}, True)

    async def test_tokens_that_end_while_it_waits_are_waited_for_no_longer(self, setting: Setting) -> None:
        setting.index(index_entry("a", expires=rfc3339(NOW + 10)))
        await setting.read({})
        assert not setting.pool.is_ready
        setting.clock.advance(30)
        await setting.tokens.open_due()
        assert setting.pool.is_ready


async def test_while_many_are_opened_others_have_their_turn(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time at all for one turn, there is one for each token."""
    monkeypatch.setattr(sealed_tokens, "SLICE_SECONDS", 0)
    names = [f"account-{number}" for number in range(50)]
    setting.index(*map(index_entry, names))
    setting.tokens.parts_changed([{name: setting.sealed(name) for name in names}])
    opening = asyncio.create_task(setting.tokens.open_due())
    seen = []
    while not opening.done():
        await asyncio.sleep(0)
        seen.append(len(setting.held))
    assert seen[:40] == sorted(set(seen[:40]))
    assert len(setting.held) == len(names)


async def test_what_changes_while_others_have_their_turn_is_looked_at_then(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_tokens, "SLICE_SECONDS", 0)
    setting.index(*map(index_entry, "abc"))
    setting.tokens.parts_changed([{name: setting.sealed(name) for name in "abc"}])
    running = asyncio.create_task(setting.tokens.run())
    await asyncio.sleep(0)
    setting.index(index_entry("b", generation=2))
    setting.tokens.parts_changed([{"b": setting.sealed("b", 2)}])
    await until(lambda: setting.held == {"b": token_of("b", 2)}, "the one of the new index")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_nothing_secret_is_in_what_is_logged_or_shown(
    setting: Setting, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    setting.index(index_entry("a"), index_entry("b"), index_entry("c"))
    entry = json.loads(setting.sealed("b"))
    entry["sealed"][POD] = json.loads(setting.sealed("b", 3))["sealed"][POD]
    with caplog.at_level(logging.DEBUG):
        await setting.read({"a": setting.sealed("a"), "b": json.dumps(entry), "c": '{"version":1,"hush":'})
        setting.clock.advance(100)
        await setting.tokens.open_due()
    assert setting.unopened() == {"refused": 1, "invalid": 1}
    shown = "".join(str(record.__dict__) for record in caplog.records) + repr(setting.pool.accounts[0].token)
    for secret in (token_of("a"), token_of("b", 3), "hush", entry["sealed"][POD]["box"]):
        assert secret not in shown
