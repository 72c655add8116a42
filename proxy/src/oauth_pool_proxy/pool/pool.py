"""The accounts a proxy may pick from now. Pure: no I/O, and every method that depends on time is told what time it is.

What the operator says about an account is its `IndexEntry` and is replaced as a whole; what this proxy knows by itself
(access token, cooldown, rejection, requests in flight, its turn) stays with the account as long as its uid does.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heappop, heappush

from oauth_pool_proxy.errors import PoolCoolingDown, PoolExhausted, ProxyError
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.round_robin import Turns
from oauth_pool_proxy.upstream.headers import Headers

REJECTION_SECONDS = 60.0
"""How long an account whose access token was refused is left alone, unless a newer one comes first."""

_USABLE = frozenset(("Available", "CoolingDown", "Refreshing", "StorageUnavailable"))
"""The operator's words that leave an account in use, while its access token is valid and no cooldown lasts. The last two
are the operator's own trouble, and the data plane does not wait for the control plane. Every other word, and one that
this version does not know, means that the account must not be used."""

MOST_LIMITED_MODELS = 50
"""A model's name is the client's word, so an account does not remember any number of them."""

_SAME_COOLDOWN = 60.0
"""Two ends of a cooldown that are closer than this are the same one with another jitter."""


class Reason(StrEnum):
    """Why an account is not picked. The first four are also the reasons of a report."""

    QUOTA_EXHAUSTED = "QuotaExhausted"
    RATE_LIMITED = "RateLimited"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    BILLING = "Billing"


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
    """A limit that this proxy met itself. It belongs to the account, so a newer access token does not end it."""

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


class Account:
    """`changed` is told whenever something happened that may make the account pickable, or no longer so."""

    def __init__(self, entry: IndexEntry, changed: Callable[["Account"], None] = lambda _: None) -> None:
        self.entry = entry
        self.token: AccessToken | None = None
        self.cooldown: Cooldown | None = None
        self.rejection: Rejection | None = None
        self.in_flight = 0
        self.requests = 0
        """How many it was asked, ever."""
        self.limits: Headers = []
        """The limit headers of the latest answer."""
        self._changed = changed
        self._index_cooldown_until = _cooldown_until(entry)
        self._models: dict[str, float] = {}

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def uid(self) -> str:
        return self.entry.uid

    def __repr__(self) -> str:
        return f"<Account {self.name}>"

    def update(self, entry: IndexEntry) -> None:
        """Take what the operator says now, and keep what this proxy knows by itself.

        The longer of the two cooldowns counts. The operator ends a local one early (somebody cleared it, or the window
        was reset) by saying `Available`, but only after it has shown that it knows of it: since the local cooldown
        began, it must have said `CoolingDown` with an end after that beginning. An index that says `Available` merely
        because the report has not arrived yet therefore ends nothing.
        """
        self.entry = entry
        self._index_cooldown_until = _cooldown_until(entry)
        self._changed(self)
        if self.cooldown is None:
            return
        if self._index_cooldown_until > self.cooldown.since:
            self.cooldown.is_known_to_operator = True
        elif entry.status == "Available" and self.cooldown.is_known_to_operator:
            self.cooldown = None
            self._models.clear()

    def adopt(self, token: AccessToken) -> None:
        """Use this access token from now on. One that was not refused yet ends a rejection."""
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
        """In a word, why the account is not available; the operator's own word where it is its decision."""
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

    def has_expired(self, now: float) -> bool:
        """Whether nothing but a newer access token is missing."""
        return self.entry.status in _USABLE and self.token is not None and self.token.expires_at <= now

    def next_change(self, now: float) -> float | None:
        """The soonest instant at which time alone may make `state` another one."""
        instants = [self.cooling_until]
        if self.token:
            instants.append(self.token.expires_at)
        if self.rejection:
            instants.append(self.rejection.until)
        return min((instant for instant in instants if instant > now), default=None)

    @property
    def cooling_until(self) -> float:
        return max(self._index_cooldown_until, self.cooldown.until if self.cooldown else 0)

    @property
    def is_busy(self) -> bool:
        limit = self.entry.max_concurrent_requests
        return 0 < limit <= self.in_flight

    def begin(self) -> None:
        """Counts one request, from the attempt to the last byte of its answer: until `end`."""
        self.in_flight += 1
        self.requests += 1
        if self.entry.max_concurrent_requests:
            self._changed(self)

    def end(self) -> None:
        self.in_flight -= 1
        if self.entry.max_concurrent_requests:
            self._changed(self)

    def cool_down(self, reason: Reason, until: float, now: float) -> bool:
        """Leave the account alone until then. True if that is news; the same limit met by a second request is not."""
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
        """Leave the account alone until a newer access token comes, or a little while. True if that is news."""
        if self.token and self.token.generation != generation:
            return False  # a newer one came while the request was on its way
        is_news = not (self.rejection and self.rejection.until > now and self.rejection.generation == generation)
        self.rejection = Rejection(reason, now + seconds, generation)
        self._changed(self)
        return is_news

    def note_limits(self, headers: Headers) -> None:
        """Keep what an answer says about the account's limits; whoever needs to know reads it then."""
        limits = [header for header in headers if header[0].startswith(b"anthropic-ratelimit-")]
        if limits:
            self.limits = limits

    def refuse_model(self, model: str, until: float, now: float) -> bool:
        return self.limit_model(model, until, now)

    def limit_model(self, model: str, until: float, now: float) -> bool:
        """Leave the account alone for requests to this model until then. True if that is news."""
        is_news = self.model_limited_until(model) <= now
        self._models = {name: end for name, end in self._models.items() if end > now}
        if model in self._models or len(self._models) < MOST_LIMITED_MODELS:
            self._models[model] = max(until, self._models.get(model, 0))
        return is_news

    def model_limited_until(self, model: str | None) -> float:
        return self._models.get(model, 0) if model and self._models else 0


