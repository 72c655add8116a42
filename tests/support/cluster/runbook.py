"""RUNBOOK.md as a program reads it: its sections, and the commands of each.

A fenced block of the language `console` holds commands, on lines that begin with `$ `, and below each what it prints. A command goes on
to the end of its here-document. A block after the comment `<!-- not run: REASON -->` is not for a test. What is printed is shown in part:
each line shown is among the lines printed, in that order; `…` stands for anything, and spaces for any space.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

RUNBOOK = Path(__file__).parents[3] / "RUNBOOK.md"

_FENCE = re.compile(r"^(?P<indent> *)```console\n(?P<content>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"<!-- ((?:not run: .+)|prelude) -->\s*\Z")
_HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?")


@dataclass(frozen=True)
class Command:
    text: str
    shown: tuple[str, ...]

    def prints(self, output: str) -> bool:
        """Whether that is what is shown."""
        lines = iter(output.splitlines())
        return all(any(_as_shown(shown, line) for line in lines) for shown in self.shown)


@dataclass(frozen=True)
class Block:
    heading: str
    commands: tuple[Command, ...]
    comment: str
    """`prelude`, `not run: …`, or nothing."""

    @property
    def is_run(self) -> bool:
        return not self.comment


class Runbook:
    def __init__(self, text: str) -> None:
        self.text = text
        found = list(_FENCE.finditer(text))
        outside = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
        self.headings = _HEADING.findall(outside)
        self.blocks = [_block(text, match) for match in found]

    @classmethod
    def read(cls) -> "Runbook":
        return cls(RUNBOOK.read_text())

    def entry(self, heading: str) -> str:
        """The text below a heading, up to the next one of its level or above, without the blocks."""
        text = _without_blocks(self.text)
        found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
        assert found is not None, f"RUNBOOK.md has no entry {heading}"
        rest = text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    def commands(self, heading: str) -> list[Command]:
        """What a test has to run of a section."""
        return [
            command for block in self.blocks if block.heading == heading and block.is_run for command in block.commands
        ]

    def prelude(self) -> list[Command]:
        return [command for block in self.blocks if block.comment == "prelude" for command in block.commands]


def anchor(heading: str) -> str:
    """The fragment of a link to it, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _without_blocks(text: str) -> str:
    """Lines of blocks begin with # too."""
    return _FENCE.sub("", text)


def _block(text: str, match: re.Match[str]) -> Block:
    before = text[: match.start()]
    comment = _COMMENT.search(before)
    headings = _HEADING.findall(_without_blocks(before))
    return Block(headings[-1], tuple(_commands(textwrap.dedent(match["content"]))), comment[1] if comment else "")


def _commands(content: str) -> list[Command]:
    commands: list[tuple[list[str], list[str]]] = []
    end = ""  # of the here-document that is open
    for line in content.splitlines():
        if end:
            commands[-1][0].append(line)
            end = "" if line == end else end
        elif line.startswith("$ "):
            commands.append(([line.removeprefix("$ ")], []))
            opened = _HERE_DOCUMENT.search(line)
            end = opened[1] if opened else ""
        else:
            commands[-1][1].append(line)
    return [Command("\n".join(typed), tuple(shown)) for typed, shown in commands]


def _as_shown(shown: str, line: str) -> bool:
    pattern = r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in shown.split())
    return re.fullmatch(pattern, line.strip()) is not None
