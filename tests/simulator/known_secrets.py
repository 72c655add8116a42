"""Every secret that went through the simulator, so that a leak test knows what to look for."""

import threading
from typing import Literal, get_args

Kind = Literal["access_token", "refresh_token", "code", "device_code", "code_verifier", "state", "assertion"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class KnownSecrets:
    """Secrets by kind, in the order in which they were first seen, issued and received alike. Thread-safe.

    `state` is among them although it is only half a secret: it stands in every authorization URL.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # dicts as ordered sets
        self._values: dict[Kind, dict[str, None]] = {kind: {} for kind in KINDS}

    def add(self, kind: Kind, value: str) -> None:
        """Remember it, once; an empty text is no secret."""
        if not value:
            return
        with self._lock:
            self._values[kind][value] = None

    def listing(self) -> dict[str, list[str]]:
        with self._lock:
            return {kind: list(values) for kind, values in self._values.items()}
