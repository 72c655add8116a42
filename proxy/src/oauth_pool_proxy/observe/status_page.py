"""What this proxy knows about its accounts, as cards on the status page. Served beside `/metrics`, on `metrics_addr` only."""

from collections import deque
from math import inf

from oauth_pool_proxy.observe.status_html import Bar, Card, Tone, page, when
from oauth_pool_proxy.pool.account import Account, State
from oauth_pool_proxy.pool.pool import Pool

_LOGIN, _DESCRIBE, _RESUME = "login", "describe", "resume"
_BY_ITSELF = {"QuotaExhausted", "RateLimited", "CoolingDown", "Refreshing"}
_ADVICE = {
    "QuotaExhausted": ("Its quota is used up.", ""),
    "RateLimited": ("Too many requests in a short time.", ""),
    "CoolingDown": ("It met a limit.", ""),
    "Refreshing": ("The operator is getting it an access token.", ""),
    "Suspended": ("Somebody suspended it.", _RESUME),
    "LoginRequired": ("It needs a login.", _LOGIN),
    "Disabled": ("Its login has ended.", _LOGIN),
    "Unauthorized": ("The upstream refuses its access token.", _DESCRIBE),
    "Forbidden": ("The upstream refuses the account: its owner has to look at the provider's console.", _DESCRIBE),
    "Billing": ("The account cannot pay: its owner has to look at the provider's console.", _DESCRIBE),
    "NoAccessToken": ("This proxy has no access token for it.", _DESCRIBE),
    "AccessTokenExpired": ("Its access token has expired, and there is no newer one.", _DESCRIBE),
}
_RATE_SECONDS = 60.0


class StatusPage:
    """Renders the page. Requests per minute are counted since an earlier view, about a minute before."""

    def __init__(self, mode: str, version: str, pool: Pool | None) -> None:
        self._mode, self._version, self._pool = mode, version, pool
        self._looks: deque[tuple[float, dict[str, int]]] = deque()

    def render(self, figures: list[tuple[str, str]], now: float, *, reloads: bool) -> bytes:
        accounts = self._pool.accounts if self._pool else ()
        rates = self._rates(accounts, now)
        cards = [_card(account, rates.get(account.uid), now) for account in accounts]
        if self._pool and not self._pool.is_ready:
            figures = [("waits for", self._pool.waits_for), *figures]
        seen_by = f"oauth-pool-proxy {self._version}: what this proxy knows"
        return page(self._mode, seen_by, figures, cards, now, reloads=reloads)

    def _rates(self, accounts: tuple[Account, ...], now: float) -> dict[str, int]:
        """Requests per minute, by uid. Empty without an earlier view."""
        while len(self._looks) > 1 and self._looks[1][0] <= now - _RATE_SECONDS:
            self._looks.popleft()
        rates: dict[str, int] = {}
        if self._looks and now - (since := self._looks[0])[0] >= 1:
            scale = 60 / (now - since[0])
            rates = {
                account.uid: round((account.requests - since[1][account.uid]) * scale)
                for account in accounts
                if account.uid in since[1]
            }
        if not self._looks or now - self._looks[-1][0] >= 1:  # however many people view it at once
            self._looks.append((now, {account.uid: account.requests for account in accounts}))
        return rates


def _card(account: Account, rate: int | None, now: float) -> Card:
    state, reason = account.state(now), account.why_not(now)
    advice, verb = _ADVICE.get(reason or "", ("", _DESCRIBE if reason else ""))
    facts = [("requests/min", "-" if rate is None else str(rate)), ("under way", str(account.in_flight))]
    if state is State.COOLING_DOWN:
        until = account.cooling_until
        facts.append(("back", when(until, now) if until < inf else "when the operator says so"))
    if account.token:
        facts.append(("token expires", when(account.token.expires_at, now)))
    command = f"kubectl oauthaccount {verb} {account.name}" if verb else ""
    bars = [Bar(window.name, window.utilization, window.resets_at) for window in account.windows]
    return Card(account.name, reason or "Available", _tone(reason), bars, facts, advice, command)


def _tone(reason: str | None) -> Tone:
    if reason is None:
        return Tone.WELL
    if reason == "Suspended":
        return Tone.OFF
    return Tone.WAIT if reason in _BY_ITSELF else Tone.ACT
