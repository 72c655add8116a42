"""Access tokens from files: new generations, late files, broken files. Time is passed by hand."""

import asyncio
import hashlib
import json
import logging
import os
import traceback
from pathlib import Path

import msgspec
import pytest

from oauth_pool_proxy.errors import TokenFileInvalid
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.pool import Account, Pool
from oauth_pool_proxy.pool.token_files import TokenFiles, fingerprint_of, read_token_file
from tests.support.proxy_server import NOW, Clock, PoolFolder, index_entry, token_of, until


class Setting:
    def __init__(self, root: Path, clock: Clock) -> None:
        self.folder, self.pool, self.clock = PoolFolder(root), Pool(), clock
        self.files = TokenFiles(self.folder.access, self.pool, clock, wall_clock=clock)

    def index(self, *entries: dict[str, object]) -> None:
        self.pool.replace([msgspec.convert(entry, IndexEntry) for entry in entries])
        self.files.index_changed()

    @property
    def account(self) -> Account:
        return self.pool.accounts[0]

    @property
    def held(self) -> str | None:
        return self.account.token.value if self.account.token else None


@pytest.fixture
def setting(tmp_path: Path, clock: Clock) -> Setting:
    return Setting(tmp_path, clock)


async def test_the_file_that_is_there_is_read_at_once_and_nothing_is_due_then(setting: Setting) -> None:
    setting.folder.write_token("a", 17)
    setting.index(index_entry("a", generation=17))
    assert await setting.files.look() is None
    assert setting.held == token_of("a", 17)
    assert setting.pool.is_ready


async def test_a_late_file_is_looked_for_with_growing_pauses_while_the_old_token_is_used(setting: Setting) -> None:
    setting.folder.write_token("a", 1)
    setting.index(index_entry("a", generation=1))
    await setting.files.look()
    setting.index(index_entry("a", generation=2))
    pauses = []
    for _ in range(6):
        due = await setting.files.look()
        assert due is not None and setting.held == token_of("a", 1)
        pauses.append(due - setting.clock.now)
        setting.clock.now = due
    assert pauses == [0.5, 1, 2, 4, 5, 5]
    setting.folder.write_token("a", 2)
    assert await setting.files.look() is None
    assert setting.held == token_of("a", 2)


