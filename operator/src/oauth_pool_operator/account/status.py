"""Renders the operator's part of `status` from the facts, and the Events that a change of it causes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account import policies
from oauth_pool_operator.account.cooldowns import REFUSALS, latest_windows
from oauth_pool_operator.account.documents import LoginSession, fingerprint
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.login_policy import login_required
from oauth_pool_operator.account.spec import REFRESH_ANNOTATION, Window, rfc3339
from oauth_pool_operator.account.trouble import Subject, Trouble

# What the operator owns below `status`. Proxies own `reports`.
OWNED = (
    "observedGeneration",
    "subject",
    "login",
    "token",
    "quota",
    "cooldown",
    "columns",
    "lastHandledLoginRequest",
    "lastHandledClearRequest",
    "lastHandledRefreshRequest",
    "lastHandledLogoutRequest",
    "conditions",
)


# What is rendered from the state volume.
_OF_THE_DISK = ("subject", "token", "login", "lastHandledLoginRequest")


def render_status(facts: Facts, authorization_url: str | None) -> dict[str, Any]:
    """The operator's whole part of status; empty members are left out."""
    account, credential, session, cooldown = facts.account, facts.credential, facts.session, facts.cooldown
    windows, observed = latest_windows(account, facts.now)
    conditions = [*render_conditions(facts), *c.of_others(account.conditions)]
    status: dict[str, Any] = {"observedGeneration": account.generation, "conditions": conditions}
    if facts.is_unread:  # the previous status is still the best information there is
        status |= {name: account.status[name] for name in _OF_THE_DISK if name in account.status}
    elif credential is not None:
        if credential.subject:
            status["subject"] = credential.subject
        status["token"] = {
            "generation": credential.generation,
            "fingerprint": fingerprint(credential.access_token),
            "expirationTime": rfc3339(credential.expires),
        }
        if facts.damaged is None:
            status["token"]["refreshTime"] = rfc3339(credential.obtained)
            if credential.dead is None and (credential.refresh_token is not None or not account.has_login):
                status["token"]["nextRefreshTime"] = rfc3339(policies.next_refresh(credential, account))
    elif lost := policies.next_generation(facts) - 1:
        status["token"] = {"generation": lost}  # the next token must not have the number of one that was
    if session is not None and facts.session_is_open and (where := _where_to_log_in(session, authorization_url)):
        status["login"] = {
            **where,
            "sessionID": session.session_id,
            "startTime": rfc3339(session.start),
            "expirationTime": rfc3339(session.expires),
        }
    if session is not None and session.request:
        status["lastHandledLoginRequest"] = session.request
    handled = {"Clear": facts.cleared, "Refresh": facts.refreshed, "Logout": facts.logged_out}
    for kind, request in handled.items():
        if answered := request or account.status.get(f"lastHandled{kind}Request"):
            status[f"lastHandled{kind}Request"] = answered
    if observed is not None:
        status["quota"] = {"windows": [_window(window) for window in windows], "observedTime": rfc3339(observed)}
    if cooldown is not None:
        status["cooldown"] = {"untilTime": rfc3339(cooldown.until), "reason": cooldown.reason}
    if columns := render_columns(facts, windows):
        status["columns"] = columns
    return status


def _where_to_log_in(session: LoginSession, authorization_url: str | None) -> dict[str, str]:
    if session.user_code:
        complete = session.verification_uri_complete
        return {
            "userCode": session.user_code,
            "verificationURI": session.verification_uri,
            **({"verificationURIComplete": complete} if complete is not None else {}),
        }
    return {"authorizationURL": authorization_url} if authorization_url is not None else {}


