"""One account of the pool. Pure: no I/O, and every method that depends on time takes `now`.

What the operator says about an account is its `IndexEntry`, which is replaced as a whole. What this proxy knows by itself
(access token, cooldown, rejection, model limits, requests in flight) stays with the account while its uid does not change.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from oauth_pool_proxy.config import Selector
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.limits import Window, windows_of
from oauth_pool_proxy.pool.rendezvous import point_of
from oauth_pool_proxy.upstream.headers import Headers

REJECTION_SECONDS = 60.0
"""How long an account is not picked after its access token was refused, unless a newer one comes first."""

_USABLE = frozenset(("Available", "CoolingDown", "Refreshing", "StorageUnavailable"))
"""The operator's statuses under which an account is used while its access token is valid and no cooldown lasts. The last two
are the operator's own trouble, and the data plane does not wait for the control plane. With any other status, known to this
version or not, the account must not be used."""

MOST_LIMITED_MODELS = 50
"""Clients choose the model names, so the number that an account remembers is limited."""

_SAME_COOLDOWN = 60.0
"""Cooldown ends closer together than this are the same limit with different jitter."""


class Reason(StrEnum):
    """Why an account is not picked, as reports word it."""

    QUOTA_EXHAUSTED = "QuotaExhausted"
    RATE_LIMITED = "RateLimited"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    BILLING = "Billing"


_OF_ACCOUNT = frozenset((Reason.FORBIDDEN, Reason.BILLING))
"""Refusals that a newer token does not cure. The operator shows them as a cooldown."""


class State(StrEnum):
    AVAILABLE = "available"
    COOLING_DOWN = "cooling_down"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class AccessToken:
    generation: int
    fingerprint: str
    expires_at: float
    value: str = field(repr=False)
    read_at: float = 0.0
    """When this proxy read it."""


@dataclass(slots=True)
class Cooldown:
    """A limit that this proxy hit itself. It belongs to the account, so a newer access token does not end it."""

    reason: Reason
    since: float
    until: float
    is_known_to_operator: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """The upstream refused this generation of the access token."""

    reason: Reason
    until: float
    generation: int


class Requirements(NamedTuple):
    """What one request requires of an account."""

    model: str | None = None
    tried: Collection[str] = ()
    """The uids of accounts that have already been tried."""
    conversation: bytes | None = None
    """The key of the conversation that it belongs to."""
    accounts: Selector | None = None
    """The accounts that the client may use, by label. None: all."""


class _Models:
    """Models for which an account is not picked, each until its own end. At most `MOST_LIMITED_MODELS`."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._ends)

    def until(self, model: str | None) -> float:
        return self._ends.get(model, 0) if model and self._ends else 0

    def add(self, model: str, until: float, now: float) -> bool:
        """Add a model. True: this is news."""
        is_news = self.until(model) <= now
        self.forget(now)
        if model in self._ends or len(self._ends) < MOST_LIMITED_MODELS:
            self._ends[model] = max(until, self._ends.get(model, 0))
        return is_news

    def forget(self, now: float) -> None:
        """Drop those that have ended."""
        self._ends = {model: end for model, end in self._ends.items() if end > now}

    def clear(self) -> None:
        self._ends.clear()

    @property
    def ends(self) -> list[float]:
        return list(self._ends.values())


def _ignore(_: "Account") -> None:
    """The callback of an account that nothing watches."""


