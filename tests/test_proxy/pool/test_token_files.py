"""Access tokens from files: new generations, late files, broken files. Time is passed by hand."""

import asyncio
import hashlib
import json
import logging
import os
import threading
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from oauth_pool_proxy.errors import TokenFileInvalid
from oauth_pool_proxy.pool.account import AccessToken, Account, State
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.index_folder import FolderIndex
from oauth_pool_proxy.pool.pool import Pool
from oauth_pool_proxy.pool.token_document import _Document, fingerprint_of
from oauth_pool_proxy.pool.token_files import TokenFiles
from oauth_pool_proxy.pool.token_reader import THREADS, TokenReader, read_token_file
from tests.support.proxy_server import NOW, Clock, PoolFolder, index_entry, token_of, until


class Volume:
    """Reads like the real one, and hangs in the thread that reads, as a network file system does."""

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        """The uids whose files hang; all of them if it contains `*`."""
        self.reads: list[str] = []
        self._answers = threading.Event()

    def read(self, path: Path) -> AccessToken:
        self.reads.append(path.stem)
        if self.hanging & {path.stem, "*"}:
            self._answers.wait()
        return read_token_file(path)

    def answer(self) -> None:
        """Whatever hangs goes on, and nothing hangs any more."""
        self.hanging.clear()
        self._answers.set()


class Setting:
    def __init__(self, root: Path, clock: Clock) -> None:
        self.folder, self.pool, self.clock, self.volume = PoolFolder(root), Pool(), clock, Volume()
        self.reader = TokenReader(self.folder.access, self.volume.read, timeout=20)
        self.files = TokenFiles(self.folder.access, self.pool, clock, wall_clock=clock, reader=self.reader)

    async def holding(self, *names: str, timeout: float = 0.05) -> None:
        """These accounts have their first access token; from then on, reads are waited for so many seconds."""
        for name in names:
            self.folder.write_token(name, 1)
        self.index(*map(index_entry, names))
        await self.files.poll()
        self.reader.timeout = timeout
        self.volume.reads.clear()

    async def reread(self, account: Account) -> bool:
        assert account.token
        return await self.files.reread(account, account.token)

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
async def setting(tmp_path: Path, clock: Clock) -> AsyncIterator[Setting]:
    result = Setting(tmp_path, clock)
    yield result
    result.volume.answer()
    result.files.close()


async def test_the_file_that_is_there_is_read_at_once_and_nothing_is_due_then(setting: Setting) -> None:
    setting.folder.write_token("a", 17)
    setting.index(index_entry("a", generation=17))
    assert await setting.files.poll() is None
    assert setting.held == token_of("a", 17)
    assert setting.pool.is_ready


async def test_a_late_file_is_looked_for_with_growing_pauses_while_the_old_token_is_used(setting: Setting) -> None:
    setting.folder.write_token("a", 1)
    setting.index(index_entry("a", generation=1))
    await setting.files.poll()
    setting.index(index_entry("a", generation=2))
    pauses = []
    for _ in range(6):
        due = await setting.files.poll()
        assert due is not None and setting.held == token_of("a", 1)
        pauses.append(due - setting.clock.now)
        setting.clock.now = due
    assert pauses == [0.5, 1, 2, 4, 5, 5]
    setting.folder.write_token("a", 2)
    assert await setting.files.poll() is None
    assert setting.held == token_of("a", 2)


