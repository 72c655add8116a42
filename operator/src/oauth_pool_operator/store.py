"""The only module that reads or writes the state and access volumes.

State: `<uid>/credential.json`, `<uid>/account.json`, `<uid>/journal.json`, `<uid>/login.json`, `<uid>/import.json`, mode 0600. Access: `<uid>.json`, mode 0640.
Files are replaced by write to a temporary name, fsync, rename, fsync of the folder, so that a reader, a crash or a
power failure sees the old file or the new one, never half of one. Names are the object's UID, never user input.

All functions block for as long as the volume does: call them in a thread.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from .errors import StoreConflict, StoreCorrupt, StoreFailed

# What the pre-flight file reserves: larger than any credential that is written (tokens of a few hundred bytes each).
PREFLIGHT_BYTES = 32 * 1024

_UID = re.compile(r"[0-9A-Za-z-]{1,64}")
_T = TypeVar("_T")
_Signature = tuple[int, int, int]  # changes whenever somebody writes, replaces or removes a file


def fingerprint(secret: str) -> str:
    """The first 16 hex digits of the SHA-256: enough to tell two tokens apart, nothing to use one with."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


class Credential(msgspec.Struct, frozen=True):
    """What the operator holds of one account. Lost, only a new login brings it back."""

    generation: int
    access_token: str
    expires: datetime
    obtained: datetime
    refresh_token: str | None = None
    previous_refresh_token: str | None = None
    subject: str | None = None
    # SHA-256 of the code that the grant came from: it must not be sent again (RFC 6749 4.1.2)
    code_digest: str | None = None
    # fingerprint of the spec.workloadIdentity that the token was exchanged for: with another, it is another's token
    workload: str | None = None
    # why the grant is dead (GrantRevoked, RefreshOutcomeUnknown), for as long as no new login replaces it
    dead: str | None = None

    def __repr__(self) -> str:
        return f"<Credential generation {self.generation}>"


class Journal(msgspec.Struct, frozen=True):
    """A refresh that was begun; found at the start of another, its outcome is unknown."""

    started: datetime
    generation: int
    refresh_token_fingerprint: str


class LoginSession(msgspec.Struct, frozen=True):
    """One attempt of a person to log in. `state`, `verifier` and `device_code` are empty once it is over."""

    session_id: str
    start: datetime
    expires: datetime
    state: str = ""
    verifier: str = ""
    request: str = ""
    # a code that was pasted and not yet exchanged; it is here, and no longer on the object
    code: str | None = None
    # SHA-256 of the last pasted text, to know it again when an old event shows it once more
    handled_code: str = ""
    # why the last code led to nothing: a reason, and what a person reads
    problem: str | None = None
    problem_message: str = ""
    # grant DeviceCode (RFC 8628 3.2): only the first of these is a secret
    device_code: str = ""
    user_code: str = ""
    verification_uri: str = ""
    verification_uri_complete: str | None = None
    poll_seconds: float = 0

    def __repr__(self) -> str:
        return f"<LoginSession {self.session_id}>"

    @property
    def is_over(self) -> bool:
        return not self.state and not self.device_code


class Owner(msgspec.Struct, frozen=True):
    """Whose credential a folder holds, for whoever finds it without its object."""

    name: str
    namespace: str
    provider: str
    grant: str


class Retained(Owner, frozen=True):
    """Whose credential a folder holds whose account was deleted with `deletionPolicy: Retain`, and since when."""

    since: datetime


class Import(msgspec.Struct, frozen=True):
    """A credential that a person hands over. It waits here for the running operator, which alone writes credentials."""

    request: str  # tells this import from another
    refresh_token: str
    access_token: str
    expires: datetime
    subject: str | None = None
    retained_uid: str | None = None  # of the deleted account that it is from

    def __repr__(self) -> str:
        return f"<Import {self.request}>"


class AccessFile(msgspec.Struct, frozen=True):
    """What proxies read."""

    generation: int
    access_token: str
    expires: str

    def __repr__(self) -> str:
        return f"<AccessFile generation {self.generation}>"