def render_conditions(facts: Facts) -> list[dict[str, Any]]:
    account = facts.account

    def condition(kind: str, is_true: bool, reason: str, message: str) -> dict[str, Any]:
        return c.condition(account.conditions, kind, is_true, reason, message, account.generation, facts.now)

    ready = policies.readiness(facts)
    conditions = [
        condition(c.READY, ready.is_ready, ready.reason, ready.message),
        condition(c.LOGIN_REQUIRED, *login_required(facts)),
    ]
    if (limit := facts.limit) is not None:
        conditions.append(condition(c.QUOTA_AVAILABLE, False, limit.reason, f"until {rfc3339(limit.until)}"))
    else:
        conditions.append(condition(c.QUOTA_AVAILABLE, True, c.AVAILABLE, ""))
    if (trouble := _summary(facts)) is not None:
        kind = c.STALLED if trouble.is_stalled else c.RECONCILING
        conditions.append(condition(kind, True, trouble.reason, trouble.message))
    elif ready.reason == c.REFRESHING:
        conditions.append(
            condition(c.RECONCILING, True, c.REFRESHING if account.has_login else c.EXCHANGING, ready.message)
        )
    for subject, kind in c.FAILING.items():
        if (one := facts.troubles.get(subject)) is not None:
            conditions.append(condition(kind, True, one.reason, one.message))
    if (held := next((one for one in facts.troubles.values() if one.is_held), None)) is not None:
        conditions.append(condition(c.PROVIDER_HELD, True, c.ASKED_TO_WAIT, _held(facts, held)))
    if facts.credential is not None and (remarks := facts.credential.remarks):
        message = "; ".join(remark.message for remark in remarks)
        conditions.append(condition(c.TOKEN_ANSWER_ODD, True, remarks[0].reason, message))
    return conditions


def _summary(facts: Facts) -> Trouble | None:
    """For readers of one condition (kstatus): trouble that a person has to fix comes before trouble that passes."""
    troubles = [one for subject, one in sorted(facts.troubles.items(), key=_rank) if subject in _SUMMED_UP]
    return next((one for one in troubles if one.is_stalled), troubles[0] if troubles else None)


_RANKS = {subject: rank for rank, subject in enumerate(Subject)}
_SUMMED_UP = frozenset(Subject) - {Subject.REVOCATION}


def _rank(item: tuple[Subject, Trouble]) -> int:
    return _RANKS[item[0]]


def _held(facts: Facts, held: Trouble) -> str:
    return (
        f"provider {facts.account.spec.provider} is held until {rfc3339(held.retry_at)}, because it asked us to wait; to end that: "
        f"kubectl annotate oauthaccount {facts.account.name} {REFRESH_ANNOTATION}=$(date +%s) --overwrite"
    )


def render_columns(facts: Facts, windows: list[Window]) -> dict[str, str]:
    """What `kubectl get` prints. Future instants are strings, because kubectl prints such dates as <invalid>."""
    columns = {}
    for name, column in (("5h", "fiveHour"), ("7d", "sevenDay")):
        window = next((window for window in windows if window.name == name), None)
        if window is not None and window.utilization is not None:
            columns[column] = f"{min(window.utilization, 99.99):.0%}"
    resets = [window.reset_time for window in windows if window.reset_time is not None]
    if facts.cooldown is not None:
        columns["resets"] = _minute(facts.cooldown.until)
    elif upcoming := [instant for instant in resets if instant > facts.now]:
        columns["resets"] = _minute(min(upcoming))
    if facts.credential is not None and policies.is_used(facts.credential, facts):
        columns["tokenExpires"] = _minute(facts.credential.expires)
    elif facts.is_unread and (known := facts.account.status.get("columns", {}).get("tokenExpires")):
        columns["tokenExpires"] = known
    return columns


