"""Decides whether an account needs a login, and whether to open one now.

Pure functions of what was gathered (`Facts`), as in `policies`.
"""

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.spec import LOGIN_ANNOTATION, Account
from oauth_pool_operator.account.trouble import Subject

HOW_TO_ASK_AGAIN = f"kubectl annotate oauthaccount {{name}} {LOGIN_ANNOTATION}=$(date +%s) --overwrite"


def login_is_due(facts: Facts) -> bool:
    """True when a login session should be opened now: for a new account, or because somebody asked."""
    session, request = facts.session, facts.account.login_request
    is_lost = facts.damaged is not None
    if (facts.credential is None or is_lost) and (session is None or not session.session_id):
        return True
    if is_lost and session is not None and session.is_over and session.problem is None:
        return True
    handled = session.request if session is not None else facts.account.status.get("lastHandledLoginRequest", "")
    return bool(request) and request != handled


def login_required(facts: Facts) -> tuple[bool, str, str]:
    """The condition LoginRequired: its status, its reason, and what the person should do."""
    account, credential, session = facts.account, facts.credential, facts.session
    if not account.has_login or account.spec.suspend or facts.login_is_impossible:
        return False, c.NOT_REQUIRED, ""
    if credential is not None and credential.dead is None and facts.damaged is None:
        return _about_refusals(facts) if facts.refusals_tell_nothing else (False, *_about_second_login(facts))
    ask_again, trouble = HOW_TO_ASK_AGAIN.format(name=account.name), facts.login_trouble
    if session is not None and session.problem is not None:
        has_expired = not session.is_over and not facts.session_is_open and session.problem != c.LOGIN_EXPIRED
        but = f"; that login has since expired; ask for a new one: {ask_again}" if has_expired else ""
        return True, session.problem, session.problem_message + but
    if facts.damaged is not None:
        how = _how_to_log_in(account) if facts.session_is_open else ask_again
        what = f"the stored credential was damaged and set aside as {facts.damaged}"
        return True, c.STATE_CORRUPT, f"{what}. Log in: {how}"
    if facts.session_is_open:
        but = f" ({trouble.message})" if trouble is not None else ""
        return True, _awaited(account), _how_to_log_in(account) + but
    if credential is not None and credential.dead is not None and (session is None or session.is_over):
        return True, credential.dead, f"{_DEAD.get(credential.dead, 'the grant is dead')}; log in again: {ask_again}"
    if session is None:
        why = f": {trouble.message}" if trouble is not None else ""
        return True, _awaited(account), f"a login is about to be opened{why}"
    return True, c.LOGIN_EXPIRED, f"the login was not completed in time; ask for a new one: {ask_again}"


def _about_refusals(facts: Facts) -> tuple[bool, str, str]:
    """Either the grant is dead, and the provider says so with an unknown error; or the profile is wrong."""
    trouble = facts.troubles.get(Subject.REFRESH)
    ask_again = HOW_TO_ASK_AGAIN.format(name=facts.account.name)
    how = _how_to_log_in(facts.account) if facts.session_is_open else ask_again
    why = f" ({trouble.message})" if trouble is not None else ""
    message = (
        f"the provider has refused {facts.refusals} refreshes in a row with unknown errors{why}: either log in again: {how}; "
        f"or fix the profile of provider {facts.account.spec.provider} in the operator's configuration"
    )
    return True, c.REFRESH_REFUSED, message


def _about_second_login(facts: Facts) -> tuple[str, str]:
    """For an account that works: what happened to the new login, if there is one."""
    session = facts.session
    if session is not None and session.problem is not None:
        return session.problem, f"{session.problem_message} (the current login keeps working)"
    why = f" ({facts.login_trouble.message})" if facts.login_trouble is not None else ""
    if facts.session_is_open or why:
        return c.NOT_REQUIRED, f"a new login was requested; the current one keeps working until it is completed{why}"
    return c.NOT_REQUIRED, ""


def _awaited(account: Account) -> str:
    return c.AWAITING_APPROVAL if account.spec.grant == "DeviceCode" else c.AWAITING_CODE


def _how_to_log_in(account: Account) -> str:
    return _AWAITING_APPROVAL if account.spec.grant == "DeviceCode" else _AWAITING.format(name=account.name)


_AWAITING_APPROVAL = (
    "open status.login.verificationURI in a browser, on any device, and enter status.login.userCode there"
)
_AWAITING = (
    "open status.login.authorizationURL in a browser, then hand over what the page shows: "
    "kubectl annotate oauthaccount {name} oauthpool.dev/authorization-code='<code>#<state>'"
)
_DEAD = {
    c.GRANT_REVOKED: "the provider no longer accepts the refresh token (invalid_grant), or gave none",
    c.REFRESH_OUTCOME_UNKNOWN: (
        "the answer to a refresh was lost, and the provider no longer accepts the refresh token that was sent"
    ),
    c.LOGGED_OUT: "somebody logged the account out (oauthpool.dev/logout-requested)",
}