async def test_a_file_that_does_not_come_is_complained_about_once_and_still_looked_for(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.index(index_entry("a", generation=1))
    with caplog.at_level(logging.WARNING):
        for _ in range(40):
            due = await setting.files.poll()
            assert due is not None
            pause, setting.clock.now = due - setting.clock.now, due
    assert pause == 30
    assert [record.message for record in caplog.records] == ["access token is late"]
    setting.folder.write_token("a", 1)
    assert await setting.files.poll() is None


async def test_an_older_file_is_better_than_none_and_a_file_ahead_of_the_index_better_still(setting: Setting) -> None:
    setting.folder.write_token("a", 4)
    setting.index(index_entry("a", generation=5))
    assert await setting.files.poll() is not None
    assert setting.held == token_of("a", 4)
    setting.folder.write_token("a", 6)
    setting.clock.advance(1)
    assert await setting.files.poll() is not None  # not what the index says, so there is something to come
    assert setting.held == token_of("a", 6)
    setting.index(index_entry("a", generation=6))
    assert await setting.files.poll() is None


async def test_generations_may_start_again_when_the_operator_says_so(setting: Setting) -> None:
    setting.folder.write_token("a", 17)
    setting.index(index_entry("a", generation=17))
    await setting.files.poll()
    setting.index(index_entry("a", generation=1))
    assert await setting.files.poll() is not None
    assert setting.held == token_of("a", 17)
    setting.folder.write_token("a", 1)
    setting.clock.advance(1)
    assert await setting.files.poll() is None
    assert setting.held == token_of("a", 1)


async def test_the_same_generation_with_another_token_is_not_the_one(setting: Setting) -> None:
    setting.folder.write_token("a", 1)
    setting.index(index_entry("a", fingerprint="0" * 16))
    assert await setting.files.poll() is not None


async def test_one_account_s_trouble_is_not_another_s(setting: Setting) -> None:
    setting.folder.write_token("b", 1)
    (setting.folder.access / "uid-a.json").write_text("{")
    setting.index(index_entry("a"), index_entry("b"), index_entry("c", generation=0))
    assert await setting.files.poll() is not None
    assert [account.token is not None for account in setting.pool.accounts] == [False, True, False]
    assert setting.pool.is_ready


async def test_an_account_that_is_gone_is_not_looked_for(setting: Setting) -> None:
    setting.index(index_entry("a"))
    assert await setting.files.poll() is not None
    setting.index()
    assert await setting.files.poll() is None


async def test_after_a_401_only_a_newer_token_counts(setting: Setting) -> None:
    setting.folder.write_token("a", 1)
    setting.index(index_entry("a"))
    await setting.files.poll()
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


class TestHangingVolume:
    async def test_a_401_is_held_up_for_a_second_and_one_read_serves_all_who_wait(self, setting: Setting) -> None:
        await setting.holding("a")
        setting.volume.hanging.add("uid-a")
        assert await asyncio.gather(*(setting.reread(setting.account) for _ in range(50))) == [False] * 50
        assert setting.volume.reads == ["uid-a"]
        assert TokenReader(setting.folder.access).timeout == 1.0

    async def test_all_who_wait_have_what_the_one_read_finds(self, setting: Setting) -> None:
        await setting.holding("a", timeout=20)
        setting.folder.write_token("a", 2)
        assert await asyncio.gather(*(setting.reread(setting.account) for _ in range(50))) == [True] * 50
        assert (setting.volume.reads, setting.held) == (["uid-a"], token_of("a", 2))

    async def test_a_read_that_hangs_is_not_started_again_before_it_has_ended(self, setting: Setting) -> None:
        await setting.holding("a")
        setting.volume.hanging.add("uid-a")
        assert not await setting.reread(setting.account)
        setting.reader.timeout = 3600
        async with asyncio.timeout(20):  # it is not waited for again either
            assert not await setting.reread(setting.account)
        assert setting.volume.reads == ["uid-a"]
        setting.folder.write_token("a", 2)
        setting.volume.answer()
        await until(lambda: not setting.reader.hangs, "the read to end")
        setting.reader.timeout = 20
        assert setting.held == token_of("a", 2)  # by the read that had begun before
        setting.folder.write_token("a", 3)
        assert await setting.reread(setting.account)
        assert setting.volume.reads == ["uid-a"] * 2

    async def test_what_a_slow_volume_says_in_the_end_is_used(self, setting: Setting) -> None:
        """Otherwise a volume that always takes longer than anybody waits would never give a token."""
        setting.reader.timeout = 0.05
        setting.volume.hanging.add("uid-a")
        setting.folder.write_token("a", 1)
        setting.index(index_entry("a"))
        await setting.files.poll()
        setting.volume.answer()
        await until(lambda: setting.held == token_of("a"), "the read to end")
        setting.clock.advance(1)
        assert await setting.files.poll() is None
        assert setting.volume.reads == ["uid-a"]

    async def test_one_file_that_hangs_is_no_trouble_of_the_other_accounts(self, setting: Setting) -> None:
        await setting.holding("a", "b")
        setting.volume.hanging.add("uid-a")
        setting.index(index_entry("a", generation=2), index_entry("b", generation=2))
        setting.folder.write_token("b", 2)
        a, b = setting.pool.accounts
        await setting.files.poll()
        setting.reader.timeout = 20
        assert (a.token and a.token.generation, b.token and b.token.generation) == (1, 2)
        setting.folder.write_token("b", 3)
        assert await setting.reread(b)

    async def test_when_the_whole_volume_hangs_nothing_more_is_asked_of_it_and_the_index_is_followed_all_the_same(
        self, setting: Setting
    ) -> None:
        names = [f"n{number}" for number in range(100)]  # more than asyncio's own threads
        await setting.holding(*names)
        states: list[dict[str, str]] = []
        index = FolderIndex(setting.folder.index, lambda data: states.append(dict(data)))
        await index.poll()
        setting.volume.hanging.add("*")
        assert not any(await asyncio.gather(*(setting.reread(account) for account in setting.pool.accounts[:-1])))
        setting.reader.timeout = 3600
        async with asyncio.timeout(20):
            assert not await setting.reread(setting.pool.accounts[-1])
        assert len(setting.volume.reads) == THREADS
        setting.folder.write_entry("new")
        async with asyncio.timeout(20):
            await index.poll()
        assert [list(state) for state in states] == [[], ["new"]]
        assert all(account.state(NOW) is State.AVAILABLE for account in setting.pool.accounts)

    async def test_the_volume_is_asked_again_once_it_answers(self, setting: Setting) -> None:
        names = [f"n{number}" for number in range(20)]
        await setting.holding(*names)
        setting.volume.hanging.add("*")
        for name in names:
            setting.folder.write_token(name, 2)
        setting.index(*(index_entry(name, generation=2) for name in names))
        await setting.files.poll()
        assert len(setting.volume.reads) == THREADS
        setting.volume.answer()
        await until(lambda: not setting.reader.hangs, "the reads to end")
        assert len(setting.volume.reads) == THREADS
        setting.reader.timeout = 20
        setting.clock.advance(1)
        assert await setting.files.poll() is None
        assert {account.token and account.token.generation for account in setting.pool.accounts} == {2}

    async def test_a_proxy_that_starts_while_its_volume_hangs_is_not_ready_before_it_answers(
        self, setting: Setting
    ) -> None:
        setting.reader.timeout = 0.05
        setting.volume.hanging.add("*")
        setting.folder.write_token("a", 1)
        setting.index(index_entry("a"))
        await setting.files.poll()
        assert not setting.pool.is_ready
        setting.volume.answer()
        await until(lambda: not setting.reader.hangs, "the read to end")
        setting.clock.advance(1)
        await setting.files.poll()
        assert (setting.pool.is_ready, setting.held) == (True, token_of("a"))


async def test_only_entries_that_are_other_objects_are_looked_at(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(setting.files._due, "_entry_changed", lambda uid, entry, now: looked_at.append(uid))
    entries = [msgspec.convert(index_entry(name), IndexEntry) for name in "abc"]
    for changed in (entries, entries, [entries[0], msgspec.structs.replace(entries[1], weight=5), entries[2]]):
        setting.pool.replace(changed)
        setting.files.index_changed()
    assert looked_at == ["uid-a", "uid-b", "uid-c", "uid-b"]


async def test_only_files_of_entries_that_changed_are_due(setting: Setting) -> None:
    entries = [msgspec.convert(index_entry(name), IndexEntry) for name in "abc"]
    for name in "abc":
        setting.folder.write_token(name)
    for changed in (entries, [entries[0], msgspec.structs.replace(entries[1], weight=5), entries[2]]):
        setting.pool.replace(changed)
        setting.files.index_changed()
        await setting.files.poll()
    assert setting.volume.reads == ["uid-a", "uid-b", "uid-c"]
    setting.pool.replace(entries[:2])
    setting.files.index_changed()
    setting.pool.replace(entries)  # one that was away has nothing any more
    setting.files.index_changed()
    await setting.files.poll()
    assert setting.volume.reads[3:] == ["uid-c"]


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


def test_no_access_token_in_the_repr_of_a_file_s_content() -> None:
    content = _Document(1, "secret-token", datetime.now(UTC))
    assert "secret" not in f"{content!r} {[content]!r}"


async def test_close_to_its_end_a_token_is_replaced_even_if_the_index_says_nothing(setting: Setting) -> None:
    setting.folder.write_token("a", 1, expires=NOW + 600)
    setting.index(index_entry("a", generation=1))
    await setting.files.poll()
    assert await setting.files.poll_expiring() == NOW + 600 - 60
    setting.folder.write_token("a", 2, expires=NOW + 1200)
    assert await setting.files.poll_expiring() == NOW + 600 - 60  # not its time yet
    assert setting.held == token_of("a", 1)
    setting.clock.now = NOW + 600 - 60
    assert await setting.files.poll_expiring() == NOW + 1200 - 60
    assert setting.held == token_of("a", 2)


async def test_a_token_that_nobody_replaces_is_looked_for_again_and_less_often_in_the_end(setting: Setting) -> None:
    setting.folder.write_token("a", 1, expires=NOW + 60)
    setting.index(index_entry("a", generation=1))
    await setting.files.poll()
    pauses = []
    for _ in range(40):
        look = await setting.files.poll_expiring()
        assert look is not None
        pauses.append(look - setting.clock.now)
        setting.clock.now = look
    assert (pauses[0], pauses[-1]) == (5, 30)
    setting.folder.write_token("a", 2, expires=setting.clock.now + 600)
    await setting.files.poll_expiring()
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