def merge_patch(current: dict[str, Any], desired: dict[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) that turns `current` into `desired`; empty when there is nothing to change."""
    patch: dict[str, Any] = dict.fromkeys(current.keys() - desired.keys())
    for name, value in desired.items():
        before = current.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch


@dataclass(frozen=True)
class Happening:
    """One Event to post."""

    kind: str
    reason: str
    message: str


def happenings(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Happening]:
    """What a person would want to know about the change from one status to the next; nothing for routine."""
    was, now = before.get("conditions") or [], after["conditions"]
    ready, was_ready = c.find(now, c.READY), c.reason_of(was, c.READY)
    yield from _login_changed(before, after)
    if ready is not None and ready["reason"] != was_ready:
        yield from _readiness_changed(was_ready, ready)
    elif ready is not None and _has_logged_in_again(before, after):
        yield Happening("Normal", "LoggedIn", ready["message"])
    elif ready is not None and _has_recovered(before, after):
        yield Happening("Normal", "RefreshSucceeded", ready["message"])
    stalled = c.find(now, c.STALLED)
    if stalled is not None and stalled["reason"] != c.reason_of(was, c.STALLED):
        yield Happening("Warning", stalled["reason"], stalled["message"])


def _login_changed(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Happening]:
    """What a person has to do, or what went wrong with it. A refused login and the new one that follows are one Event."""
    login = c.find(after["conditions"], c.LOGIN_REQUIRED)
    if login is None:
        return
    was, reason = c.reason_of(before.get("conditions") or [], c.LOGIN_REQUIRED), login["reason"]
    is_new = _session_id(after) not in (None, _session_id(before))
    is_opened = reason in (c.AWAITING_CODE, c.AWAITING_APPROVAL)
    was_refused = reason in (c.CODE_REJECTED, c.SUBJECT_MISMATCH)
    if not is_opened and (reason not in (c.NOT_REQUIRED, was) or (is_new and was_refused)):
        yield Happening("Warning", reason, login["message"])
    elif is_new or (is_opened and reason != was):
        yield Happening("Normal", "LoginOpened", login["message"])


def _has_logged_in_again(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """The open login is over, and there is a new token. The reason of Ready does not show that for an account that kept
    working."""
    return bool(_session_id(before) and not _session_id(after)) and _has_new_token(before, after)


def _has_recovered(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Refreshes failed, but now there is a new token."""
    was, now = before.get("conditions") or [], after["conditions"]
    is_well = c.reason_of(now, c.READY) == c.AVAILABLE and not _is_failing(now)
    return is_well and _is_failing(was) and _has_new_token(before, after)


def _has_new_token(before: dict[str, Any], after: dict[str, Any]) -> bool:
    def generation(of: dict[str, Any]) -> int:
        return int((of.get("token") or {}).get("generation", 0))

    return generation(after) > generation(before)


def _session_id(status: dict[str, Any]) -> str | None:
    login: dict[str, str] = status.get("login") or {}
    return login.get("sessionID")


def _is_failing(conditions: list[dict[str, Any]]) -> bool:
    return any(c.find(conditions, kind) is not None for kind in (c.RECONCILING, c.STALLED))


def _readiness_changed(before: str | None, ready: dict[str, Any]) -> Iterator[Happening]:
    reason, message = ready["reason"], ready["message"]
    if reason == c.AVAILABLE:
        names = {
            **dict.fromkeys((c.COOLING_DOWN, *REFUSALS), "Recovered"),
            c.SUSPENDED: "Resumed",
            c.LOGIN_REQUIRED: "LoggedIn",
            c.DISABLED: "LoggedIn",
        }
        yield Happening("Normal", names.get(before or "", "TokenObtained"), message)
    elif reason in (c.COOLING_DOWN, c.SUSPENDED):
        yield Happening("Normal", reason, message)
    elif reason in (c.DISABLED, *REFUSALS):
        yield Happening("Warning", reason, message)


def _window(window: Window) -> dict[str, Any]:
    rendered: dict[str, Any] = {"name": window.name}
    if window.utilization is not None:
        rendered["utilization"] = window.utilization
    if window.status is not None:
        rendered["status"] = window.status
    if window.reset_time is not None:
        rendered["resetTime"] = rfc3339(window.reset_time)
    return rendered


def _minute(instant: datetime) -> str:
    return rfc3339(instant)[:16] + "Z"
