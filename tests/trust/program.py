"""What a trust program is, and what it hands back: a table, and a text for each promise that was broken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Say = Callable[[str], None]
"""Tells a person how far it is, in one line."""


@dataclass
class Report:
    """`rows` are as long as `columns`. An empty `failures` says that the promise was kept."""

    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def table(self) -> str:
        """For a terminal: the first column to the left, all others to the right."""
        rows = [[str(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.columns))]
        return "\n".join(
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


@dataclass(frozen=True)
class Program:
    """`run(short, say)` ends by itself. In its short form it is a test: seconds, small numbers, and nothing that a slow
    machine could make fail. It raises when it could not be run, which says nothing about the promise."""

    name: str
    promise: str
    run: Callable[[bool, Say], Report]
    minutes: float = 20
    """No run takes longer, whatever happens."""
