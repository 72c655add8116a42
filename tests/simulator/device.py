"""The device authorization grant (RFC 8628): the endpoint that opens a login, and the page where a person decides.

POST device_authorization ──▶ device code (for the client), user code (for the person)
POST token ──▶ authorization_pending … until somebody enters the user code ──▶ tokens, access_denied or expired_token
"""

import secrets
import threading
from dataclasses import dataclass, field
from html import escape
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from .accounts import Accounts
from .authorize import page
from .clock import Clock
from .grants import Grants, IssuedTokens, TokenError
from .known_secrets import KnownSecrets
from .settings import Settings
from .switches import SwitchBoard, Switches

PATH = "/oauth/device"

# RFC 8628 6.1: no vowels, so no words
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_SLOW_DOWN_SECONDS = 5


class UnknownUserCode(ValueError):
    """There is no login with this user code; the text is for a person."""


@dataclass(eq=False)
class DeviceLogin:
    device_code: str = field(repr=False)
    user_code: str
    expires_at: float
    interval: float
    polled_at: float | None = None
    approved_by: str | None = None
    is_denied: bool = False
    is_redeemed: bool = False


class DeviceLogins:
    """All logins by device code. Thread-safe."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        grants: Grants,
        accounts: Accounts,
        switches: SwitchBoard,
        known_secrets: KnownSecrets,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._grants = grants
        self._accounts = accounts
        self._switches = switches
        self._known_secrets = known_secrets
        self._lock = threading.Lock()
        self._logins: dict[str, DeviceLogin] = {}

    def open(self, scope: str) -> DeviceLogin:
        """RFC 8628 3.2."""
        unknown = sorted(set(scope.split()) - set(self._settings.scopes))
        if unknown:
            raise TokenError("invalid_scope", f"{', '.join(unknown)} cannot be granted.")
        switches = self._switches.get()
        letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
        login = DeviceLogin(
            device_code=f"sim-device-{secrets.token_urlsafe(32)}",
            user_code=f"{letters[:4]}-{letters[4:]}",
            expires_at=self._clock.now() + switches.device_code_lifetime,
            interval=switches.device_interval,
        )
        with self._lock:
            self._logins[login.device_code] = login
        self._known_secrets.add("device_code", login.device_code)
        return login

    def approve(self, user_code: str, subject: str) -> None:
        """`subject` enters the code and says yes."""
        self._accounts.add(subject)
        self._waiting(user_code).approved_by = subject

    def deny(self, user_code: str) -> None:
        self._waiting(user_code).is_denied = True

    def redeem(self, device_code: str, switches: Switches) -> IssuedTokens:
        """RFC 8628 3.4 and 3.5."""
        now = self._clock.now()
        with self._lock:
            login = self._logins.get(device_code)
            if login is None or login.is_redeemed:
                raise TokenError("invalid_grant", "Unknown device code, or used before.")
            is_early = login.polled_at is not None and now - login.polled_at < login.interval
            login.polled_at = now
            if now >= login.expires_at:
                raise TokenError("expired_token", "The device code has expired.")
            if is_early or self._switches.spend("device_slow_downs"):
                login.interval += _SLOW_DOWN_SECONDS
                raise TokenError("slow_down", "Asked too often.")
            if login.is_denied:
                raise TokenError("access_denied", "The person said no.")
            if login.approved_by is None:
                raise TokenError("authorization_pending", "Nobody has decided yet.")
            login.is_redeemed = True
            return self._grants.issue_tokens(
                login.approved_by, switches=switches, with_refresh_token=True, expires_in=None
            )

    def subject_of(self, device_code: str) -> str | None:
        with self._lock:
            login = self._logins.get(device_code)
            return login.approved_by if login else None

    def subjects(self) -> list[str]:
        return self._accounts.subjects()

    def _waiting(self, user_code: str) -> DeviceLogin:
        """RFC 8628 6.1: letter case and dashes do not matter."""
        wanted = _plain(user_code)
        with self._lock:
            for login in self._logins.values():
                if _plain(login.user_code) == wanted and self._clock.now() < login.expires_at:
                    return login
        raise UnknownUserCode(f"user_code: no login waits under {user_code!r}")


class DevicePage:
    """`GET` shows the form, with the code filled in when the address has it; `POST` decides."""

    def __init__(self, logins: DeviceLogins) -> None:
        self._logins = logins

    async def show(self, request: Request) -> Response:
        user_code = escape(request.query_params.get("user_code", ""))
        options = "".join(f'<option value="{escape(subject)}">' for subject in self._logins.subjects())
        return page(
            "Log in on another device",
            f'<form method="post" action="{PATH}">'
            f'<p><label>Code <input name="user_code" value="{user_code}" required autocomplete="off"></label></p>'
            '<p><label>Log in as <input name="subject" list="subjects" autocomplete="off"></label>'
            f'<datalist id="subjects">{options}</datalist></p>'
            '<p><button name="decision" value="approve">Approve</button> '
            '<button name="decision" value="deny">Deny</button></p></form>',
        )

    async def decide(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        try:
            if form.get("decision") == "deny":
                self._logins.deny(form.get("user_code", ""))
                return page("Denied", "<p>The device will not be logged in.</p>")
            if not form.get("subject"):
                raise UnknownUserCode("subject: nobody was chosen")
            self._logins.approve(form.get("user_code", ""), form["subject"])
        except UnknownUserCode as error:
            return page("This login is not valid", f"<p>{escape(str(error))}</p>", status=400)
        return page("Approved", "<p>The device is logged in. You may close this page.</p>")


def _plain(user_code: str) -> str:
    return user_code.replace("-", "").strip().upper()
