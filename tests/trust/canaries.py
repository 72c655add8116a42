"""Secrets that are looked for afterwards: whole or in part, as they are or in an encoding that a program might use."""

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote

WINDOW = 16
"""So many characters in a row of a secret, or of an encoding of it, are a hit."""


class Canaries:
    """By kind. Of a JWT only the signature counts: the rest is no secret, and stands in many tokens."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self.count = 0

    def add(self, kind: str, *secrets: str) -> None:
        for secret in secrets:
            self.count += 1
            random = secret.rpartition(".")[2] if secret.startswith("ey") and secret.count(".") == 2 else secret
            for form in forms_of(random):
                for at in range(len(form) - WINDOW + 1):
                    self._kinds.setdefault(form[at : at + WINDOW], kind)

    def found_in(self, text: str) -> set[str]:
        """The kinds of secrets of which a part is in the text."""
        windows = (text[at : at + WINDOW] for at in range(len(text) - WINDOW + 1))
        return {self._kinds[window] for window in windows if window in self._kinds}

    def leaks(self, places: Mapping[str, str]) -> dict[str, set[str]]:
        """Places with what was found there."""
        return {place: found for place, text in places.items() if (found := self.found_in(text))}


def forms_of(secret: str) -> Iterator[str]:
    """As it is, percent-encoded, in hexadecimal digits, and in base64, wherever in a longer text it began."""
    data = secret.encode()
    yield secret
    yield quote(secret, safe="")
    yield data.hex()
    yield data.hex().upper()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data)
        whole = encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4].decode()  # the ends hold bits of the neighbours
        yield whole
        yield whole.replace("+", "-").replace("/", "_")
