"""Remembers which account a conversation used last, so it finds its prompt cache warm. Pure: no I/O, time is passed in.

A conversation's key decides where it belongs (`rendezvous.py`), the same on every proxy. This module remembers where it is now:
it stays there when accounts join, and while it is away because its own account had to rest. It only advises: each look-up asks
its caller whether the account may be used. An account that is gone is simply not available, so this module need not hear of it.
A conversation is stored as a digest, so nothing of a request is kept, and takes about 250 bytes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from oauth_pool_proxy.pool.request_body import Description
from oauth_pool_proxy.upstream.headers import Fields

SESSION = b"x-claude-code-session-id"


class Outcome(StrEnum):
    """Which account answered a conversation, for metrics."""

    NEW = "new"
    """This proxy does not know the conversation, or no longer does."""
    HIT = "hit"
    """The account that answered it before."""
    MOVED = "moved"
    """Another one: its prompt cache is written anew."""


@dataclass(slots=True)
class _Conversation:
    account: str
    """The account that answered last."""
    is_away: bool
    """Whether another account would have answered, had all been available."""
    used_at: float


def key_of(fields: Fields, describe: Callable[[], Description | None]) -> bytes | None:
    """A digest of this request's conversation, if anything tells it apart from others.

    The body is parsed only if no header names the conversation.
    """
    if session := fields.get(SESSION):
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

    A prompt cache unused for `cold` seconds is assumed gone. `home_of` returns the account that a conversation would have if
    all were available.
    """

    def __init__(
        self,
        home_of: Callable[[bytes], str | None],
        limit: int = 10_000,
        idle: float = 3600.0,
        cold: float = 300.0,
    ) -> None:
        self._home_of, self._limit, self._idle, self._cold = home_of, limit, idle, cold
        self._conversations: OrderedDict[bytes, _Conversation] = OrderedDict()
        """The least recently answered conversation comes first."""

    def __len__(self) -> int:
        return len(self._conversations)

    def account_for(self, key: bytes, now: float, is_available: Callable[[str], bool]) -> str | None:
        """The uid of the account to use. None: its key decides, as it is new or no longer has a reason to be away.

        A conversation keeps its account. One that is away stays there while the cache is warm, and goes back when that
        costs nothing: otherwise every cooldown would leave an account's conversations with the others.
        """
        known = self._conversations.get(key)
        if known is None or self._is_over(known, now):
            return None
        if known.is_away and now - known.used_at >= self._cold:
            return None
        return known.account if is_available(known.account) else None

    def answered(self, key: bytes, uid: str, now: float) -> Outcome:
        """Note that this account answered the conversation."""
        known = self._conversations.get(key)
        if known and known.account == uid and now - known.used_at <= self._idle:
            known.used_at = now
            self._conversations.move_to_end(key)
            return Outcome.HIT
        self._forget_some(now)
        known = self._conversations.get(key)
        is_new = known is None or self._is_over(known, now)
        self._conversations[key] = _Conversation(uid, self._home_of(key) != uid, now)
        self._conversations.move_to_end(key)
        if len(self._conversations) > self._limit:
            self._conversations.popitem(last=False)
        return Outcome.NEW if is_new else Outcome.MOVED

    def _is_over(self, conversation: _Conversation, now: float) -> bool:
        return now - conversation.used_at > self._idle

    def _forget_some(self, now: float) -> None:
        """Drop up to two for each new one: faster than they arrive, and too few to hold up a request."""
        for _ in range(2):
            oldest = next(iter(self._conversations.values()), None)
            if oldest is None or not self._is_over(oldest, now):
                return
            self._conversations.popitem(last=False)
