"""Decides which paths are forwarded, however they are spelled. Pure."""

import posixpath
import re
from functools import lru_cache
from urllib.parse import unquote


class Paths:
    """Prefixes of denied paths and of allowed paths. Without allowed prefixes, every other path is allowed."""

    def __init__(self, denied: tuple[str, ...], allowed: tuple[str, ...]) -> None:
        self._denied, self._allowed = tuple(path.lower() for path in denied), allowed
        # Clients use few paths, and use each of them very often.
        self.admit = lru_cache(1024)(self._look_at)

    def _look_at(self, path: str) -> bool:
        """Whether the path is allowed however the upstream reads it: as it is, or with escapes and dot segments resolved."""
        readings = _readings(path)
        if any(_begins_with(reading.lower(), self._denied) for reading in readings):
            return False
        return not self._allowed or all(_begins_with(reading, self._allowed) for reading in readings)


def _begins_with(path: str, beginnings: tuple[str, ...]) -> bool:
    return path.startswith(beginnings) or f"{path}/" in beginnings


def _readings(path: str) -> set[str]:
    readings, decoded = {path}, path
    for _ in range(3):  # more often than any chain of servers decodes
        readings.add(_resolved(decoded))
        decoded = unquote(decoded)
    return readings


def _resolved(path: str) -> str:
    """Without dot segments (RFC 3986 5.2.4), doubled slashes, backslashes and segment parameters."""
    plain = re.sub(r";[^/]*", "", path.replace("\\", "/"))
    resolved = posixpath.normpath("/" + plain.lstrip("/"))
    return resolved + "/" if plain.endswith("/") and resolved != "/" else resolved
