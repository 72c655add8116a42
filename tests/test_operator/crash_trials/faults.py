"""What goes wrong besides the kill, and the variants that combine it with a behaviour of the token server."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from .api_link import ApiLink
from .operator_process import OperatorProcess


class Surroundings(Protocol):
    """What a fault can get at."""

    random: Random
    link: ApiLink
    access: Path
    process: OperatorProcess


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
)
