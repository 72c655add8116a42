"""What goes wrong besides the kill, and the variants that combine it with a behaviour of the token server."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from .api_link import ApiLink
from .operator_process import OperatorProcess


class Sabotage:
    """The saboteur's orders, in a file: they count for every life of the operator, until they are changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.order()

    def order(self, **orders: Any) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(orders))
        os.replace(new, self.path)


class Surroundings(Protocol):
    """What a fault can get at."""

    random: Random
    link: ApiLink
    access: Path
    process: OperatorProcess
    sabotage: Sabotage


class Fault:
    """Nothing. A fault begins, may see the operator start anew, and ends."""

    has_effect = False
    forbids_spending = False  # true while no refresh token may be spent, because there is no room for what comes of it

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.random = around.random

    def begin(self) -> None: ...

    def on_start(self) -> None: ...

    def end(self) -> None: ...


class DiskFull(Fault):
    """RLIMIT_FSIZE on the running operator: what it writes beyond an offset fails, on both volumes, with EFBIG.

    It covers a write that fails or is cut short, before or after room was reserved, for root and for anybody, on any file
    system. Unlike a disk that is full, it lets renames and new empty files through, and it refuses what was reserved, too.
    """

    has_effect = True

    def begin(self) -> None:
        # nothing at all; half of each document; all documents but not the room that is reserved for an answer
        self._size = self.random.choice((0, 100, 8192))
        self.forbids_spending = self._size < 200  # less than a credential takes
        self.on_start()

    def on_start(self) -> None:
        self.around.process.limit_file_size(self._size)

    def end(self) -> None:
        self.around.process.limit_file_size(None)


class AccessGone(Fault):
    """The folder is moved away; it comes back as it was, or empty. Tokens are refreshed meanwhile: nothing on it can be lost."""

    has_effect = True

    def begin(self) -> None:
        self._aside = self.around.access.with_name("access-aside")
        self.around.access.rename(self._aside)

    def end(self) -> None:
        if self.random.random() < 0.5:
            self._aside.rename(self.around.access)
            return
        self.around.access.mkdir()
        shutil.rmtree(self._aside)


class ApiServerGone(Fault):
    """Connections to the API server break and new ones are refused, or nothing comes through any more."""

    has_effect = True

    def begin(self) -> None:
        if self.random.random() < 0.5:
            self.around.link.cut()
        else:
            self.around.link.fall_silent()

    def end(self) -> None:
        self.around.link.mend()


class SomethingRaises(Fault):
    """Some collaborators raise what nobody expects of them, before or after they have done their work."""

    has_effect = True

    def begin(self) -> None:
        chosen = self.random.sample(_RAISE, self.random.choice((1, 1, 2, 4)))
        self.around.sabotage.order(**{"raise": {name: self._when(name) for name in chosen}})

    def end(self) -> None:
        self.around.sabotage.order()

    def _when(self, name: str) -> str:
        # an answer that is thrown away by whoever received it is lost by all means
        return "before" if name == "TokenEndpoint.refresh" else self.random.choice(("before", "after"))


class VolumeHangs(Fault):
    """Some calls of a volume do not return before the fault ends, or the process."""

    has_effect = True

    def begin(self) -> None:
        volume = self.random.choice((_STATE, _ACCESS))
        self.around.sabotage.order(hang=self.random.sample(volume, self.random.choice((1, 1, len(volume)))))

    def end(self) -> None:
        self.around.sabotage.order()


class ClockJumps(Fault):
    """The operator's clock is suddenly hours or days ahead or behind, and right again later."""

    has_effect = True

    def begin(self) -> None:
        self.around.sabotage.order(clock=self.random.choice((-1, 1)) * self.random.choice((600, 6 * 3600, 8 * 86400)))

    def end(self) -> None:
        self.around.sabotage.order()


_STATE_FILES = ("credential", "session", "begin_exchange", "save_credential", "end_journal", "save_session", "waits")
_STATE = (*(f"Store.{name}" for name in _STATE_FILES), "VolumeLock.acquire")
_ACCESS = tuple(f"Store.{name}" for name in ("access", "save_access", "touched_access_files", "remove_access"))
_RAISE = (
    *_STATE[:-1],
    *_ACCESS,
    *(f"Store.{name}" for name in ("journal", "imported", "rescued", "save_waits", "save_owner", "rescue")),
    *(f"Cluster.{name}" for name in ("patch_status", "patch_metadata", "remove_reports", "post_event", "write_index")),
    *("IndexPublisher.publish", "TokenEndpoint.refresh"),
    *("oauth_pool_operator.account.policies.next_check", "oauth_pool_operator.publication.render_entry"),
    "oauth_pool_operator.publication.render_status",
)


@dataclass(frozen=True)
class Variant:
    """`switches` are drawn for each account and each rotation."""

    name: str
    switches: Callable[[Random], dict[str, Any]]
    fault: type[Fault]


def _quick(random: Random) -> dict[str, Any]:
    return {"token_delay": random.uniform(0, 0.2)}


def _varied(random: Random) -> dict[str, Any]:
    """So that a fault finds requests in flight."""
    return {"token_delay": random.uniform(0, 0.5)}


def _slow(random: Random) -> dict[str, Any]:
    return {"token_delay": random.uniform(0.2, 1)}


def _cutting(random: Random) -> dict[str, Any]:
    return {**_quick(random), "token_drops_after_redeem": random.choice((0, 1, 1))}


VARIANTS = (
    Variant("plain", _quick, Fault),
    Variant("server slow", _slow, Fault),
    Variant("answer cut off", _cutting, Fault),
    Variant("disk full", _varied, DiskFull),
    Variant("access volume gone", _varied, AccessGone),
    Variant("API server gone", _varied, ApiServerGone),
    Variant("something raises", _varied, SomethingRaises),
    Variant("a volume hangs", _varied, VolumeHangs),
    Variant("the clock jumps", _varied, ClockJumps),
)
