"""Reads one TOML table key by key, with errors that a person can act on: what is wrong, where, and what is allowed."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, TypeVar

from oauth_pool_proxy.errors import ConfigInvalid

_Choice = TypeVar("_Choice", bound=StrEnum)

_KINDS = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
    list: "an array",
    dict: "a table",
}


def kind_of(value: object) -> str:
    return _KINDS.get(type(value), "a date or time")


class Table:
    """One table in the file, and its place in the file for messages."""

    def __init__(self, file: str, name: str, values: Mapping[str, object]) -> None:
        self._file, self._name, self._values = file, name, values

    def refuse(self, what: str, key: str | None = None) -> NoReturn:
        """Raise `ConfigInvalid`. All errors in this table go through here."""
        place = " ".join(part for part in (self._name, key) if part)
        raise ConfigInvalid(f"{self._file}: {place}: {what}" if place else f"{self._file}: {what}")

    def only(self, *known: str) -> None:
        """Refuse every other key: a misspelt setting must not be a silent default."""
        for key, value in self._values.items():
            if key not in known:
                is_table = isinstance(value, dict)
                what = "unknown table" if is_table else "unknown key"
                self.refuse(f"{what}; known are: {', '.join(known)}", self._bracketed(key) if is_table else key)

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._value(key, default)
        if value is not default and (not isinstance(value, str) or not value.strip()):
            self.refuse(f"must be a string that is not empty, not {_shown(value)}", key)
        return value if isinstance(value, str) else None

    def required_text(self, key: str, meaning: str) -> str:
        value = self.text(key)
        if value is None:
            self.refuse(f"is missing; it is {meaning}", key)
        return value

    def secret_text(self, key: str, meaning: str) -> str:
        """A string that may be empty and is never shown in a message."""
        value = self._value(key, None)
        if not isinstance(value, str):
            self.refuse(
                f"is missing; it is {meaning}" if value is None else f"must be a string, not {kind_of(value)}", key
            )
        return value

    def number(self, key: str, default: int, *, least: int, most: int = 2**31 - 1) -> int:
        value = self._value(key, default)
        if type(value) is not int or not least <= value <= most:
            self.refuse(f"must be a whole number from {least} to {most}, not {_shown(value)}", key)
        return value

    def numbers(self, key: str, *, least: int, most: int) -> tuple[int, ...]:
        """One number or an array of them. Empty if the file has none."""
        value = self._value(key, [])
        items = value if isinstance(value, list) else [value]
        if not all(type(item) is int and least <= item <= most for item in items):
            self.refuse(f"must be a whole number from {least} to {most}, or an array of such, not {_shown(value)}", key)
        return tuple(items)

    def fraction(self, key: str, default: float) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            self.refuse(f"must be a number from 0 to 1, not {_shown(value)}", key)
        return float(value)

    def choice(self, key: str, default: _Choice) -> _Choice:
        """One word of `default`'s enumeration."""
        value = self._value(key, default.value)
        try:
            return type(default)(str(value))
        except ValueError:
            words = ", ".join(f'"{word}"' for word in type(default))
            self.refuse(f"must be one of {words}, not {_shown(value)}", key)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.refuse(f"must be true or false, not {_shown(value)}", key)
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self._value(key, default)
        if value is default:
            return default
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.refuse(f"must be an array of strings that are not empty, not {_shown(value)}", key)
        return tuple(value)

    def path_beginnings(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        paths = self.texts(key, default)
        for path in paths:
            if not re.fullmatch(r"/[\x21-\x22\x24-\x3e\x40-\x7e]*", path):
                self.refuse(f'must be prefixes of paths, such as "/v1/", without a query; "{path}" is not', key)
        return paths

    def instant(self, key: str) -> float | None:
        """A TOML date and time with an offset, in seconds since 1970. None if the file has none."""
        value = self._value(key, None)
        if value is None:
            return None
        if not isinstance(value, datetime) or value.tzinfo is None:
            self.refuse("must be a date and time with an offset and no quotes, such as 2027-01-31T00:00:00Z", key)
        return value.timestamp()

    def path(self, key: str, default: str | None = None) -> Path | None:
        value = self.text(key, default)
        return Path(value) if value is not None else None

    def table(self, key: str) -> "Table | None":
        """The table inside this one. None if the file has none."""
        value = self._value(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(f"must be a table, not {kind_of(value)}", self._bracketed(key))
        return self.inner(key, value)

    def inner(self, key: str, values: Mapping[str, object]) -> "Table":
        return Table(self._file, self._bracketed(key), values)

    def tables(self, key: str) -> list["Table"]:
        name = f"[{self._bracketed(key)}]"
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.refuse(f"must be an array of tables, not {kind_of(value)}", name)
        return [Table(self._file, f"{name} number {number}", item) for number, item in enumerate(value, 1)]

    def _value(self, key: str, default: object) -> object:
        return self._values.get(key, default)

    def _bracketed(self, key: str) -> str:
        return f"[{self._name.strip('[]')}.{key}]" if self._name else f"[{key}]"


def _shown(value: object) -> str:
    """The value as written, if it is short and plain. Headers may contain credentials, so they never get here."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"' if value.isprintable() and len(value) <= 80 else "a string"
    return kind_of(value)
