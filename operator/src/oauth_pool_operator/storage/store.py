"""The only module that reads or writes the state and access volumes.

State, mode 0600: `<uid>/credential.json`, `journal.json`, `waits.json`, `login.json`, `import.json`, `account.json`, and
`retained.json` once the account is deleted but its credential is kept. Access, mode 0640: `<uid>.json`. `documents` defines
their contents. Names are the object's UID, never user input.

All of it blocks for as long as the volume does: call it with `in_thread`. Each method is about one volume, not both.
"""

import os
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from oauth_pool_operator.account.documents import (
    AccessFile,
    Credential,
    Import,
    Journal,
    LoginSession,
    Owner,
    Retained,
    Waits,
    fingerprint,
)
from oauth_pool_operator.errors import StoreConflict, StoreCorrupt, StoreFailed
from oauth_pool_operator.storage.durable_files import (
    Signature,
    guarded,
    read,
    replace,
    signature,
    sync_folder,
    temporary,
    unlink,
    write_synced,
)
from oauth_pool_operator.storage.left_behind import UID, LeftBehind, end_retention, left_behind, sweep
from oauth_pool_operator.storage.volume import Volume

# What the pre-flight file reserves: larger than any credential that is written (tokens of a few hundred bytes each).
PREFLIGHT_BYTES = 32 * 1024
ACCESS_MODE = 0o640
RESCUED = "credential.json.rescued-"

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Store:
    """Both volumes. Every method raises `StoreFailed` if the volume fails."""

    def __init__(self, state: Path, access: Path) -> None:
        self._state = state
        self._access = access
        self.state_volume, self.access_volume = Volume("state"), Volume("access")
        self._access_files: dict[str, Signature] = {}  # by UID: as last written or read

    def check_state(self) -> None:
        """The state volume is there."""
        _check(self._state)

    def check_access(self) -> None:
        """The access volume is there."""
        _check(self._access)

    def probe_state(self) -> None:
        """Check that the state volume accepts a file."""
        _probe(self._state)

    def probe_access(self) -> None:
        """Check that the access volume accepts a file."""
        _probe(self._access)

    def credential(self, uid: str) -> Credential | None:
        return read(self._folder(uid) / "credential.json", Credential)

    def session(self, uid: str) -> LoginSession | None:
        return read(self._folder(uid) / "login.json", LoginSession)

    def journal(self, uid: str) -> Journal | None:
        return read(self._folder(uid) / "journal.json", Journal)

    def set_aside(self, uid: str, name: str, now: datetime) -> str:
        """Rename a damaged file, so that nobody reads it again and a person still can; returns the new name."""
        folder, new = self._folder(uid), f"{name}.corrupt-{now:%Y%m%dT%H%M%SZ}"

        def rename() -> None:
            os.replace(folder / name, folder / new)
            sync_folder(folder)

        guarded(f"set the damaged {name} aside", rename)
        return new

    def damaged_credential(self, uid: str) -> str | None:
        """The name of the credential that was set aside last, if any was."""
        names = sorted(path.name for path in self._folder(uid).glob("credential.json.corrupt-*"))
        return names[-1] if names else None

    def access(self, uid: str) -> AccessFile | None:
        """The access file, or None when it is missing or unreadable: it can always be written again."""
        path = self._access_path(uid)
        with suppress(OSError):
            self._access_files[uid] = signature(path.lstat())  # before it is read: a later change has to show
        try:
            return read(path, AccessFile)
        except StoreCorrupt:
            return None

    def imported(self, uid: str) -> Import | None:
        """What was handed over and not yet taken."""
        return read(self._folder(uid) / "import.json", Import)

    def save_import(self, uid: str, given: Import) -> None:
        self._write(uid, "import.json", given)

    def end_import(self, uid: str, given: Import | None) -> None:
        """Remove it, unless another was handed over meanwhile; without `given`, whatever is there."""
        if given is None or self.imported(uid) == given:
            guarded("remove import.json", lambda: unlink(self._folder(uid) / "import.json"))

    def save_owner(self, uid: str, owner: Owner) -> None:
        """Say whose credential this is, unless that is said already."""
        with suppress(StoreCorrupt):
            if read(self._folder(uid) / "account.json", Owner) == owner:
                return
        self._write(uid, "account.json", owner)

    def left_behind(self, owned: Collection[str]) -> dict[str, LeftBehind]:
        """All folders but those of these accounts, by UID."""
        return _guarded_result("look for folders without an account", lambda: left_behind(self._state, owned))

    def end_retention(self, owned: Collection[str]) -> None:
        """Take the note off the folders of accounts that are there (again): they are not kept for a while, but for good."""
        guarded("look for what is retained", lambda: end_retention(self._state, owned))

    def save_session(self, uid: str, session: LoginSession) -> None:
        self._write(uid, "login.json", session)

    def waits(self, uid: str) -> Waits | None:
        return read(self._folder(uid) / "waits.json", Waits)

    def save_waits(self, uid: str, waits: Waits) -> None:
        self._write(uid, "waits.json", waits)

    def begin_exchange(self, uid: str, journal: Journal | None) -> None:
        """Write the journal and reserve room for the answer, so that a full disk shows before a token is spent.

        The reserved file is the one that `save_credential` writes the answer into. What the access volume takes does not
        matter here: its files can be written at any time.
        """

        def reserve() -> None:
            folder = self._made_folder(uid)
            # zeros would take no room on a file system that compresses
            write_synced(folder / "credential.json.new", os.urandom(PREFLIGHT_BYTES), 0o600, truncate=False)
            sync_folder(folder)

        guarded("reserve room on the state volume", reserve)
        if journal is not None:
            self._write(uid, "journal.json", journal)

    def save_credential(self, uid: str, credential: Credential, *, replaces: int) -> None:
        """Replace the credential and end the journal; `StoreConflict` when one newer than `replaces` is stored.

        Saving the same credential again is not a conflict: a call that was given up may have succeeded after all.
        """
        current, is_damaged = None, False
        try:
            current = self.credential(uid)
        except StoreCorrupt:
            is_damaged = True
        # One that is older, gone or damaged since it was read is no reason to throw away what is to be saved.
        if current is not None and current.generation > replaces and current != credential:
            raise StoreConflict(f"the state volume holds generation {current.generation}, not {replaces}")

        def save() -> None:
            folder = self._made_folder(uid)
            if is_damaged:
                self.set_aside(uid, "credential.json", credential.obtained)
            new = folder / "credential.json.new"
            write_synced(new, msgspec.json.encode(credential), 0o600, truncate=True)
            os.replace(new, folder / "credential.json")
            sync_folder(folder)
            unlink(folder / "journal.json")

        guarded("write credential.json", save)

    def rescue(self, uid: str, credential: Credential, now: datetime) -> str:
        """Write a credential beside the one that it cannot replace; returns the name of its file. Once for each token."""
        name = f"{RESCUED}{now:%Y%m%dT%H%M%SZ}-{fingerprint(credential.access_token)}"
        self._write(uid, name, credential)
        return name

    def rescued(self, uid: str) -> dict[str, Credential]:
        """What was rescued and is still there, by name."""
        found = {}
        for path in sorted(self._folder(uid).glob(f"{RESCUED}*")):
            with suppress(StoreCorrupt):
                if path.suffix != ".new" and (credential := read(path, Credential)) is not None:
                    found[path.name] = credential
        return found

    def end_rescue(self, uid: str, name: str) -> None:
        """Remove a rescued file, because its credential is stored now."""
        guarded(f"remove {name}", lambda: unlink(self._folder(uid) / name))

    def end_journal(self, uid: str) -> None:
        guarded("remove journal.json", lambda: unlink(self._folder(uid) / "journal.json"))

    def save_access(self, uid: str, access: AccessFile) -> None:
        path = self._access_path(uid)

        def save() -> None:
            replace(path, msgspec.json.encode(access), ACCESS_MODE)
            self._access_files[uid] = signature(path.lstat())

        guarded("write the access file", save)

    def touched_access_files(self) -> set[str]:
        """The UIDs of the access files that are not as this process has last written or read them."""
        found: dict[str, Signature] = {}

        def look() -> None:
            for entry in os.scandir(self._access):
                with suppress(FileNotFoundError):
                    found[entry.name.removesuffix(".json")] = signature(entry.stat(follow_symlinks=False))

        guarded("look at the access volume", look)
        return {uid for uid, known in self._access_files.copy().items() if found.get(uid) != known}

    def remove_access(self, uid: str) -> None:
        path = self._access_path(uid)

        def remove() -> None:
            self._access_files.pop(uid, None)
            for file in (path, temporary(path)):
                if file.exists():  # a read-only volume refuses to remove even what is not there
                    unlink(file)
                    sync_folder(self._access)

        guarded("remove the access file", remove)

    def remove_state(self, uid: str) -> None:
        def remove() -> None:
            with suppress(FileNotFoundError):
                shutil.rmtree(self._folder(uid))
            sync_folder(self._state)

        guarded("remove the account's state", remove)

    def retain(self, uid: str, retained: Retained) -> None:
        """Say whose credential this is and since when it is kept; nothing when there is none, or when that was said."""
        folder = self._folder(uid)
        if folder.is_dir() and not (folder / "retained.json").exists():
            self._write(uid, "retained.json", retained)

    def sweep(self, before: datetime, *, spare: Collection[str]) -> list[Retained]:
        """Remove folders that are kept since before that instant, and no others; returns whose they were."""
        return _guarded_result("remove what was kept for long enough", lambda: sweep(self._state, before, spare))

    def _access_path(self, uid: str) -> Path:
        return self._access / f"{_checked(uid)}.json"

    def _folder(self, uid: str) -> Path:
        return self._state / _checked(uid)

    def _made_folder(self, uid: str) -> Path:
        folder = self._folder(uid)
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)  # `import` may be as quick
            sync_folder(self._state)
        return folder

    def _write(self, uid: str, name: str, document: object) -> None:
        content = msgspec.json.encode(document)
        guarded(f"write {name}", lambda: replace(self._made_folder(uid) / name, content, 0o600))


