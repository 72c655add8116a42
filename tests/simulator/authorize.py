"""The authorization endpoint: a page on which a person chooses who logs in, and what comes of it.

The page is plain HTML without scripts. Approving shows the `code#state` that the provider's hosted callback would.
"""

import re
from dataclasses import dataclass, field
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from .accounts import Accounts
from .grants import Grants
from .known_secrets import KnownSecrets
from .settings import Settings

PATH = "/oauth/authorize"

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
}
_STYLE = "body{font:1em/1.5 sans-serif;max-width:40em;margin:3em auto}code{overflow-wrap:anywhere;font-size:1.1em}"


class AuthorizationRejected(ValueError):
    """An authorization request that the provider would not show a login page for. The text is for a person."""


@dataclass(frozen=True)
class AuthorizationRequest:
    """RFC 6749 4.1.1 with RFC 7636 4.3, checked."""

    redirect_uri: str
    scope: str
    state: str = field(repr=False)
    code_challenge: str = field(repr=False)


@dataclass(frozen=True)
class Approval:
    """What the person takes back: the provider's page shows `pasted`, a redirect goes to `redirect_url`."""

    code: str = field(repr=False)
    state: str = field(repr=False)
    redirect_url: str = field(repr=False)

    @property
    def pasted(self) -> str:
        return f"{self.code}#{self.state}"


class Authorization:
    """Decides authorization requests; used by the page, the control API and tests alike."""

    def __init__(self, *, settings: Settings, grants: Grants, accounts: Accounts, known_secrets: KnownSecrets) -> None:
        self._settings = settings
        self._grants = grants
        self._accounts = accounts
        self._known_secrets = known_secrets

    def check(self, query: str) -> AuthorizationRequest:
        """Raises `AuthorizationRejected` unless everything is as the registered client must send it."""
        request = check_query(query, self._settings)
        self._known_secrets.add("state", request.state)
        return request

    def approve(self, query: str, subject: str) -> Approval:
        """`subject` logs in and says yes (RFC 6749 4.1.2)."""
        request = self.check(query)
        if not subject or not subject.isprintable():
            raise AuthorizationRejected("subject: nobody was chosen")
        self._accounts.add(subject)
        code = self._grants.issue_code(
            subject,
            redirect_uri=request.redirect_uri,
            scope=request.scope,
            state=request.state,
            code_challenge=request.code_challenge,
        )
        return Approval(code, request.state, _redirect(request, {"code": code, "state": request.state}))

    def deny(self, query: str) -> str:
        """The person says no; the redirect URL of RFC 6749 4.1.2.1."""
        request = self.check(query)
        return _redirect(request, {"error": "access_denied", "state": request.state})

    def subjects(self) -> list[str]:
        return self._accounts.subjects()


class AuthorizePage:
    """`GET` shows the form, `POST` decides; a bad request gets a page that says what is wrong with it."""

    def __init__(self, authorization: Authorization, client_id: str) -> None:
        self._authorization = authorization
        self._client_id = client_id

    async def show(self, request: Request) -> Response:
        query = request.url.query
        try:
            wanted = self._authorization.check(query)
        except AuthorizationRejected as error:
            return _rejection(error)
        options = "".join(f'<option value="{escape(subject)}">' for subject in self._authorization.subjects())
        return page(
            "Log in",
            f"<p><b>{escape(self._client_id)}</b> asks for: {escape(wanted.scope) or 'nothing'}</p>"
            f'<form method="post" action="{PATH}?{escape(query)}">'
            '<p><label>Log in as <input name="subject" list="subjects" required autocomplete="off"></label>'
            f'<datalist id="subjects">{options}</datalist></p>'
            '<p><button name="decision" value="approve">Approve</button> '
            '<button name="decision" value="deny" formnovalidate>Deny</button></p></form>',
        )

    async def decide(self, request: Request) -> Response:
        query = request.url.query
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        try:
            if form.get("decision") == "deny":
                redirect_url = self._authorization.deny(query)
                return page("Denied", f"<p>The redirect would be <code>{escape(redirect_url)}</code></p>")
            approval = self._authorization.approve(query, form.get("subject", ""))
        except AuthorizationRejected as error:
            return _rejection(error)
        return page(
            "Approved",
            f'<p>Copy this code:</p><p><code id="code">{escape(approval.pasted)}</code></p>'
            f"<p>The redirect would be <code>{escape(approval.redirect_url)}</code></p>",
        )


def query_of(authorization_url: str) -> str:
    """The query of an authorization URL, which must be one of this endpoint."""
    parts = urlsplit(authorization_url)
    if parts.path != PATH:
        raise AuthorizationRejected(f"the path of the authorization URL is not {PATH}")
    return parts.query


def check_query(query: str, settings: Settings) -> AuthorizationRequest:
    """The rules of the authorization endpoint, each named by the parameter it is about."""
    pairs = parse_qsl(query, keep_blank_values=True)
    parameters = dict(pairs)
    # RFC 6749 3.1: none may come twice
    repeated = sorted({name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1})
    _demand(not repeated, f"{', '.join(repeated)}: given more than once")
    _demand(parameters.get("response_type") == "code", "response_type: must be 'code'")
    _demand(parameters.get("client_id") == settings.client_id, "client_id: no client is registered under this id")
    # RFC 6749 3.1.2.3, RFC 9700 2.1: exactly as registered
    _demand(parameters.get("redirect_uri") in settings.redirect_uris, "redirect_uri: not registered for this client")
    # RFC 7636 4.3 and 4.4.1; 43 characters are what S256 makes
    _demand(parameters.get("code_challenge_method") == "S256", "code_challenge_method: must be 'S256'")
    challenge = parameters.get("code_challenge", "")
    _demand(
        re.fullmatch(r"[A-Za-z0-9_-]{43}", challenge) is not None,
        "code_challenge: must be the base64url form of a SHA-256 digest, 43 characters",
    )
    _demand(parameters.get("state", "") != "", "state: is missing")
    _demand("#" not in parameters["state"], "state: must not contain '#'")
    if settings.code_parameter_required:
        _demand(parameters.get("code") == "true", "code: must be 'true'")
    scope = parameters.get("scope", "")
    unknown = sorted(set(scope.split()) - set(settings.scopes))
    _demand(not unknown, f"scope: {', '.join(unknown)} cannot be granted")
    return AuthorizationRequest(
        redirect_uri=parameters["redirect_uri"],
        # RFC 6749 3.3: without a scope, the default one
        scope=scope or " ".join(settings.scopes),
        state=parameters["state"],
        code_challenge=challenge,
    )


def _demand(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AuthorizationRejected(otherwise)


def _redirect(request: AuthorizationRequest, parameters: dict[str, str]) -> str:
    separator = "&" if "?" in request.redirect_uri else "?"
    return f"{request.redirect_uri}{separator}{urlencode(parameters)}"


def _rejection(error: AuthorizationRejected) -> Response:
    return page("This login request is not valid", f"<p>{escape(str(error))}</p>", status=400)


def page(title: str, content: str, *, status: int = 200) -> Response:
    document = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{content}</html>"
    )
    return HTMLResponse(document, status, _HEADERS)
