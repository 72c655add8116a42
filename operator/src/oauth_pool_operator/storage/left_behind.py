"""Folders on the state volume that no account owns: kept from deleted accounts, orphaned when somebody removed a finalizer, or
restored from a backup. All of it blocks; other modules use the store's methods of the same names.
"""

import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from oauth_pool_operator.account.documents import Credential, Owner, Retained
from oauth_pool_operator.errors import StoreCorrupt
from oauth_pool_operator.storage.durable_files import read, sync_folder, unlink

UID = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True)
class LeftBehind:
    """What a folder says about itself. If `owner` is None, its owner is unknown."""

    owner: Owner | None
    since: datetime | None  # from when on it is kept for a while; None: nobody has noticed yet
    has_credential: bool

    @property
    def name(self) -> str:
        return self.owner.name if self.owner is not None else ""

    def is_of(self, namespace: str) -> bool:
        """False when it belongs to another namespace: this may be the wrong volume."""
        return self.owner is None or self.owner.namespace == namespace

    def retained(self, namespace: str, now: datetime) -> Retained:
        """The note that it is kept from now on."""
        owner = self.owner or Owner("", namespace, "", "")
        return Retained(owner.name, owner.namespace, owner.provider, owner.grant, now)


def left_behind(state: Path, owned: Collection[str]) -> dict[str, LeftBehind]:
    """All folders but those of these accounts, by UID."""
    return {
        path.name: _look_at(path)
        for path in state.iterdir()
        if path.name not in owned and UID.fullmatch(path.name) and path.is_dir()
    }


def end_retention(state: Path, owned: Collection[str]) -> None:
    """Remove the note from the folders of accounts that exist (again)."""
    for path in list(state.glob("*/retained.json")):
        if path.parent.name in owned:
            unlink(path)
            sync_folder(path.parent)


def sweep(state: Path, before: datetime, spare: Collection[str]) -> list[Retained]:
    """Remove folders that are kept since before that instant, and no others; returns whose they were."""
    swept = []
    for uid in left_behind(state, spare):
        with suppress(StoreCorrupt):
            retained = read(state / uid / "retained.json", Retained)
            if retained is not None and retained.since < before:
                shutil.rmtree(state / uid)
                swept.append(retained)
    return swept


def _look_at(folder: Path) -> LeftBehind:
    retained = owner = credential = None
    with suppress(StoreCorrupt):
        retained = read(folder / "retained.json", Retained)
    with suppress(StoreCorrupt):
        owner = retained if retained is not None and retained.name else read(folder / "account.json", Owner)
    with suppress(StoreCorrupt):
        credential = read(folder / "credential.json", Credential)
    is_usable = credential is not None and credential.refresh_token is not None and credential.dead is None
    return LeftBehind(owner, retained.since if retained is not None else None, is_usable)