def _guarded_result(what: str, action: Callable[[], _T]) -> _T:
    results: list[_T] = []
    guarded(what, lambda: results.append(action()))
    return results[0]


def _checked(uid: str) -> str:
    if not UID.fullmatch(uid):
        raise StoreFailed("the object's UID is not valid")
    return uid


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise StoreFailed(f"there is no folder {folder}")


def _probe(folder: Path) -> None:
    probe = folder / ".probe"
    guarded(f"write to {folder}", partial(replace, probe, b"ok", 0o600))
    guarded(f"remove from {folder}", probe.unlink)


_ON_ACCESS_VOLUME = frozenset(
    method.__name__
    for method in (
        Store.access,
        Store.save_access,
        Store.remove_access,
        Store.touched_access_files,
        Store.check_access,
        Store.probe_access,
    )
)


async def in_thread(method: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
    """Call a method of a `Store` in a thread of its volume: that may hang, and the event loop must not.

    Raises `VolumeSilent`, which is a `StoreFailed`, when it takes too long. Calls about one account take turns.
    """
    store = getattr(method, "__self__", None)
    if not isinstance(store, Store):
        raise TypeError("not a method of a Store: nobody knows which volume it is about")
    volume = store.access_volume if method.__name__ in _ON_ACCESS_VOLUME else store.state_volume
    uid = arguments[0] if arguments and isinstance(arguments[0], str) else ""
    return await volume.call(uid, partial(method, *arguments, **keywords))