async def test_a_file_that_does_not_come_is_complained_about_once_and_still_looked_for(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.index(index_entry("a", generation=1))
    with caplog.at_level(logging.WARNING):
        for _ in range(40):
            due = await setting.files.look()
            assert due is not None
            pause, setting.clock.now = due - setting.clock.now, due
    assert pause == 30
    assert [record.message for record in caplog.records] == ["access token is late"]
    setting.folder.write_token("a", 1)
    assert await setting.files.look() is None


async def test_an_older_file_is_better_than_none_and_a_file_ahead_of_the_index_better_still(setting: Setting) -> None:
    setting.folder.write_token("a", 4)
    setting.index(index_entry("a", generation=5))
    assert await setting.files.look() is not None
    assert setting.held == token_of("a", 4)
    setting.folder.write_token("a", 6)
    setting.clock.advance(1)
    assert await setting.files.look() is not None  # not what the index says, so there is something to come
    assert setting.held == token_of("a", 6)
    setting.index(index_entry("a", generation=6))
    assert await setting.files.look() is None


async def test_generations_may_start_again_when_the_operator_says_so(setting: Setting) -> None:
    setting.folder.write_token("a", 17)
    setting.index(index_entry("a", generation=17))
    await setting.files.look()
    setting.index(index_entry("a", generation=1))
    assert await setting.files.look() is not None
    assert setting.held == token_of("a", 17)
    setting.folder.write_token("a", 1)
    setting.clock.advance(1)
    assert await setting.files.look() is None
    assert setting.held == token_of("a", 1)


async def test_the_same_generation_with_another_token_is_not_the_one(setting: Setting) -> None:
    setting.folder.write_token("a", 1)
    setting.index(index_entry("a", fingerprint="0" * 16))
    assert await setting.files.look() is not None


async def test_one_account_s_trouble_is_not_another_s(setting: Setting) -> None:
    setting.folder.write_token("b", 1)
    (setting.folder.access / "uid-a.json").write_text("{")
    setting.index(index_entry("a"), index_entry("b"), index_entry("c", generation=0))
    assert await setting.files.look() is not None
    assert [account.token is not None for account in setting.pool.accounts] == [False, True, False]
    assert setting.pool.is_ready


async def test_an_account_that_is_gone_is_not_looked_for(setting: Setting) -> None:
    setting.index(index_entry("a"))
    assert await setting.files.look() is not None
    setting.index()
    assert await setting.files.look() is None


async def test_after_a_401_only_a_newer_token_counts(setting: Setting) -> None:
    setting.folder.write_token("a", 1)
    setting.index(index_entry("a"))
    await setting.files.look()
    refused = setting.account.token
    assert refused is not None
    assert not await setting.files.reread(setting.account, refused)
    (setting.folder.access / "uid-a.json").unlink()
    assert not await setting.files.reread(setting.account, refused)
    setting.folder.write_token("a", 2)
    assert await setting.files.reread(setting.account, refused)
    assert setting.held == token_of("a", 2)
    (setting.folder.access / "uid-a.json").unlink()
    assert await setting.files.reread(setting.account, refused)  # another request has found it already


GOOD = {"generation": 1, "access_token": "secret-token", "expires": "2026-11-20T20:00:00Z"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        json.dumps({**GOOD, "generation": "secret-token"}),
        json.dumps({**GOOD, "generation": -1}),
        json.dumps({**GOOD, "expires": "secret-token"}),
        json.dumps({**GOOD, "expires": "2026-11-20T20:00:00"}),
        json.dumps({**GOOD, "access_token": ""}),
        json.dumps({**GOOD, "access_token": "secret-token\r\nx: y"}),
        json.dumps({**GOOD, "access_token": "secret-töken"}),
        json.dumps(GOOD) + " " * 70_000,
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_showing_it(content: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(TokenFileInvalid) as caught:
        read_token_file(file)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_links_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text(json.dumps(GOOD))
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(TokenFileInvalid):
            read_token_file(tmp_path / f"{name}.json")


def test_the_fingerprint_is_the_documented_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "new": 1}))
    token = read_token_file(tmp_path / "a.json")
    assert token.fingerprint == fingerprint_of("secret-token") == hashlib.sha256(b"secret-token").hexdigest()[:16]
    assert "secret" not in repr(token)


async def test_close_to_its_end_a_token_is_replaced_even_if_the_index_says_nothing(setting: Setting) -> None:
    setting.folder.write_token("a", 1, expires=NOW + 600)
    setting.index(index_entry("a", generation=1))
    await setting.files.look()
    assert await setting.files.look_ahead() == NOW + 600 - 60
    setting.folder.write_token("a", 2, expires=NOW + 1200)
    assert await setting.files.look_ahead() == NOW + 600 - 60  # not its time yet
    assert setting.held == token_of("a", 1)
    setting.clock.now = NOW + 600 - 60
    assert await setting.files.look_ahead() == NOW + 1200 - 60
    assert setting.held == token_of("a", 2)


async def test_a_token_that_nobody_replaces_is_looked_for_again_and_less_often_in_the_end(setting: Setting) -> None:
    setting.folder.write_token("a", 1, expires=NOW + 60)
    setting.index(index_entry("a", generation=1))
    await setting.files.look()
    pauses = []
    for _ in range(40):
        look = await setting.files.look_ahead()
        assert look is not None
        pauses.append(look - setting.clock.now)
        setting.clock.now = look
    assert (pauses[0], pauses[-1]) == (5, 30)
    setting.folder.write_token("a", 2, expires=setting.clock.now + 600)
    await setting.files.look_ahead()
    assert setting.held == token_of("a", 2)


async def test_news_of_the_index_are_not_lost_while_a_file_is_read(setting: Setting) -> None:
    running = asyncio.create_task(setting.files.run())
    try:
        for generation in range(1, 30):
            setting.folder.write_token("a", generation)
            setting.index(index_entry("a", generation=generation))
            expected = token_of("a", generation)
            await until(lambda expected=expected: setting.held == expected, f"generation {generation}")  # type: ignore[misc]
    finally:
        running.cancel()
