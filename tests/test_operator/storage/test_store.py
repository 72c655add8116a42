"""Both volumes, on a real file system."""

import os
import stat
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from oauth_pool_operator.account.documents import AccessFile, Journal, Retained, fingerprint
from oauth_pool_operator.errors import StoreConflict, StoreCorrupt, StoreFailed
from oauth_pool_operator.storage.store import PREFLIGHT_BYTES, Store
from tests.support.builders import NOW, UID, credential, session


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    state, access = tmp_path / "state", tmp_path / "access"
    state.mkdir()
    access.mkdir()
    return state, access


@pytest.fixture
def store(folders: tuple[Path, Path]) -> Store:
    return Store(*folders)


def test_what_is_saved_is_read_back(store: Store) -> None:
    store.save_credential(UID, credential(), replaces=0)
    store.save_session(UID, session(code="c"))
    store.save_access(UID, AccessFile(1, "token", "2026-11-20T20:00:00Z"))
    assert store.credential(UID) == credential()
    assert store.session(UID) == session(code="c")
    assert store.access(UID) == AccessFile(1, "token", "2026-11-20T20:00:00Z")


@pytest.mark.parametrize("umask", [pytest.param(0, id="open umask"), pytest.param(0o077, id="strict umask")])
def test_files_are_for_whom_they_should_be(store: Store, folders: tuple[Path, Path], umask: int) -> None:
    state, access = folders
    before = os.umask(umask)  # the modes must not depend on it
    try:
        store.save_access(UID, AccessFile(1, "token", "x"))
        store.begin_exchange(UID, Journal(NOW, 1, "f"))
        store.save_session(UID, session())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*state.rglob("*"), *access.iterdir())}
    finally:
        os.umask(before)
    assert modes == {
        UID: 0o700,
        "credential.json.new": 0o600,
        "journal.json": 0o600,
        "login.json": 0o600,
        f"{UID}.json": 0o640,
    }


def test_a_credential_is_not_written_over_a_newer_one(store: Store) -> None:
    store.save_credential(UID, credential(generation=1), replaces=0)
    store.save_credential(UID, credential(generation=2, refresh_token="newer"), replaces=1)
    with pytest.raises(StoreConflict):
        store.save_credential(UID, credential(generation=2, refresh_token="stale"), replaces=1)
    assert store.credential(UID) == credential(generation=2, refresh_token="newer")


@pytest.mark.parametrize("generation", [None, 3], ids=["gone", "older"])
def test_what_is_gone_or_older_than_thought_is_no_reason_to_throw_a_credential_away(
    store: Store, folders: tuple[Path, Path], generation: int | None
) -> None:
    if generation is not None:  # as after somebody restored a backup
        store.save_credential(UID, credential(generation=generation), replaces=0)
    store.save_credential(UID, credential(generation=8), replaces=7)
    assert store.credential(UID) == credential(generation=8)


def test_room_is_reserved_before_a_token_is_spent_and_the_journal_ends_with_the_answer(
    store: Store, folders: tuple[Path, Path]
) -> None:
    folder = folders[0] / UID
    store.begin_exchange(UID, Journal(NOW, 1, "f"))
    reserved = (folder / "credential.json.new").read_bytes()
    assert len(reserved) == PREFLIGHT_BYTES
    assert len(zlib.compress(reserved)) > 0.9 * PREFLIGHT_BYTES  # some file systems compress
    assert store.journal(UID) == Journal(NOW, 1, "f")
    store.save_credential(UID, credential(), replaces=0)
    store.save_access(UID, AccessFile(1, "token", "x"))
    assert store.journal(UID) is None
    assert sorted(path.name for path in folder.iterdir()) == ["credential.json"]
    assert [path.name for path in folders[1].iterdir()] == [f"{UID}.json"]
    # nothing of the padding is left
    assert (store.credential(UID), store.access(UID)) == (credential(), AccessFile(1, "token", "x"))


def test_a_full_disk_shows_before_a_token_is_spent(store: Store, folders: tuple[Path, Path]) -> None:
    (folders[0] / UID).mkdir()
    (folders[0] / UID / "credential.json.new").symlink_to("/dev/full")  # not followed: it could lead anywhere
    with pytest.raises(StoreFailed, match="reserve room on the state volume"):
        store.begin_exchange(UID, Journal(NOW, 1, "f"))
    assert store.journal(UID) is None


