"""The accounts a proxy may pick from now. Pure: no I/O, and every method that depends on time is told what time it is.

What the operator says about an account is its `IndexEntry` and is replaced as a whole; what this proxy knows by itself
(access token, cooldown, rejection, requests in flight, its turn) stays with the account as long as its uid does.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from oauth_pool_proxy.errors import PoolCoolingDown, PoolExhausted, ProxyError
from oauth_pool_proxy.pool_index import IndexEntry

REJECTION_SECONDS = 60.0
"""How long an account whose access token was refused is left alone, unless a newer one comes first."""

_USABLE = frozenset(("Available", "CoolingDown", "Refreshing", "StorageUnavailable"))
"""The operator's words that leave an account in use, while its access token is valid and no cooldown lasts. The last two
are the operator's own trouble, and the data plane does not wait for the control plane. Every other word, and one that
this version does not know, means that the account must not be used."""

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
    def __init__(self, entry: IndexEntry) -> None:
        self.entry = entry
        self.token: AccessToken | None = None
        self.cooldown: Cooldown | None = None
        self.rejection: Rejection | None = None
        self.in_flight = 0
        self.turn = 0
        self._index_cooldown_until = _cooldown_until(entry)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def uid(self) -> str:
        return self.entry.uid

    def __repr__(self) -> str:
        return f"<Account {self.name}>"

    def update(self, entry: IndexEntry, now: float) -> None:
        """Take what the operator says now, and keep what this proxy knows by itself.

        The longer of the two cooldowns counts. The operator ends a local one early (somebody cleared it, or the window
        was reset) by saying `Available`, but only after it has shown that it knows of it: since the local cooldown
        began, it must have said `CoolingDown` with an end after that beginning. An index that says `Available` merely
        because the report has not arrived yet therefore ends nothing.
        """
        self.entry = entry
        self._index_cooldown_until = _cooldown_until(entry)
        if self.cooldown is None:
            return
        if self._index_cooldown_until > self.cooldown.since:
            self.cooldown.is_known_to_operator = True
        elif entry.status == "Available" and self.cooldown.is_known_to_operator:
            self.cooldown = None

    def adopt(self, token: AccessToken) -> None:
        """Use this access token from now on. One that was not refused yet ends a rejection."""
        self.token = token
        if self.rejection and token.generation != self.rejection.generation:
            self.rejection = None

    def state(self, now: float) -> State:
        if self.entry.status not in _USABLE:
            return State.DISABLED
        if self.token is None or self.token.expires_at <= now or (self.rejection and self.rejection.until > now):
            return State.DISABLED
        return State.COOLING_DOWN if self.cooling_until > now else State.AVAILABLE

    @property
    def cooling_until(self) -> float:
        return max(self._index_cooldown_until, self.cooldown.until if self.cooldown else 0)

    @property
    def is_busy(self) -> bool:
        limit = self.entry.max_concurrent_requests
        return 0 < limit <= self.in_flight

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Counts one request, from the attempt to the last byte of its answer."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def cool_down(self, reason: Reason, until: float, now: float) -> bool:
        """Leave the account alone until then. True if that is news; the same limit met by a second request is not."""
        known = self.cooldown
        if known and known.until > now:
            if until <= known.until:
                return False
            if reason is known.reason and until <= known.until + _SAME_COOLDOWN:
                known.until = until
                return False
        self.cooldown = Cooldown(reason, now, until)
        return True

    def reject(self, reason: Reason, generation: int, now: float) -> bool:
        """Leave the account alone until a newer access token comes, or a little while. True if that is news."""
        if self.token and self.token.generation != generation:
            return False  # a newer one came while the request was on its way
        is_news = not (self.rejection and self.rejection.until > now and self.rejection.generation == generation)
        self.rejection = Rejection(reason, now + REJECTION_SECONDS, generation)
        return is_news


def _cooldown_until(entry: IndexEntry) -> float:
    if entry.status == "Available":
        return 0
    if entry.cooldown_until:
        return entry.cooldown_until.timestamp()
    # Without an end nobody but the operator can say when: far away, and the next entry replaces it.
    return 1e11 if entry.status == "CoolingDown" else 0


class Pool:
    def __init__(self) -> None:
        self.accounts: tuple[Account, ...] = ()
        self.is_loaded = False
        """Whether the pool index has been read at least once."""
        self.is_ready = False
        """Whether, after that, every access file has been looked for at least once."""

    def replace(self, entries: Iterable[IndexEntry], now: float) -> None:
        """Swap the whole pool at once. An account is the same one as long as its uid is."""
        known = {account.uid: account for account in self.accounts}
        accounts = []
        for entry in entries:
            account = known.get(entry.uid)
            if account is None:
                account = Account(entry)
            else:
                account.update(entry, now)
            accounts.append(account)
        self.accounts = tuple(accounts)
        self.is_loaded = True

    def pick(self, now: float, exclude: Collection[str] = ()) -> Account | None:
        """The next account of the highest tier that has one, in smooth weighted round robin; none if there is none."""
        free = [
            account
            for account in self.accounts
            if account.uid not in exclude and not account.is_busy and account.state(now) is State.AVAILABLE
        ]
        if not free:
            return None
        top = max(account.entry.priority for account in free)
        tier = [account for account in free if account.entry.priority == top]
        for account in tier:
            account.turn += account.entry.weight
        picked = max(tier, key=lambda account: account.turn)
        picked.turn -= sum(account.entry.weight for account in tier)
        return picked

    def why_none(self, now: float, tried: Collection[str] = (), retry_at: float | None = None) -> ProxyError:
        """What to tell a client for whom `pick` found nothing. `retry_at` is what the tried accounts said, if anything."""
        if not self.is_loaded:
            return PoolExhausted("The pool index has not been read yet", self.counts(now))
        if not self.accounts:
            return PoolExhausted(
                "The pool has no account. Add one: kubectl apply an OAuthAccount, then open its status.login.authorizationURL",
                self.counts(now),
            )
        available = [account for account in self.accounts if account.state(now) is State.AVAILABLE]
        if any(account.uid in tried for account in available):
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
