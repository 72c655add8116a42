"""One attempt of a person to log in: opening it, and judging what was pasted. Pure; clock and randomness passed in or here.

A session lasts ten minutes, has a PKCE verifier of 86 characters (RFC 7636 4.1 asks for 43 to 128) and a 256-bit
`state` that is used once (RFC 9700 2.1). Nothing pasted is ever repeated in a message.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import msgspec

from oauth_pool_operator.account.conditions import CODE_REJECTED, LOGIN_EXPIRED
from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.account.login_policy import HOW_TO_ASK_AGAIN

SESSION_LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True)
class Pasted:
    """What the annotation held: a code and the state it came with, or the provider's own refusal."""

    code: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    refused: bool = False


def open_session(now: datetime, request: str) -> LoginSession:
    """A new session, answering the login request `request` (empty for an account's first)."""
    return LoginSession(
        session_id=secrets.token_hex(8),
        start=now,
        expires=now + SESSION_LIFETIME,
        state=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(64),
        request=request,
    )


def end_session(session: LoginSession) -> LoginSession:
    """The session without its secrets; what is kept tells an old event from a new code."""
    return LoginSession(
        session_id=session.session_id,
        start=session.start,
        expires=session.start,
        request=session.request,
        handled_code=session.handled_code,
    )


def digest(pasted: str) -> str:
    """How a pasted text is remembered."""
    return hashlib.sha256(pasted.encode()).hexdigest()


def parse_pasted(text: str) -> Pasted:
    """`code#state`, or the whole redirect URL with `code` and `state` in its query, or a code alone (`state` is empty)."""
    text = text.strip()
    try:
        url = urlsplit(text)
        query = parse_qs(url.query)
    except ValueError:
        return Pasted()
    # whatever its scheme: programs may have one of their own (RFC 8252 7.1)
    if url.scheme in ("https", "http") or (url.scheme and query.keys() & {"code", "error"}):
        if "error" in query:
            return Pasted(refused=True)
        return Pasted(code=query.get("code", [""])[0], state=query.get("state", [""])[0])
    code, _, state = text.partition("#")
    return Pasted(code=code, state=state)


def judge(
    session: LoginSession | None, text: str, now: datetime, name: str, *, allow_without_state: bool = False
) -> LoginSession:
    """The session after a paste: with the code to exchange, or with the problem that the person reads.

    A `state` that was pasted has to be the session's, even where a code may come without one.
    """
    ask_again = HOW_TO_ASK_AGAIN.format(name=name)
    if session is None or session.is_over:
        blank = LoginSession(session_id="", start=now, expires=now) if session is None else session
        message = f"a code was given, but no login is open; ask for one: {ask_again}"
        return _with_problem(blank, text, CODE_REJECTED, message)
    if session.expires <= now:
        message = f"the code came after the login had expired; ask for a new login: {ask_again}"
        return _with_problem(session, text, LOGIN_EXPIRED, message)
    pasted = parse_pasted(text)
    if pasted.refused:
        message = "the provider's page refused the login; open status.login.authorizationURL and try again"
        return _with_problem(session, text, CODE_REJECTED, message)
    is_complete = bool(pasted.code and (pasted.state or allow_without_state))
    if not is_complete:
        message = "what was given is not <code>#<state> nor the whole redirect URL; copy all of what the page shows"
        return _with_problem(session, text, CODE_REJECTED, message)
    # constant time: how far a guess of `state` was right must not be measurable
    if pasted.state and not hmac.compare_digest(pasted.state.encode(), session.state.encode()):
        message = "the code belongs to another login; open the present status.login.authorizationURL and use its code"
        return _with_problem(session, text, CODE_REJECTED, message)
    return msgspec.structs.replace(
        session, code=pasted.code, handled_code=digest(text), problem=None, problem_message=""
    )


def _with_problem(session: LoginSession, text: str, problem: str, message: str) -> LoginSession:
    return msgspec.structs.replace(session, handled_code=digest(text), problem=problem, problem_message=message)