def test_the_access_volume_has_no_say_in_whether_a_token_is_refreshed(store: Store, folders: tuple[Path, Path]) -> None:
    folders[1].rmdir()
    store.begin_exchange(UID, Journal(NOW, 1, "f"))
    assert store.journal(UID) == Journal(NOW, 1, "f")


def test_a_credential_that_cannot_take_its_place_is_kept_beside_it_and_shows_no_token_in_its_name(
    store: Store, folders: tuple[Path, Path]
) -> None:
    store.save_credential(UID, credential(generation=2), replaces=0)
    name = store.rescue(UID, credential(generation=2, refresh_token="other"), NOW)
    assert store.rescued(UID) == {name: credential(generation=2, refresh_token="other")}
    assert name.startswith("credential.json.rescued-20261120T120000Z-") and "token-of-a-test" not in name
    assert stat.S_IMODE((folders[0] / UID / name).stat().st_mode) == 0o600
    store.end_rescue(UID, name)
    assert store.rescued(UID) == {}


def test_the_same_credential_once_more_is_no_conflict(store: Store) -> None:
    # the first call was given up, because the volume hung, and came to its end after all
    store.save_credential(UID, credential(generation=2), replaces=1)
    store.begin_exchange(UID, Journal(NOW, 1, "f"))
    store.save_credential(UID, credential(generation=2), replaces=1)
    assert (store.credential(UID), store.journal(UID)) == (credential(generation=2), None)


def test_what_is_left_of_a_write_that_a_crash_cut_short_goes_with_the_access_file(
    store: Store, folders: tuple[Path, Path]
) -> None:
    (folders[1] / f"{UID}.json.new").write_text("{")
    store.remove_access(UID)
    assert list(folders[1].iterdir()) == []


def test_a_link_in_the_state_folder_is_not_followed(store: Store, folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[0] / UID).mkdir()
    (tmp_path / "precious").write_text("precious")
    (folders[0] / UID / "credential.json.new").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreFailed, match="reserve room"):
        store.begin_exchange(UID, None)
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_journal_stays_until_the_answer_is_on_the_disk(store: Store, folders: tuple[Path, Path]) -> None:
    store.begin_exchange(UID, Journal(NOW, 1, "f"))
    (folders[0] / UID / "credential.json.new").unlink()
    (folders[0] / UID / "credential.json.new").mkdir()
    with pytest.raises(StoreFailed, match=r"write credential\.json"):
        store.save_credential(UID, credential(), replaces=0)
    assert store.journal(UID) == Journal(NOW, 1, "f")


def test_whoever_reads_while_a_file_is_replaced_reads_the_old_one(store: Store, folders: tuple[Path, Path]) -> None:
    store.save_access(UID, AccessFile(1, "old", "x"))
    with (folders[1] / f"{UID}.json").open() as reader:
        store.save_access(UID, AccessFile(2, "new", "x"))
        assert "old" in reader.read()
    assert store.access(UID) == AccessFile(2, "new", "x")


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda store: store.save_credential(UID, credential(), replaces=0), id="credential"),
        pytest.param(lambda store: store.save_session(UID, session()), id="session"),
        pytest.param(lambda store: store.save_access(UID, AccessFile(1, "token", "x")), id="access file"),
    ],
)
def test_a_power_failure_finds_the_old_file_or_the_new_one(
    store: Store, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, write: Callable[[Store], None]
) -> None:
    (folders[0] / UID).mkdir()
    steps = []
    sync, rename = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    write(store)
    assert steps == ["file", "rename", "folder"]


def test_a_damaged_file_is_said_to_be_so_without_its_content(store: Store, folders: tuple[Path, Path]) -> None:
    store.save_credential(UID, credential(), replaces=0)
    path = folders[0] / UID / "credential.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreCorrupt) as caught:
        store.credential(UID)
    assert "access-token-of-a-test" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_damaged_access_file_counts_as_missing(store: Store, folders: tuple[Path, Path]) -> None:
    (folders[1] / f"{UID}.json").write_text("{")
    assert store.access(UID) is None