class Store:
    """Both volumes. Every method raises `StoreFailed` when the volume does not do as asked."""

    def __init__(self, state: Path, access: Path) -> None:
        self._state = state
        self._access = access
        self._access_files: dict[str, _Signature] = {}  # by UID: as last written or read

    def check(self) -> None:
        """Both volumes are there."""
        for folder in (self._state, self._access):
            if not folder.is_dir():
                raise StoreFailed(f"there is no folder {folder}")

    def probe(self) -> None:
        """Prove that both volumes take a file."""
        for folder in (self._state, self._access):
            probe = folder / ".probe"
            _guarded(f"write to {folder}", partial(_replace, probe, b"ok", 0o600))
            _guarded(f"remove from {folder}", probe.unlink)

    def credential(self, uid: str) -> Credential | None:
        return _read(self._folder(uid) / "credential.json", Credential)

    def session(self, uid: str) -> LoginSession | None:
        return _read(self._folder(uid) / "login.json", LoginSession)

    def journal(self, uid: str) -> Journal | None:
        return _read(self._folder(uid) / "journal.json", Journal)

    def set_aside(self, uid: str, name: str, now: datetime) -> str:
        """Rename a damaged file, so that nobody reads it again and a person still can; returns the new name."""
        folder, new = self._folder(uid), f"{name}.corrupt-{now:%Y%m%dT%H%M%SZ}"

        def rename() -> None:
            os.replace(folder / name, folder / new)
            _sync_folder(folder)

        _guarded(f"set the damaged {name} aside", rename)
        return new

    def damaged_credential(self, uid: str) -> str | None:
        """The name of the credential that was set aside last, if any was."""
        names = sorted(path.name for path in self._folder(uid).glob("credential.json.corrupt-*"))
        return names[-1] if names else None

    def access(self, uid: str) -> AccessFile | None:
        """The access file, or None when it is missing or unreadable: it can always be written again."""
        path = self._access / f"{_checked(uid)}.json"
        with suppress(OSError):
            self._access_files[uid] = _signature(path.lstat())  # before it is read: a later change has to show
        try:
            return _read(path, AccessFile)
        except StoreCorrupt:
            return None

    def imported(self, uid: str) -> Import | None:
        """What was handed over and not yet taken."""
        return _read(self._folder(uid) / "import.json", Import)

    def save_import(self, uid: str, given: Import) -> None:
        self._write(uid, "import.json", given)

    def end_import(self, uid: str, given: Import | None) -> None:
        """Remove it, unless another was handed over meanwhile; without `given`, whatever is there."""
        if given is None or self.imported(uid) == given:
            _guarded("remove import.json", lambda: _unlink(self._folder(uid) / "import.json"))

    def save_owner(self, uid: str, owner: Owner) -> None:
        """Say whose credential this is, unless that is said already."""
        with suppress(StoreCorrupt):
            if _read(self._folder(uid) / "account.json", Owner) == owner:
                return
        self._write(uid, "account.json", owner)

    def retained(self) -> dict[str, Retained]:
        """What is kept of deleted accounts, by UID; a damaged note is as good as none."""
        found = {}

        def look() -> None:
            for path in self._state.glob("*/retained.json"):
                with suppress(StoreCorrupt):
                    retained = _read(path, Retained)
                    if retained is not None and _UID.fullmatch(path.parent.name):
                        found[path.parent.name] = retained

        _guarded("look for what is retained", look)
        return found

    def save_session(self, uid: str, session: LoginSession) -> None:
        self._write(uid, "login.json", session)

    def begin_exchange(self, uid: str, journal: Journal | None) -> None:
        """Write the journal and reserve room for the answer, so that a full disk shows before a token is spent.

        The reserved file is the one that `save_credential` writes the answer into.
        """

        def reserve() -> None:
            folder = self._made_folder(uid)
            _write_synced(folder / "credential.json.new", b"\0" * PREFLIGHT_BYTES, 0o600, truncate=False)
            _sync_folder(folder)

        _guarded("reserve room on the state volume", reserve)
        if journal is not None:
            self._write(uid, "journal.json", journal)

    def save_credential(self, uid: str, credential: Credential, *, replaces: int) -> None:
        """Replace the credential and end the journal; `StoreConflict` when one newer than `replaces` is stored."""
        current, is_damaged = None, False
        try:
            current = self.credential(uid)
        except StoreCorrupt:
            is_damaged = True
        # One that is older, gone or damaged since it was read is no reason to throw away what is to be saved.
        if current is not None and current.generation > replaces:
            raise StoreConflict(f"the state volume holds generation {current.generation}, not {replaces}")

        def save() -> None:
            folder = self._made_folder(uid)
            if is_damaged:
                self.set_aside(uid, "credential.json", credential.obtained)
            new = folder / "credential.json.new"
            _write_synced(new, msgspec.json.encode(credential), 0o600, truncate=True)
            os.replace(new, folder / "credential.json")
            _sync_folder(folder)
            _unlink(folder / "journal.json")

        _guarded("write credential.json", save)

    def end_journal(self, uid: str) -> None:
        _guarded("remove journal.json", lambda: _unlink(self._folder(uid) / "journal.json"))

    def save_access(self, uid: str, access: AccessFile) -> None:
        path = self._access / f"{_checked(uid)}.json"

        def save() -> None:
            _replace(path, msgspec.json.encode(access), 0o640)
            self._access_files[uid] = _signature(path.lstat())

        _guarded("write the access file", save)

    def touched_access_files(self) -> set[str]:
        """The UIDs of the access files that are not as this process has last written or read them."""
        found: dict[str, _Signature] = {}

        def look() -> None:
            for entry in os.scandir(self._access):
                with suppress(FileNotFoundError):
                    found[entry.name.removesuffix(".json")] = _signature(entry.stat(follow_symlinks=False))

        _guarded("look at the access volume", look)
        return {uid for uid, signature in self._access_files.copy().items() if found.get(uid) != signature}

    def remove_access(self, uid: str) -> None:
        path = self._access / f"{_checked(uid)}.json"

        def remove() -> None:
            self._access_files.pop(uid, None)
            if path.exists():
                _unlink(path)
                _sync_folder(self._access)

        _guarded("remove the access file", remove)

    def remove_state(self, uid: str) -> None:
        def remove() -> None:
            with suppress(FileNotFoundError):
                shutil.rmtree(self._folder(uid))
            _sync_folder(self._state)

        _guarded("remove the account's state", remove)

    def retain(self, uid: str, retained: Retained) -> None:
        """Say whose credential this is and since when it is kept; nothing when there is none, or when that was said."""
        folder = self._folder(uid)
        if folder.is_dir() and not (folder / "retained.json").exists():
            self._write(uid, "retained.json", retained)

    def sweep(self, before: datetime, *, spare: Collection[str]) -> list[Retained]:
        """Remove folders that are retained since before that instant, and no others; returns whose they were.

        A folder whose account is merely not known is left alone: it may be known again tomorrow.
        """
        swept = []

        def look() -> None:
            for path in list(self._state.iterdir()):
                if path.name in spare or not _UID.fullmatch(path.name):
                    continue
                with suppress(StoreCorrupt):
                    retained = _read(path / "retained.json", Retained)
                    if retained is not None and retained.since < before:
                        shutil.rmtree(path)
                        swept.append(retained)

        _guarded("look for retained folders", look)
        return swept

    def _folder(self, uid: str) -> Path:
        return self._state / _checked(uid)

    def _made_folder(self, uid: str) -> Path:
        folder = self._folder(uid)
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)  # `import` may be as quick
            _sync_folder(self._state)
        return folder

    def _write(self, uid: str, name: str, document: object) -> None:
        content = msgspec.json.encode(document)
        _guarded(f"write {name}", lambda: _replace(self._made_folder(uid) / name, content, 0o600))


def _signature(status: os.stat_result) -> _Signature:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise StoreFailed("the object's UID is not one")
    return uid


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreFailed(f"cannot read {path.name}: {os.strerror(error.errno or errno.EIO)}") from error
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # `from None`: the decoder's message may quote what it read
        raise StoreCorrupt(f"{path.name} of this account is damaged") from None


def _guarded(what: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise StoreFailed(f"cannot {what}: {os.strerror(error.errno or errno.EIO)}") from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    new = path.with_name(path.name + ".new")
    _write_synced(new, content, mode, truncate=True)
    os.replace(new, path)
    _sync_folder(path.parent)


def _write_synced(path: Path, content: bytes, mode: int, *, truncate: bool) -> None:
    """The file holds exactly `content` (at least that much, without `truncate`) and is on the disk on return."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(content)
        file.flush()
        if truncate:
            file.truncate()
        os.fsync(file.fileno())


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
