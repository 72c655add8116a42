"""The accounts that a proxy may pick from now, and which comes next. Pure: methods that depend on time take `now`.

Without a conversation, accounts of the highest tier take turns by weight, or the configured strategy decides. A conversation's
account is drawn from its key and the accounts' uids, so every proxy draws the same one.
"""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from oauth_pool_proxy.config import Selector, Strategy
from oauth_pool_proxy.errors import ProxyError
from oauth_pool_proxy.pool import rendezvous, unavailable
from oauth_pool_proxy.pool.account import AccessToken, Account, Reason, Requirements, State
from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.round_robin import Tier, WeightedRoundRobin
from oauth_pool_proxy.pool.strategy import Preference

__all__ = ["AccessToken", "Account", "Pool", "Reason", "Requirements", "State"]


_ANY = Requirements()


class Pool:
    """All accounts, and which of them is next.

    Whether an account can be picked is checked again only when something has happened to it or one of its time limits has
    passed. So a pick costs the same with ten accounts as with a thousand. A draw for a conversation, made once for each,
    costs a multiplication per account.
    """

    def __init__(self, strategy: Strategy = Strategy.ROUND_ROBIN, reserve: float = 1.0) -> None:
        self.accounts: tuple[Account, ...] = ()
        self.is_loaded = False
        """Whether the pool index has been read at least once."""
        self.is_ready = False
        """Whether every access token has been looked for at least once after that."""
        self.waits_for = "the pool index has not been read yet"
        """Why the pool is not ready yet."""
        self.on_expired: Callable[[Account], None] = lambda _: None
        """Called when the access token of an otherwise usable account has expired."""
        self._preference = Preference(strategy, reserve)
        self._by_uid: dict[str, Account] = {}
        self._scheduler: WeightedRoundRobin[Account] = WeightedRoundRobin()
        self._homes: list[tuple[int, list[Account]]] | None = None
        self._selections: dict[str, frozenset[str]] = {}
        """The uids of the accounts that each selector matches, cached on first use."""
        self._changed: dict[Account, None] = {}
        self._due: list[tuple[float, str]] = []
        self._due_at: dict[str, float] = {}
        self._with_models: set[Account] = set()

    def replace(self, entries: Iterable[IndexEntry]) -> None:
        """Swap the whole pool at once. An account is identified by its uid. If its entry is the same object as before, it is
        skipped.
        """
        known, self._by_uid = self._by_uid, {}
        for entry in entries:
            if entry.uid in self._by_uid:
                continue  # a duplicate in the index
            account = known.pop(entry.uid, None)
            if account is None:
                account = self._joined(entry)
            elif account.entry is not entry:
                account.update(entry)
            self._by_uid[entry.uid] = account
        for gone in known.values():
            self._left(gone)
        self.accounts = tuple(self._by_uid.values())
        self._homes = None
        self._selections.clear()
        self.is_loaded = True

    def _joined(self, entry: IndexEntry) -> Account:
        watches = self._preference.reads_windows
        note = self._note_change
        account = Account(entry, note, note) if watches else Account(entry, note)
        note(account)
        return account

    def _left(self, account: Account) -> None:
        self._scheduler.remove(account)
        self._changed.pop(account, None)
        self._due_at.pop(account.uid, None)
        self._with_models.discard(account)

    def account(self, uid: str) -> Account | None:
        return self._by_uid.get(uid)

    @property
    def tokens_held(self) -> int:
        """How many accounts have an access token here, including expired ones."""
        return sum(1 for account in self.accounts if account.token)

    @property
    def limits_models(self) -> bool:
        """Whether a request's model matters: some account is limited for a model, or was refused one."""
        return bool(self._with_models)

    def pick(self, now: float, requirements: Requirements = _ANY) -> Account | None:
        """Pick an account of the highest tier for this request. None: no account may be used.

        An account that was refused the model comes after all others, since its answer is known.
        """
        self._catch_up(now)
        for is_eligible in self._choices(now, requirements):
            if requirements.conversation is None:
                account = self._scheduler.take(is_eligible)
            else:
                account = self._draw(requirements.conversation, is_eligible)
            if account is not None:
                return account
        return None

    def may_pick(self, uid: str, now: float, requirements: Requirements = _ANY) -> bool:
        """Whether a conversation may stay with this account: it is available, and none of a higher tier is."""
        self._catch_up(now)
        account = self._by_uid.get(uid)
        if account is None:
            return False
        for is_eligible in self._choices(now, requirements):
            if is_eligible(account):
                return self._scheduler.is_of_first_level(account, is_eligible)
            if self._scheduler.has_any(is_eligible):
                return False
        return False

    def home_of(self, conversation: bytes) -> str | None:
        """The uid of the account that this conversation would have if all of them were available."""
        if self._homes is None:
            highest = max((account.entry.priority for account in self.accounts), default=0)
            groups: dict[int, list[Account]] = {}
            for account in self.accounts:
                if account.entry.priority == highest:
                    groups.setdefault(account.entry.weight, []).append(account)
            self._homes = list(groups.items())
        home = rendezvous.choose(conversation, self._homes, lambda _: True)
        return home.uid if home else None

    def why_none(self, now: float, requirements: Requirements = _ANY, retry_at: float | None = None) -> ProxyError:
        """The error for a client when `pick` found nothing. `retry_at` is what the tried accounts said, if anything."""
        if not self.is_loaded:
            return unavailable.unknown(self.counts(now))
        return unavailable.explained(self.accounts, now, requirements, retry_at, self.counts(now))

    def counts(self, now: float) -> dict[str, int]:
        states = [account.state(now) for account in self.accounts]
        return {
            "accounts_total": len(states),
            "accounts_available": states.count(State.AVAILABLE),
            "accounts_cooling": states.count(State.COOLING_DOWN),
            "accounts_disabled": states.count(State.DISABLED),
        }

    def _draw(self, conversation: bytes, is_eligible: Callable[[Account], bool]) -> Account | None:
        for groups in self._scheduler.groups():
            account = rendezvous.choose(conversation, groups, is_eligible)
            if account is not None:
                return account
        return None

    def _choices(self, now: float, requirements: Requirements) -> list[Callable[[Account], bool]]:
        """Tests of which accounts are eligible, in order: those that may answer, then also those that were refused its model."""
        model, tried = requirements.model, requirements.tried
        selected = None if requirements.accounts is None else self._selected(requirements.accounts)
        if not self._with_models:
            if selected is None:
                return [lambda account: account.uid not in tried]
            return [lambda account: account.uid in selected and account.uid not in tried]

        def suits(account: Account) -> bool:
            if account.uid in tried or (selected is not None and account.uid not in selected):
                return False
            return account.model_limited_until(model) <= now

        if model and any(account.has_refused_models for account in self._with_models):
            return [lambda account: suits(account) and account.model_refused_until(model) <= now, suits]
        return [suits]

    def _selected(self, selector: Selector) -> frozenset[str]:
        uids = self._selections.get(selector.text)
        if uids is None:
            uids = frozenset(account.uid for account in self.accounts if account.is_selected(selector))
            self._selections[selector.text] = uids
        return uids

    def _note_change(self, account: Account) -> None:
        self._changed[account] = None
        if account.has_limited_models or account.has_refused_models:
            self._with_models.add(account)

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
                if self._by_uid.get(account.uid) is account:  # else it has left, and only its last requests still run
                    self._sort_in(account, now)
                else:
                    self._with_models.discard(account)

    def _sort_in(self, account: Account, now: float) -> None:
        if account.state(now) is State.AVAILABLE and not account.is_busy:
            preference, priority = self._preference, account.entry.priority
            tier = Tier(-priority, preference.is_reserve(account, now), preference.rank(account, now))
            self._scheduler.put(account, tier, account.entry.weight)
        else:
            self._scheduler.remove(account)
        if account in self._with_models:
            account.forget_models(now)
            if not (account.has_limited_models or account.has_refused_models):
                self._with_models.discard(account)
        if account.has_expired(now):
            self.on_expired(account)
        self._wake_up_at(_earlier(account.next_change(now), self._preference.next_change(account, now)), account.uid)

    def _wake_up_at(self, instant: float | None, uid: str) -> None:
        if instant is not None and self._due_at.get(uid) != instant:
            self._due_at[uid] = instant
            heappush(self._due, (instant, uid))


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