def test_removal_leaves_nothing_and_may_be_repeated(store: Store, folders: tuple[Path, Path]) -> None:
    store.save_credential(UID, credential(), replaces=0)
    store.save_access(UID, AccessFile(1, "token", "x"))
    for _ in range(2):
        store.remove_access(UID)
        store.remove_state(UID)
    assert [*folders[0].iterdir(), *folders[1].iterdir()] == []


@pytest.mark.parametrize("uid", ["../evil", "a/b", "", ".", "x" * 65])
def test_only_a_uid_becomes_a_path(store: Store, uid: str) -> None:
    with pytest.raises(StoreFailed):
        store.save_access(uid, AccessFile(1, "token", "x"))


def retained(name: str, *, age: timedelta) -> Retained:
    return Retained(name, "pool", "anthropic", "AuthorizationCode", NOW - age)


def test_only_what_is_retained_for_long_enough_is_swept(store: Store, folders: tuple[Path, Path]) -> None:
    week = timedelta(days=7)
    for uid in ("old", "young", "known", "merely-not-listed", "damaged"):
        store.save_credential(uid, credential(), replaces=0)
    store.retain("old", retained("a", age=week + timedelta(seconds=1)))
    store.retain("young", retained("b", age=week - timedelta(seconds=1)))
    store.retain("known", retained("c", age=2 * week))
    (folders[0] / "damaged" / "retained.json").write_text("{")
    (folders[0] / ".lock").touch()
    swept = store.sweep(NOW - week, spare={"known"})
    assert [one.name for one in swept] == ["a"]
    assert {path.name for path in folders[0].iterdir()} == {"young", "known", "merely-not-listed", "damaged", ".lock"}


def test_how_long_something_is_retained_counts_from_the_first_time(store: Store) -> None:
    store.save_credential(UID, credential(), replaces=0)
    store.retain(UID, retained("a", age=timedelta(days=9)))
    store.retain(UID, retained("a", age=timedelta(0)))
    assert store.sweep(NOW - timedelta(days=7), spare=()) != []


def test_nothing_is_retained_of_an_account_that_has_nothing(store: Store, folders: tuple[Path, Path]) -> None:
    store.retain(UID, retained("a", age=timedelta(0)))
    assert list(folders[0].iterdir()) == []


@pytest.mark.parametrize(
    "touch",
    [
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: path.write_text("{}"), id="written"),
        pytest.param(lambda path: path.with_name("x").replace(path), id="replaced"),
    ],
)
def test_an_access_file_that_somebody_touches_shows(
    store: Store, folders: tuple[Path, Path], touch: Callable[[Path], object]
) -> None:
    store.save_access(UID, AccessFile(1, "token", "x"))
    store.save_access("another", AccessFile(1, "token", "x"))
    store.save_access("removed-by-ourselves", AccessFile(1, "token", "x"))
    store.remove_access("removed-by-ourselves")
    (folders[1] / "x").write_text("{}")
    assert store.touched_access_files() == set()
    touch(folders[1] / f"{UID}.json")
    assert store.touched_access_files() == {UID}


def test_an_access_file_that_is_touched_after_it_was_found_in_order_shows(
    store: Store, folders: tuple[Path, Path]
) -> None:
    store.save_access(UID, AccessFile(1, "token", "x"))
    after_a_restart = Store(*folders)
    after_a_restart.access(UID)
    assert after_a_restart.touched_access_files() == set()
    (folders[1] / f"{UID}.json").unlink()
    assert after_a_restart.touched_access_files() == {UID}


@pytest.mark.parametrize("names", [("nowhere", "."), (".", "nowhere")], ids=["state", "access"])
def test_a_missing_volume_is_named(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(StoreFailed, match=str(tmp_path / "nowhere")):
        store = Store(*(tmp_path / name for name in names))
        store.check_state()
        store.check_access()


def test_secrets_are_not_printed() -> None:
    assert "of-a-test" not in repr(credential()) + repr(AccessFile(1, "access-token-of-a-test", "x"))


def test_a_fingerprint_is_the_start_of_the_sha256() -> None:
    assert fingerprint("test") == "9f86d081884c7d65"