class Account:
    """`changed` is called whenever the account may have become pickable, or no longer pickable. `limits_changed` is called when
    the upstream reports its windows differently than before.
    """

    def __init__(
        self,
        entry: IndexEntry,
        changed: Callable[["Account"], None] = _ignore,
        limits_changed: Callable[["Account"], None] = _ignore,
    ) -> None:
        self.entry = entry
        self.name, self.uid = entry.name, entry.uid
        self.point = point_of(entry.uid)
        """Its number in the draw for a conversation."""
        self.token: AccessToken | None = None
        self.cooldown: Cooldown | None = None
        self.rejection: Rejection | None = None
        self.in_flight = 0
        self.requests = 0
        """How many requests it has been sent, ever."""
        self.limits: Headers = []
        """The limit headers of the latest answer."""
        self._windows: tuple[Window, ...] | None = ()
        self._changed, self._limits_changed = changed, limits_changed
        self._index_cooldown_until = _cooldown_until(entry)
        self._limited_models, self._refused_models = _Models(), _Models()

    def __repr__(self) -> str:
        return f"<Account {self.name}>"

    def update(self, entry: IndexEntry) -> None:
        """Adopt what the operator says now, and keep what this proxy knows by itself.

        The longer of the two cooldowns counts. The operator can end a local one early (someone cleared it, or the window
        was reset) by saying `Available`, but only after it has shown that it knows of it. That is, it said `CoolingDown` with
        an end after the local cooldown began, or with one that covered it already. So an index that says `Available` only
        because the report has not arrived yet ends nothing. The operator ends a refusal of the account in the same way.
        """
        before, self._index_cooldown_until = self._index_cooldown_until, _cooldown_until(entry)
        self.entry = entry
        if (refusal := self.rejection) and refusal.reason in _OF_ACCOUNT and entry.status == "Available":
            self.rejection = None if before >= refusal.until - _SAME_COOLDOWN else refusal
        if cooldown := self.cooldown:
            was_covered = before >= cooldown.until - _SAME_COOLDOWN
            if self._index_cooldown_until > cooldown.since:
                cooldown.is_known_to_operator = True
            elif entry.status == "Available" and (cooldown.is_known_to_operator or was_covered):
                self.cooldown = None
                self._limited_models.clear()
                self._refused_models.clear()
        self._changed(self)

    def adopt(self, token: AccessToken) -> None:
        """Use this access token from now on. A token that has not been refused yet ends a rejection."""
        self.token = token
        if self.rejection and token.generation != self.rejection.generation:
            self.rejection = None
        self._changed(self)

    def state(self, now: float) -> State:
        if self.entry.status not in _USABLE:
            return State.DISABLED
        if self.token is None or self.token.expires_at <= now or (self.rejection and self.rejection.until > now):
            return State.DISABLED
        return State.COOLING_DOWN if self.cooling_until > now else State.AVAILABLE

    def why_not(self, now: float) -> str | None:
        """Why the account is not available, in one word. It is the operator's own word where the operator decided."""
        if self.entry.status not in _USABLE:
            return self.entry.status
        if self.token is None:
            return "NoAccessToken"
        if self.has_expired(now):
            return "AccessTokenExpired"
        if self.rejection and self.rejection.until > now:
            return self.rejection.reason.value
        if self.cooling_until > now:
            return self.cooldown.reason.value if self.cooldown and self.cooldown.until > now else "CoolingDown"
        return None

    def is_selected(self, selector: Selector | None) -> bool:
        """Whether the selector matches the labels of its object."""
        return selector is None or selector.matches(self.entry.labels or {})

    def has_expired(self, now: float) -> bool:
        """Whether only a newer access token is missing."""
        return self.entry.status in _USABLE and self.token is not None and self.token.expires_at <= now

    def next_change(self, now: float) -> float | None:
        """The soonest instant at which time alone may change `state` or a model's limit or refusal."""
        instants = [self.cooling_until, *self._limited_models.ends, *self._refused_models.ends]
        if self.token:
            instants.append(self.token.expires_at)
        if self.rejection:
            instants.append(self.rejection.until)
        return min((instant for instant in instants if now < instant < inf), default=None)

    @property
    def cooling_until(self) -> float:
        """When the account is available again. `inf` if it is cooling down with no known end."""
        return max(self._index_cooldown_until, self.cooldown.until if self.cooldown else 0)

    @property
    def is_busy(self) -> bool:
        limit = self.entry.max_concurrent_requests
        return 0 < limit <= self.in_flight

    def begin(self) -> None:
        """Count one request until `end`: from the attempt to the last byte of its answer."""
        self.in_flight += 1
        self.requests += 1
        if self.entry.max_concurrent_requests:
            self._changed(self)
        if self.requests == 1:
            self._limits_changed(self)  # from now on, unknown limits rank differently

    def end(self) -> None:
        self.in_flight -= 1
        if self.entry.max_concurrent_requests:
            self._changed(self)

    def cool_down(self, reason: Reason, until: float, now: float) -> bool:
        """Do not pick the account until then. True: this is news. The same limit hit by a second request is not."""
        known = self.cooldown
        if known and known.until > now:
            if until <= known.until:
                return False
            if reason is known.reason and until <= known.until + _SAME_COOLDOWN:
                known.until = until
                self._changed(self)
                return False
        self.cooldown = Cooldown(reason, now, until)
        self._changed(self)
        return True

    def reject(self, reason: Reason, generation: int, now: float, seconds: float = REJECTION_SECONDS) -> bool:
        """Do not pick the account until a newer access token comes, or for `seconds`. True: this is news.

        A rejection that already lasts longer is not shortened.
        """
        if self.token and self.token.generation != generation:
            return False  # a newer one came while the request was in flight
        known, until = self.rejection, now + seconds
        is_known = known is not None and known.until > now and known.generation == generation
        if not (is_known and known and known.until >= until):
            self.rejection = Rejection(reason, until, generation)
            self._changed(self)
        return not is_known

    def note_limits(self, headers: Headers) -> None:
        """Keep what an answer says about the account's limits. It is parsed only when needed."""
        limits = [header for header in headers if header[0].startswith(b"anthropic-ratelimit-")]
        if limits and limits != self.limits:
            self.limits, self._windows = limits, None
            self._limits_changed(self)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows in `limits`, parsed once."""
        if self._windows is None:
            self._windows = windows_of(self.limits)
        return self._windows

    def limit_model(self, model: str, until: float, now: float) -> bool:
        """Do not pick the account for requests to this model until then. True: this is news."""
        is_news = self._limited_models.add(model, until, now)
        self._changed(self)
        return is_news

    def model_limited_until(self, model: str | None) -> float:
        return self._limited_models.until(model)

    def refuse_model(self, model: str, until: float, now: float) -> bool:
        """The account was refused this model. Until then, other accounts come first. True: this is news."""
        is_news = self._refused_models.add(model, until, now)
        self._changed(self)
        return is_news

    def model_refused_until(self, model: str | None) -> float:
        return self._refused_models.until(model)

    def forget_models(self, now: float) -> None:
        """Forget the limits and refusals that have ended."""
        self._limited_models.forget(now)
        self._refused_models.forget(now)

    @property
    def has_limited_models(self) -> bool:
        return bool(self._limited_models)

    @property
    def has_refused_models(self) -> bool:
        return bool(self._refused_models)


def _cooldown_until(entry: IndexEntry) -> float:
    if entry.status == "Available":
        return 0
    if entry.cooldown_until:
        return entry.cooldown_until.timestamp()
    # Without an end, only the operator knows when, and its next entry says so.
    return inf if entry.status == "CoolingDown" else 0
