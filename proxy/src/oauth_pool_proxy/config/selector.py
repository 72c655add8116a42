"""Label selectors in kubectl's syntax: `tier=gold,team in (a, b),!spare`. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

_KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_VALUE = r"[A-Za-z0-9]?[A-Za-z0-9._-]*"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_BETWEEN = re.compile(r",(?![^(]*\))")
"""A comma outside parentheses."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector."""

    key: str
    values: frozenset[str] | None
    """None: any value."""
    is_wanted: bool
    """False: the label must be absent, or have another value."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        has_it = value is not None and (self.values is None or value in self.values)
        return has_it is self.is_wanted


@dataclass(frozen=True, slots=True)
class Selector:
    text: str
    requirements: tuple[Requirement, ...] = field(compare=False)
    mark: bytes = field(init=False, repr=False)
    """A digest that replaces the text where that would be too long."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", blake2b(self.text.encode(), digest_size=8).digest())

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether every requirement holds."""
        return all(requirement.holds(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return self.text


def parse_selector(text: str) -> Selector:
    """Raises `ValueError` with the part that is not valid."""
    return Selector(text, tuple(_requirement(part.strip()) for part in _BETWEEN.split(text)))


def _requirement(part: str) -> Requirement:
    if match := _SET.fullmatch(part):
        values = frozenset(value.strip() for value in match[3].split(","))
        if all(re.fullmatch(_VALUE, value) for value in values):
            return Requirement(match[1], values, match[2] == "in")
    elif match := _EQUAL.fullmatch(part):
        return Requirement(match[1], frozenset((match[3],)), match[2] != "!=")
    elif match := _EXISTS.fullmatch(part):
        return Requirement(match[2], None, not match[1])
    raise ValueError(part)
