"""Which account a conversation used last, so that it finds its prompt cache warm. Pure: no I/O, time is passed in.

It only advises: whether an account may be used is asked of whoever knows, at every look. An account that is gone is one
that is not available, so nobody has to be told of it. A conversation is known by a digest, so that nothing of a request
is kept, and takes about 250 bytes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from oauth_pool_proxy.pool.request_body import Description
from oauth_pool_proxy.upstream.headers import Headers

SESSION = b"x-claude-code-session-id"


class Outcome(StrEnum):
    """Where a conversation was answered, for metrics."""

    NEW = "new"
    HIT = "hit"
    """By the account that answered it before."""
    MOVED = "moved"
    """By another one: its prompt cache is written anew."""


@dataclass(slots=True)
class _Conversation:
    home: str
    """The account that answered first."""
    account: str
    """The account that answered last."""
    used_at: float


def key_of(headers: Headers, describe: Callable[[], Description | None]) -> bytes | None:
    """A digest that stands for the conversation of this request, if anything tells it from others.

    The body is only described when no header names the conversation.
    """
    if session := dict(headers).get(SESSION):
        return _digest(b"session", session)
    description = describe()
    if description is None:
        return None
    if description.user_id:
        return _digest(b"user", description.user_id)
    return _digest(b"opening", description.opening) if description.opening else None


def _digest(kind: bytes, value: bytes) -> bytes:
    return blake2b(value, digest_size=16, person=kind).digest()


class Affinity:
    """Remembers at most `limit` conversations, each for `idle` seconds after it was last answered.

    A prompt cache that was not used for `cold` seconds is taken for gone.
    """

    def __init__(self, limit: int = 10_000, idle: float = 3600.0, cold: float = 300.0) -> None:
        self._limit, self._idle, self._cold = limit, idle, cold
        self._conversations: OrderedDict[bytes, _Conversation] = OrderedDict()
        """The one that was answered longest ago comes first."""

    def __len__(self) -> int:
        return len(self._conversations)

    def account_for(self, key: bytes, now: float, is_available: Callable[[str], bool]) -> str | None:
        """The uid of the account to ask, or None if any will do: the conversation is new, or its accounts are not available.

        A conversation keeps its account. One that had to leave its home stays away while the cache there is warm, and
        goes back when that costs nothing: otherwise every cooldown would leave its conversations with the others.
        """
        known = self._conversations.get(key)
        if known is None or self._is_over(known, now):
            return None
        is_warm = now - known.used_at < self._cold
        in_order = (known.account, known.home) if is_warm else (known.home, known.account)
        return next(filter(is_available, in_order), None)

    def answered(self, key: bytes, uid: str, now: float) -> Outcome:
        """This account answered the conversation."""
        self._forget_some(now)
        known = self._conversations.get(key)
        if known is None or self._is_over(known, now):
            self._conversations[key] = _Conversation(uid, uid, now)
            self._conversations.move_to_end(key)
            if len(self._conversations) > self._limit:
                self._conversations.popitem(last=False)
            return Outcome.NEW
        outcome = Outcome.HIT if known.account == uid else Outcome.MOVED
        known.account, known.used_at = uid, now
        self._conversations.move_to_end(key)
        return outcome

    def _is_over(self, conversation: _Conversation, now: float) -> bool:
        return now - conversation.used_at > self._idle

    def _forget_some(self, now: float) -> None:
        """Two at a time: faster than they come, and never so many that a request waits for it."""
        for _ in range(2):
            oldest = next(iter(self._conversations.values()), None)
            if oldest is None or not self._is_over(oldest, now):
                return
            self._conversations.popitem(last=False)
