"""Remembers which account created a file or a message batch: it exists only there. Pure: time is passed in.

An object that this proxy does not know was created through another proxy, before a restart, or long ago.
"""

import re
from collections import OrderedDict
from itertools import islice

_COLLECTIONS = frozenset(("/v1/files", "/v1/messages/batches"))
_PLACES = tuple(f"{place}/" for place in _COLLECTIONS)
_OBJECT = re.compile(r"(?:/v1/files|/v1/messages/batches)/([A-Za-z0-9_-]{1,128})(/.*)?", re.DOTALL)
_BATCH_CANCEL = re.compile(r"/v1/messages/batches/[^/]+/cancel")

MOST = 10_000
LIFETIME = 30 * 86400.0
"""The API keeps the results of a batch for 29 days. A file does not expire, and is remembered this long after its last use."""


def creates_object(method: str, path: str) -> bool:
    """Whether a good answer to this request names a new object in its `id`. `path` has no query."""
    return method == "POST" and path in _COLLECTIONS


def object_of(method: str, path: str) -> str | None:
    """The id of the object that this request is about, if it is about an existing one."""
    found = _OBJECT.fullmatch(path) if path.startswith(_PLACES) else None
    if found is None:
        return None
    is_about_it = method in ("GET", "HEAD", "DELETE") or (method == "POST" and _BATCH_CANCEL.fullmatch(path))
    return found[1] if is_about_it else None


class Objects:
    """Remembers at most `most` objects, each for `lifetime` seconds after it was created or last used."""

    def __init__(self, most: int = MOST, lifetime: float = LIFETIME) -> None:
        self._most, self._lifetime = most, lifetime
        self._owners: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """The least recently used object comes first."""

    def __len__(self) -> int:
        return len(self._owners)

    def remember(self, object_id: str, uid: str, now: float) -> None:
        """Remember that the account with this uid created the object, or was seen to have it."""
        self._owners[object_id] = (uid, now + self._lifetime)
        self._owners.move_to_end(object_id)
        self._forget_some(now)
        if len(self._owners) > self._most:
            self._owners.popitem(last=False)

    def owner(self, object_id: str, now: float) -> str | None:
        """The uid of the account that has it. The account may have left the pool by now."""
        uid, until = self._owners.get(object_id, (None, 0.0))
        if uid is None or until <= now:
            return None
        self._owners[object_id] = (uid, now + self._lifetime)
        self._owners.move_to_end(object_id)
        return uid

    def _forget_some(self, now: float) -> None:
        """Drop up to two at a time: faster than they arrive, and too few to hold up a request."""
        for object_id in list(islice(self._owners, 2)):
            if self._owners[object_id][1] <= now:
                del self._owners[object_id]
