"""One attempt of a person to log in: opening it, and judging what was pasted. Pure; clock and randomness passed in or here.

A session lasts ten minutes, has a PKCE verifier of 86 characters (RFC 7636 4.1 asks for 43 to 128) and a 256-bit
`state` that is used once (RFC 9700 2.1). Nothing pasted is ever repeated in a message.
"""

import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

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
    issuer: str | None = None  # whose answer a redirect URL says that it is (RFC 9207)


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
    """`code#state`, or the whole redirect URL (RFC 6749 4.1.2), or a code alone (`state` is empty).

    What copying and terminals add is forgiven: quotes, a label, line breaks and other white space, characters without a
    width, percent-encoding. No code or state that is pasted as it is loses a character.
    """
    text = _LABEL.sub("", _without_invisible(text).strip().strip(_QUOTES))
    text = "".join(text.split()).strip(_QUOTES)
    if (parameters := _redirect_parameters(text)) is not None:
        if "error" in parameters:
            return Pasted(refused=True, issuer=parameters.get("iss"))
        code, state = parameters.get("code", ""), parameters.get("state", "")
        return Pasted(code=code, state=state, issuer=parameters.get("iss"))
    if "#" not in text and "%23" in text:
        text = unquote(text)
    code, _, state = text.partition("#")
    return Pasted(code=code, state=state)


_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb<>"
_LABEL = re.compile(r"(?i)\A(?:authori[sz]ation\s+)?code\s*:\s+")
# What is pasted without the address before it
_BARE_PARAMETERS = re.compile(r"[?#]?(?:[a-z_]+=[^#]*&)?(?:code|error)=", re.IGNORECASE)


def _without_invisible(text: str) -> str:
    """Without characters that have no width, such as those that web pages put between two words (Unicode's Cf)."""
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def _redirect_parameters(text: str) -> dict[str, str] | None:
    """The parameters of a redirect URL, whatever its scheme: programs may have one of their own (RFC 8252 7.1).

    They stand in the query, or in the fragment, or the state alone does. None when the text is no such URL.
    """
    try:
        url = urlsplit(f"http:?{text.lstrip('?#')}" if _BARE_PARAMETERS.match(text) else text)
    except ValueError:
        return {} if text.startswith(("https:", "http:")) else None
    query, fragment = _parameters(url.query), _parameters(url.fragment)
    found = query if query.keys() & {"code", "error"} else {**query, **fragment}
    if url.scheme not in ("https", "http") and not (url.scheme and found.keys() & {"code", "error"}):
        return None
    if found.get("code") and "state" not in found and url.fragment and not fragment:
        found["state"] = url.fragment
    return found


def _parameters(encoded: str) -> dict[str, str]:
    """Decoded. A `+` stays one: no code and no state has a space in it, and some pages show them unencoded."""
    return {name: values[0] for name, values in parse_qs(encoded.replace("+", "%2B")).items()}


def judge(
    session: LoginSession | None,
    text: str,
    now: datetime,
    name: str,
    *,
    allow_without_state: bool = False,
    issuer: str | None = None,
) -> LoginSession:
    """The session after a paste: with the code to exchange, or with the problem that the person reads.

    A `state` that was pasted has to be the session's, even where a code may come without one; and an `iss` has to be the
    profile's `issuer`, if it has one (RFC 9207 2.4).
    """
    ask_again = HOW_TO_ASK_AGAIN.format(name=name)
    if session is None or session.is_over:
        blank = LoginSession(session_id="", start=now, expires=now) if session is None else session
        message = f"a code was handed over, but no login is open; ask for one: {ask_again}"
        return _with_problem(blank, text, CODE_REJECTED, message)
    if session.expires <= now:
        message = f"the code came after the login had expired; ask for a new login: {ask_again}"
        return _with_problem(session, text, LOGIN_EXPIRED, message)
    pasted = parse_pasted(text)
    if issuer is not None and pasted.issuer is not None and pasted.issuer != issuer:
        message = "the redirect URL is from another provider than the login; do not use the page that it came from"
        return _with_problem(session, text, CODE_REJECTED, message)
    if pasted.refused:
        message = "the provider's page refused the login; open status.login.authorizationURL and try again"
        return _with_problem(session, text, CODE_REJECTED, message)
    is_complete = bool(pasted.code and (pasted.state or allow_without_state))
    if not is_complete:
        message = "this is neither <code>#<state> nor the whole redirect URL; copy everything that the page shows"
        return _with_problem(session, text, CODE_REJECTED, message)
    # constant time: how far a guess of `state` was right must not be measurable
    if pasted.state and not hmac.compare_digest(pasted.state.encode(), session.state.encode()):
        message = "the code belongs to another login; open the current status.login.authorizationURL and use its code"
        return _with_problem(session, text, CODE_REJECTED, message)
    return msgspec.structs.replace(
        session, code=pasted.code, handled_code=digest(text), problem=None, problem_message=""
    )


def _with_problem(session: LoginSession, text: str, problem: str, message: str) -> LoginSession:
    return msgspec.structs.replace(session, handled_code=digest(text), problem=problem, problem_message=message)
