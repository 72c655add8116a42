"""Codes, grants and tokens: what was issued, from what, and whether it is still good. No HTTP in here.

    approve ──▶ code ──redeem──▶ grant ──┬─▶ access token (lives `expires_in`, or dies earlier)
                                         └─▶ refresh token ──refresh──▶ access token + next refresh token

A grant is one authorization: the "family" of all refresh tokens that followed from it. A ServiceAccount's assertion
makes a grant without a refresh token.
"""

import base64
import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass, field

import msgspec

from .accounts import personal_organization_id
from .clock import Clock
from .known_secrets import KnownSecrets
from .settings import Settings
from .switches import Switches


class TokenError(Exception):
    """A refusal by the token endpoint, in the words of RFC 6749 5.2."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status


@dataclass(eq=False)
class Grant:
    subject: str
    organization_id: str
    scope: str
    is_revoked: bool = False
    refreshes: int = 0


@dataclass(eq=False)
class AuthorizationCode:
    value: str = field(repr=False)
    subject: str
    redirect_uri: str
    scope: str
    state: str = field(repr=False)
    code_challenge: str = field(repr=False)
    expires_at: float
    # what came of it, once it was redeemed
    grant: Grant | None = None


@dataclass(eq=False)
class RefreshToken:
    value: str = field(repr=False)
    grant: Grant
    used_at: float | None = None


@dataclass(eq=False)
class AccessToken:
    value: str = field(repr=False)
    grant: Grant
    ends_at: float
    is_revoked: bool = False


@dataclass(frozen=True)
class IssuedTokens:
    """One answer of the token endpoint."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: int
    grant: Grant


