"""What an account's status says about a login: what blocks it, and how it ended. Pure."""

from dataclasses import dataclass
from typing import Any

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.account import AccountView

# Nothing of this goes away while one waits.
_HOPELESS = (c.UNKNOWN_PROVIDER, c.INVALID_PROFILE, c.INVALID_SPEC, c.STORAGE_UNAVAILABLE)


@dataclass(frozen=True)
class Obstacle:
    """What keeps a login from being opened. If it is final, waiting is useless."""

    message: str
    is_final: bool


def obstacle(before: AccountView, now: AccountView) -> Obstacle | None:
    """What the operator says is in the way of a login that was asked for when the account was as `before`.

    A Stalled that was there before may be about to be tried again; one that came since is the answer.
    """
    for kind in (c.LOGIN_FAILING, c.STALLED, c.PROVIDER_HELD, c.RECONCILING):
        if now.is_true(kind) and not _is_of_something_else(now, kind):
            return Obstacle(str(now.condition(kind).get("message", "")), _is_final(before, now, kind))
    login = now.condition(c.LOGIN_REQUIRED)
    if now.login is None and _said(login) != _said(before.condition(c.LOGIN_REQUIRED)) and login.get("message"):
        return Obstacle(str(login["message"]), is_final=False)
    return None


def _is_of_something_else(account: AccountView, kind: str) -> bool:
    """It sums up what fails besides: neither a refresh nor the index holds a login."""
    said = _said(account.condition(kind))
    return any(said == _said(account.condition(other)) for other in (c.REFRESH_FAILING, c.INDEX_FAILING))


def _is_final(before: AccountView, now: AccountView, kind: str) -> bool:
    stalled, said = now.condition(c.STALLED), _said(now.condition(kind))
    if said != _said(stalled):
        return False
    return said != _said(before.condition(kind)) or stalled.get("reason") in _HOPELESS


@dataclass(frozen=True)
class Verdict:
    """How a login ended: well, or with a problem."""

    problem: str = ""


def judge(before: AccountView, after: AccountView) -> Verdict | None:
    """How the login that was open in `before` has ended, if it has.

    A login that ended well is gone, and there is a token that was not there before. A code that was refused leaves a
    fresh login, or a problem in the condition LoginRequired that was not there before.
    """
    was, now = before.condition(c.LOGIN_REQUIRED), after.condition(c.LOGIN_REQUIRED)
    if after.login is None and after.token_generation > before.token_generation:
        return Verdict() if after.status_word != c.REFRESHING else None
    message = str(now.get("message") or "the login was refused")
    is_another = after.login is None or before.login is None or after.login.session_id != before.login.session_id
    if is_another and not after.is_true(c.STALLED) and not after.is_true(c.RECONCILING):
        return Verdict(message)
    return Verdict(message) if _is_problem(now) and _said(now) != _said(was) else None


def _is_problem(login_required: dict[str, Any]) -> bool:
    """A reason other than that the person is awaited (for a code, at a device) or that nobody is."""
    reason = str(login_required.get("reason", c.NOT_REQUIRED))
    return reason != c.NOT_REQUIRED and not reason.startswith("Awaiting")


def _said(condition: dict[str, Any]) -> tuple[object, object]:
    return condition.get("reason"), condition.get("message")
