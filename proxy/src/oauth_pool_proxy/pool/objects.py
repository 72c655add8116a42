"""Which account made a file or a batch of messages: it exists there only. Pure: time is passed in.

An object that this proxy does not know was made through another one, before a restart, or long ago.
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
"""The results of a batch are kept for 29 days. A file has no end: it is remembered for so long after its last use."""


def creates_object(method: str, path: str) -> bool:
    """Whether a good answer to this request names a new object in its `id`. A query is no part of `path`."""
    return method == "POST" and path in _COLLECTIONS


def object_of(method: str, path: str) -> str | None:
    """The id of the object that this request is about, if it is about one that some account has made."""
    found = _OBJECT.fullmatch(path) if path.startswith(_PLACES) else None
    if found is None:
        return None
    is_about_it = method in ("GET", "HEAD", "DELETE") or (method == "POST" and _BATCH_CANCEL.fullmatch(path))
    return found[1] if is_about_it else None


class Objects:
    """Remembers at most `most` objects, each for `lifetime` seconds after it was last made or asked for."""

    def __init__(self, most: int = MOST, lifetime: float = LIFETIME) -> None:
        self._most, self._lifetime = most, lifetime
        self._owners: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """The one that was used longest ago comes first."""

    def __len__(self) -> int:
        return len(self._owners)

    def remember(self, object_id: str, uid: str, now: float) -> None:
        """The account with this uid made the object, or has shown that it has it."""
        self._owners[object_id] = (uid, now + self._lifetime)
        self._owners.move_to_end(object_id)
        self._forget_some(now)
        if len(self._owners) > self._most:
            self._owners.popitem(last=False)

    def owner(self, object_id: str, now: float) -> str | None:
        """The uid of the account that has it, which may be gone from the pool by now."""
        uid, until = self._owners.get(object_id, (None, 0.0))
        if uid is None or until <= now:
            return None
        self._owners[object_id] = (uid, now + self._lifetime)
        self._owners.move_to_end(object_id)
        return uid

    def _forget_some(self, now: float) -> None:
        """Two at a time: faster than they come, and never so many that a request waits for it."""
        for object_id in list(islice(self._owners, 2)):
            if self._owners[object_id][1] <= now:
                del self._owners[object_id]
