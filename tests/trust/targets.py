"""What fuzzing throws bytes at. A target raises only when a promise is broken: whatever else its code says to bad input is its
business. Its seeds are what good input looks like, and what has done harm before.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    name: str
    promise: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


class Broken(AssertionError):
    """A promise was."""


def must(claim: bool, what: str) -> None:
    if not claim:
        raise Broken(what)


def splits(data: bytes) -> Iterator[list[bytes]]:
    """The same bytes as they might arrive: at once, in two halves, and in pieces that grow."""
    middle = len(data) // 2
    yield [data] if data else []
    yield [half for half in (data[:middle], data[middle:]) if half]
    if len(data) <= 400:
        yield [data[at : at + 1] for at in range(len(data))]
    else:
        size = max(7, len(data) // 50)
        yield [data[at : at + size] for at in range(0, len(data), size)]


def header_lines(data: bytes) -> list[tuple[bytes, bytes]]:
    """The first bytes as headers, as a parser hands them over: names in lower case, no line breaks in values."""
    pairs = (line.partition(b":") for line in re.split(rb"[\r\n]+", data) if line)
    return [(name.lower().strip(), value.strip()) for name, _, value in pairs]


def deep(before: bytes, after: bytes = b"") -> bytes:
    """JSON or TOML with a value that is nested deeper than any decoder follows."""
    return before + b"[" * 20_000 + b"]" * 20_000 + after
