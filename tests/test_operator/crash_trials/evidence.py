"""What can be seen of an account from outside at one instant, and how far a rotation had come by it.

BEFORE ─▶ RESERVED ─▶ ASKED ─▶ REDEEMED ─▶ ANSWERED ─▶ STORED ─▶ ACCESS ─▶ INDEX ─▶ (IDLE)
asked for  room and    request   redeemed,   the answer   on the    access    pool      status, too
by nobody  journal     at the    answer not  is sent, not state     file      index
answered   on the disk server    whole       on the disk  volume    written   written
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from tests.simulator.recorder import Outcome

from .cluster_view import ClusterView
from .provider import Issue, Provider, Refresh, fingerprint

# The reasons of LoginRequired that a dead grant has.
DEAD = ("RefreshOutcomeUnknown", "GrantRevoked")


class Phase(IntEnum):
    """How far a rotation had come; IDLE when none was under way or due."""

    IDLE = 0
    BEFORE = 1
    RESERVED = 2
    ASKED = 3
    REDEEMED = 4
    ANSWERED = 5
    STORED = 6
    ACCESS = 7
    INDEX = 8


@dataclass(frozen=True)
class Token:
    """A token where it was found: what the operator calls it, and its number at the provider (0: not this account's)."""

    generation: int
    number: int

    def __str__(self) -> str:
        return f"g{self.generation}=#{self.number}"


NOTHING = Token(0, 0)


@dataclass(frozen=True)
class Seen:
    """One account: the two volumes, the index, the status. `damage` is what must never be there."""

    status: Token
    index: Token
    access: Token | None
    state: Token | None
    index_word: str
    ready: str
    login_required: str
    expires: datetime | None
    is_dead: bool  # the grant, by the operator's own word on the disk
    is_open: bool  # a refresh with the stored token was begun, and nobody knows yet what became of it
    begun: float  # when room was reserved or a journal written for a rotation that has not ended; 0 for none
    damage: tuple[str, ...]
    access_token: str = field(repr=False, default="")

    def __str__(self) -> str:
        begun = ", begun" if self.begun else ""
        where = f"state {self.state}, access {self.access}, index {self.index} {self.index_word}, status {self.status}"
        return f"{where} {self.ready} {self.login_required}{begun}"


def look(
    name: str, subject: str, uid: str, *, view: ClusterView, provider: Provider, state: Path, access: Path
) -> Seen:
    """Downstream first: what is read later is newer, so the order of publication shows even while the operator runs."""
    token, entry = view.status(name).get("token", {}), view.index.get(name, {})
    login = view.condition(name, "LoginRequired")
    status_token, index_token = (
        _published(found, lambda fp: provider.access_fingerprint(fp), subject) for found in (token, entry)
    )
    ready = view.condition(name, "Ready").get("reason", "")
    damage: list[str] = []
    public = _read(access / f"{uid}.json", damage)
    folder = state / uid
    secret, journal = (_read(folder / name, damage) for name in ("credential.json", "journal.json"))
    _read(folder / "login.json", damage)
    # a journal that outlived its rotation by a kill speaks of a token that is no longer stored
    stored = fingerprint(secret["refresh_token"]) if secret and not secret["dead"] else ""
    is_open = journal is not None and journal["refresh_token_fingerprint"] == stored
    damage += [f"{path.name} was set aside" for path in folder.glob("*.corrupt*")]
    return Seen(
        status=status_token,
        index=index_token,
        access=_held(public, provider.access_token(public["access_token"]) if public else None, subject),
        state=_held(secret, provider.refresh_token(secret["refresh_token"]) if secret else None, subject),
        index_word=entry.get("status", ""),
        ready=ready,
        login_required=login.get("reason", "") if login.get("status") == "True" else "",
        expires=datetime.fromisoformat(secret["expires"]) if secret else None,
        is_dead=bool(secret and secret["dead"]),
        is_open=is_open,
        begun=max(_written(folder / "credential.json.new"), _written(folder / "journal.json") if is_open else 0),
        damage=(*damage, *_mixed_up(secret, provider, subject)),
        access_token=public["access_token"] if public else "",
    )


def phase_of(
    seen: Seen, refreshes: Sequence[Refresh], latest: Callable[[], int], *, since: float, is_due: bool
) -> Phase:
    """`refreshes` are those that came in since `since`; what was begun before that is nobody's rotation any more."""
    if seen.state is None or seen.login_required in DEAD:
        return Phase.IDLE
    generation, number = seen.state.generation, seen.state.number
    if generation > seen.index.generation:
        is_written = seen.access is not None and seen.access.generation == generation
        return Phase.ACCESS if is_written else Phase.STORED
    if generation > seen.status.generation:
        return Phase.INDEX
    asked = [refresh for refresh in refreshes if refresh.sent == number]
    if asked and asked[-1].outcome is Outcome.COMPLETE:
        return Phase.ANSWERED
    if asked:
        return Phase.REDEEMED if latest() > number else Phase.ASKED
    if seen.begun >= since:
        return Phase.RESERVED
    return Phase.BEFORE if is_due else Phase.IDLE


def _read(path: Path, damage: list[str]) -> dict[str, Any] | None:
    """The document, or None when there is none; half a document is damage."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        damage.append(f"{path.name} is not whole")
        return None
    if isinstance(document, dict):
        return document
    damage.append(f"{path.name} is not an object")
    return None


def _held(document: dict[str, Any] | None, issue: Issue | None, subject: str) -> Token | None:
    if document is None:
        return None
    return Token(document["generation"], issue.number if issue and issue.subject == subject else 0)


def _published(document: dict[str, Any], issue_of: Any, subject: str) -> Token:
    if not document.get("generation"):
        return NOTHING
    return _held(document, issue_of(document["fingerprint"]), subject) or NOTHING


def _mixed_up(secret: dict[str, Any] | None, provider: Provider, subject: str) -> Iterator[str]:
    """A credential holds both tokens of one answer, and this account's."""
    if secret is None:
        return
    access, refresh = provider.access_token(secret["access_token"]), provider.refresh_token(secret["refresh_token"])
    if access is None or refresh is None or access.number != refresh.number or access.subject != subject:
        yield "credential.json holds tokens of two answers"


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return 0