def _cooldown_until(entry: IndexEntry) -> float:
    if entry.status == "Available":
        return 0
    if entry.cooldown_until:
        return entry.cooldown_until.timestamp()
    # Without an end nobody but the operator can say when: far away, and the next entry replaces it.
    return 1e11 if entry.status == "CoolingDown" else 0


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request needs of an account."""

    model: str | None = None
    tried: Collection[str] = ()
    """The uids of accounts that it went to already."""


_ANY = Wish()


class Pool:
    """All accounts, and among them whose turn it is.

    Whether an account can be picked is looked at again only when something happened to it or a time limit of it has
    passed, so that a pick costs the same with ten accounts and with a thousand.
    """

    def __init__(self, on_expired: Callable[[Account], None] = lambda _: None) -> None:
        self.accounts: tuple[Account, ...] = ()
        self.is_loaded = False
        """Whether the pool index has been read at least once."""
        self.is_ready = False
        """Whether, after that, every access file has been looked for at least once."""
        self.on_expired = on_expired
        """Told when the access token of an account that could otherwise be used has expired."""
        self.limits_models = False
        """Whether any account has been limited for single models."""
        self._by_uid: dict[str, Account] = {}
        self._turns: Turns[Account] = Turns()
        self._changed: dict[Account, None] = {}
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}

    def replace(self, entries: Iterable[IndexEntry]) -> None:
        """Swap the whole pool at once. An account is the same one as long as its uid is."""
        known, self._by_uid = self._by_uid, {}
        for entry in entries:
            account = known.pop(entry.uid, None)
            if account is None:
                account = Account(entry, self._note_change)
                self._note_change(account)
            else:
                account.update(entry)
            self._by_uid[entry.uid] = account
        for gone in known.values():
            self._turns.remove(gone)
            self._changed.pop(gone, None)
            self._due_at.pop(gone.uid, None)
        self.accounts = tuple(self._by_uid.values())
        self.is_loaded = True

    def pick(self, now: float, wish: Wish = _ANY) -> Account | None:
        """The next account of the highest tier that has one for this request; none if there is none."""
        self._catch_up(now)
        return self._turns.take(lambda account: self._suits(account, now, wish))

    def account(self, uid: str) -> Account | None:
        return self._by_uid.get(uid)

    def may_pick(self, uid: str, now: float, wish: Wish = _ANY) -> bool:
        """Whether this account is one of those that `pick` chooses from."""
        self._catch_up(now)
        account = self._by_uid.get(uid)
        if account is None or not self._suits(account, now, wish):
            return False
        return self._turns.could_take(account, lambda other: self._suits(other, now, wish))

    def _suits(self, account: Account, now: float, wish: Wish) -> bool:
        return account.uid not in wish.tried and account.model_limited_until(wish.model) <= now

    def _note_change(self, account: Account) -> None:
        self._changed[account] = None

    def _catch_up(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            instant, uid = heappop(self._due)
            if self._due_at.get(uid) == instant:
                del self._due_at[uid]
                if account := self._by_uid.get(uid):
                    self._changed[account] = None
        if self._changed:
            changed, self._changed = self._changed, {}
            for account in changed:
                if self._by_uid.get(account.uid) is account:  # else it is gone, and only its last requests are not
                    self._sort_in(account, now)

    def _sort_in(self, account: Account, now: float) -> None:
        if account.state(now) is State.AVAILABLE and not account.is_busy:
            self._turns.put(account, account.entry.priority, account.entry.weight)
        else:
            self._turns.remove(account)
        if account.has_expired(now):
            self.on_expired(account)
        instant = account.next_change(now)
        if instant is not None and self._due_at.get(account.uid) != instant:
            self._due_at[account.uid] = instant
            heappush(self._due, (instant, account.uid))

    def why_none(self, now: float, wish: Wish = _ANY, retry_at: float | None = None) -> ProxyError:
        """What to tell a client for whom `pick` found nothing. `retry_at` is what the tried accounts said, if anything."""
        if not self.is_loaded:
            return PoolExhausted("The pool index has not been read yet", self.counts(now))
        if not self.accounts:
            return PoolExhausted(
                "The pool has no account. Add one: kubectl apply an OAuthAccount, then open its status.login.authorizationURL",
                self.counts(now),
            )
        available = [account for account in self.accounts if account.state(now) is State.AVAILABLE]
        limited = [until for account in available if (until := account.model_limited_until(wish.model)) > now]
        if limited and len(limited) == len(available):
            message = (
                "Every available account has used up its limit for this model; retry-after says when the first is reset"
            )
            return PoolCoolingDown(message, retry_after=min(limited) - now)
        if any(account.uid in wish.tried for account in available):
            message = "Every account of the pool refused this request for its rate limit"
            return PoolCoolingDown(message, retry_after=retry_at - now if retry_at else None)
        if available:
            return PoolCoolingDown("Every available account has as many requests as it may have", retry_after=1)
        cooling = [account.cooling_until for account in self.accounts if account.state(now) is State.COOLING_DOWN]
        if cooling:
            message = "Every account of the pool is cooling down; retry-after says when the first is available again"
            return PoolCoolingDown(message, retry_after=min(cooling) - now)
        message = "All accounts exhausted: none is usable, and `kubectl get oauthaccounts` shows what each one needs"
        return PoolExhausted(message, self.counts(now))

    def counts(self, now: float) -> dict[str, int]:
        states = [account.state(now) for account in self.accounts]
        return {
            "accounts_total": len(states),
            "accounts_available": states.count(State.AVAILABLE),
            "accounts_cooling": states.count(State.COOLING_DOWN),
            "accounts_disabled": states.count(State.DISABLED),
        }
