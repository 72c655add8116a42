"""The error for a client when no account is left: 429 if waiting helps, 503 if someone has to act. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from oauth_pool_proxy.errors import PoolCoolingDown, PoolExhausted, ProxyError
from oauth_pool_proxy.observe.instants import rfc3339
from oauth_pool_proxy.pool.account import Account, Requirements, State

LONGEST_RETRY_AFTER = 8 * 86400.0
"""No window is longer. A limit that ends later is a mistake, or is unknown."""
UNKNOWN_RETRY_AFTER = 60.0
"""Used if accounts cool down with no known end."""

_COOLING, _LIMITED, _TRIED, _BUSY = "cooling down", "model limited", "tried", "busy"

_WORDS = {
    _COOLING: ("{} cooling down", "{} cooling down"),
    _LIMITED: ("{} has used up its limit for this model", "{} have used up their limits for this model"),
    _TRIED: ("{} refused this request", "{} refused this request"),
    _BUSY: ("{} has as many requests as it may have", "{} have as many requests as they may have"),
    "LoginRequired": ("{} needs a login", "{} need a login"),
    "Disabled": ("{} needs a login, its grant is dead", "{} need a login, their grants are dead"),
    "Suspended": ("{} is suspended", "{} are suspended"),
    "NoAccessToken": ("{} has no access token yet", "{} have no access token yet"),
    "AccessTokenExpired": ("{} has an expired access token", "{} have expired access tokens"),
}
"""Why accounts are not available: the wording for one and for several."""


def unknown(counts: Mapping[str, int]) -> ProxyError:
    return PoolExhausted("The pool index has not been read yet", counts)


def explained(
    accounts: Sequence[Account],
    now: float,
    requirements: Requirements,
    retry_at: float | None,
    counts: Mapping[str, int],
) -> ProxyError:
    """An error that lists every cause, with the number of accounts affected.

    `retry_at` is when the accounts that refused this request said they would take it, if they did.
    """
    if not accounts:
        return PoolExhausted(
            "The pool has no account. Add one: kubectl apply an OAuthAccount, then open its status.login.authorizationURL",
            counts,
        )
    causes: dict[str, list[float]] = {}
    selected = [account for account in accounts if account.is_selected(requirements.accounts)]
    if not selected:
        return PoolExhausted(
            f"No account of the pool is for this client: none has the labels {requirements.accounts}", counts
        )
    for account in selected:
        cause, until = _cause(account, now, requirements)
        causes.setdefault(cause, []).append(until)
    message = "No account is available: " + "; ".join(_in_words(cause, causes[cause]) for cause in causes)
    if not causes.keys() & {_COOLING, _LIMITED, _TRIED, _BUSY}:
        return PoolExhausted(f"{message}. `kubectl get oauthaccounts` shows what each one needs", counts)
    return PoolCoolingDown(message, retry_after=_retry_after(causes, now, retry_at))


def _cause(account: Account, now: float, requirements: Requirements) -> tuple[str, float]:
    """Why this account is not available for the request, and until when. `inf` if that is unknown."""
    state = account.state(now)
    if state is State.COOLING_DOWN:
        return _COOLING, account.cooling_until
    if state is State.DISABLED:
        is_rejected = account.rejection is not None and account.why_not(now) == account.rejection.reason.value
        return f"{'rejected ' if is_rejected else ''}{account.why_not(now)}", inf
    if (limited_until := account.model_limited_until(requirements.model)) > now:
        return _LIMITED, limited_until
    return (_TRIED if account.uid in requirements.tried else _BUSY), inf


def _in_words(cause: str, ends: Sequence[float]) -> str:
    one, several = _WORDS.get(cause) or _other_words(cause)
    text = (one if len(ends) == 1 else several).format(len(ends))
    until = _first(ends)
    if until is None:
        return text
    return f"{text}, {'' if len(ends) == 1 else 'the first '}until {_instant(until)}"


def _other_words(cause: str) -> tuple[str, str]:
    """The wording for the operator's other statuses, and for refusals by the API."""
    if cause.startswith("rejected "):
        reason = cause.removeprefix("rejected ")
        return f"{{}} was refused by the API ({reason})", f"{{}} were refused by the API ({reason})"
    return f"{{}} is {cause}", f"{{}} are {cause}"


def _retry_after(causes: Mapping[str, Sequence[float]], now: float, retry_at: float | None) -> float | None:
    """Seconds until the first account may take this request. None if those that refused it did not say."""
    if _TRIED in causes:
        until = retry_at
    elif _BUSY in causes:
        return 1
    elif _LIMITED in causes:
        until = _first(causes[_LIMITED])
    else:
        until = _first(causes[_COOLING]) or now + UNKNOWN_RETRY_AFTER
    return min(until - now, LONGEST_RETRY_AFTER) if until else None


def _first(ends: Iterable[float]) -> float | None:
    return min((end for end in ends if end < inf), default=None)


def _instant(until: float) -> str:
    try:
        return rfc3339(until)
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar has"