class Grants:
    """Everything issued. Each method is one step that no other thread sees half done."""

    def __init__(self, settings: Settings, clock: Clock, known_secrets: KnownSecrets) -> None:
        self._settings = settings
        self._clock = clock
        self._known_secrets = known_secrets
        self._lock = threading.RLock()
        self._codes: dict[str, AuthorizationCode] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}

    # --- what the token endpoint does --------------------------------------------------------------------------

    def issue_code(self, subject: str, *, redirect_uri: str, scope: str, state: str, code_challenge: str) -> str:
        """RFC 6749 4.1.2; bound to the challenge of RFC 7636 4.4."""
        code = AuthorizationCode(
            value=f"sim-code-{secrets.token_urlsafe(24)}",
            subject=subject,
            redirect_uri=redirect_uri,
            scope=scope,
            state=state,
            code_challenge=code_challenge,
            expires_at=self._clock.now() + self._settings.code_lifetime,
        )
        with self._lock:
            self._codes[code.value] = code
        self._known_secrets.add("code", code.value)
        return code.value

    def redeem_code(
        self, value: str, *, redirect_uri: str, code_verifier: str, state: str | None, switches: Switches
    ) -> IssuedTokens:
        """RFC 6749 4.1.3 and RFC 7636 4.6; a code is good once.

        RFC 6749 4.1.2: a code that comes again also kills the tokens issued from it.
        """
        with self._lock:
            code = self._codes.get(value)
            if code is None:
                raise TokenError("invalid_grant", "Unknown authorization code.")
            if code.grant is not None:
                self._revoke(code.grant)
                raise TokenError("invalid_grant", "The authorization code was used before; its tokens are revoked.")
            if self._clock.now() >= code.expires_at:
                raise TokenError("invalid_grant", "The authorization code has expired.")
            if redirect_uri != code.redirect_uri:
                raise TokenError("invalid_grant", "redirect_uri is not the one of the authorization request.")
            if state is not None and state != code.state:
                raise TokenError("invalid_grant", "state is not the one of the authorization request.")
            if not hmac.compare_digest(s256(code_verifier), code.code_challenge):
                raise TokenError("invalid_grant", "The code verifier does not match the code challenge.")
            code.grant = Grant(code.subject, personal_organization_id(code.subject), code.scope)
            return self._issue(code.grant, switches, refresh_token=self._new_refresh_token(code.grant))

    def refresh(self, value: str, *, scope: str | None, switches: Switches) -> IssuedTokens:
        """RFC 6749 6; single use unless `rotation` is off or the answer leaves the new refresh token out."""
        with self._lock:
            token = self._refresh_tokens.get(value)
            if token is None:
                raise TokenError("invalid_grant", "Refresh token not found or invalid.")
            grant = token.grant
            if grant.is_revoked:
                raise TokenError("invalid_grant", "The grant has been revoked.")
            now = self._clock.now()
            if token.used_at is not None and now - token.used_at >= switches.rotation_grace:
                if switches.replay_revokes_family:
                    self._revoke(grant)
                raise TokenError("invalid_grant", "The refresh token was used before.")
            if scope is not None and not set(scope.split()) <= set(grant.scope.split()):
                raise TokenError("invalid_scope", "The scope is wider than what was granted.")
            if switches.refresh_kills_access_tokens:
                self._end_access_tokens(grant.subject, now)
            grant.refreshes += 1
            if switches.omit_refresh_token:
                return self._issue(grant, switches, refresh_token=None)
            if not switches.rotation:
                return self._issue(grant, switches, refresh_token=value)
            # the first use counts: a grace window does not start anew
            token.used_at = now if token.used_at is None else token.used_at
            return self._issue(grant, switches, refresh_token=self._new_refresh_token(grant))

    def federate(self, subject: str, *, organization_id: str, lifetime: int, switches: Switches) -> IssuedTokens:
        """RFC 7523 2.1, for an assertion that was verified; there is no refresh token."""
        grant = Grant(subject, organization_id, " ".join(self._settings.scopes))
        with self._lock:
            return self._issue(grant, switches, refresh_token=None, lifetime=lifetime)

    def revoke_token(self, value: str) -> None:
        """RFC 7009 2.1: a refresh token takes its grant with it, an access token only itself. Unknown ones are fine."""
        with self._lock:
            if value in self._refresh_tokens:
                self._revoke(self._refresh_tokens[value].grant)
            elif value in self._access_tokens:
                self._access_tokens[value].is_revoked = True

    # --- what tests and the control API do ---------------------------------------------------------------------

    def issue_tokens(
        self, subject: str, *, switches: Switches, with_refresh_token: bool, expires_in: int | None
    ) -> IssuedTokens:
        """As if somebody had logged in. What is asked for here wins over the switch `expires_in`."""
        if expires_in is not None:
            switches = msgspec.structs.replace(switches, expires_in=expires_in)
        grant = Grant(subject, personal_organization_id(subject), " ".join(self._settings.scopes))
        with self._lock:
            refresh_token = self._new_refresh_token(grant) if with_refresh_token else None
            return self._issue(grant, switches, refresh_token=refresh_token)

    def end_access_tokens(self, subject: str) -> None:
        """Every access token of the account is expired from now on."""
        with self._lock:
            self._end_access_tokens(subject, self._clock.now())

    def revoke_grants(self, subject: str) -> None:
        """As if the person had withdrawn every authorization: access and refresh tokens are dead."""
        with self._lock:
            for access_token in self._access_tokens.values():
                if access_token.grant.subject == subject:
                    self._revoke(access_token.grant)

    # --- look-ups ----------------------------------------------------------------------------------------------

    def access_token(self, value: str) -> AccessToken | None:
        with self._lock:
            return self._access_tokens.get(value)

    def subject_of_code(self, value: str) -> str | None:
        with self._lock:
            code = self._codes.get(value)
            return code.subject if code else None

    def subject_of_refresh_token(self, value: str) -> str | None:
        with self._lock:
            token = self._refresh_tokens.get(value)
            return token.grant.subject if token else None

    def subject_of_token(self, value: str) -> str | None:
        """Whose token this is, refresh or access."""
        with self._lock:
            token = self._refresh_tokens.get(value) or self._access_tokens.get(value)
            return token.grant.subject if token else None

    def summary(self, subject: str) -> dict[str, int]:
        """How much there is of what; no secret."""
        now = self._clock.now()
        with self._lock:
            mine = [token for token in self._access_tokens.values() if token.grant.subject == subject]
            grants = {token.grant for token in mine}
            return {
                "grants": len(grants),
                "revoked_grants": sum(grant.is_revoked for grant in grants),
                "refreshes": sum(grant.refreshes for grant in grants),
                "access_tokens": len(mine),
                "live_access_tokens": sum(now < token.ends_at and not token.is_revoked for token in mine),
            }

    # --- with the lock held ------------------------------------------------------------------------------------

    def _issue(
        self, grant: Grant, switches: Switches, *, refresh_token: str | None, lifetime: int | None = None
    ) -> IssuedTokens:
        usual = self._settings.access_token_lifetime if lifetime is None else lifetime
        expires_in = usual if switches.expires_in is None else switches.expires_in
        lives = expires_in if switches.access_token_dies_after is None else switches.access_token_dies_after
        value = f"sim-access-{secrets.token_urlsafe(32)}"
        self._access_tokens[value] = AccessToken(value, grant, ends_at=self._clock.now() + lives)
        self._known_secrets.add("access_token", value)
        return IssuedTokens(value, refresh_token, expires_in, grant)

    def _new_refresh_token(self, grant: Grant) -> str:
        value = f"sim-refresh-{secrets.token_urlsafe(32)}"
        self._refresh_tokens[value] = RefreshToken(value, grant)
        self._known_secrets.add("refresh_token", value)
        return value

    def _end_access_tokens(self, subject: str, now: float) -> None:
        for token in self._access_tokens.values():
            if token.grant.subject == subject:
                token.ends_at = min(token.ends_at, now)

    def _revoke(self, grant: Grant) -> None:
        grant.is_revoked = True
        for token in self._access_tokens.values():
            if token.grant is grant:
                token.is_revoked = True


def s256(code_verifier: str) -> str:
    """RFC 7636 4.2."""
    digest = hashlib.sha256(code_verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
