"""The whole provider as one object: what tests hold in their hands. No method needs an event loop; all are thread-safe."""

from typing import Any

from .accounts import Accounts, account_uuid, personal_organization_id
from .assertions import AssertionVerifier
from .authorize import Approval, Authorization, query_of
from .clock import Clock
from .device import DeviceLogins
from .grants import Grants, IssuedTokens
from .known_secrets import KnownSecrets
from .limits import Limits
from .recorder import RecordedRequest, Recorder
from .settings import Settings
from .switches import SwitchBoard


class Simulator:
    """State of the provider. `switches`, `clock` and `limits` may be used directly."""

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        self.settings = settings or Settings()
        self.clock = clock or Clock()
        self.switches = SwitchBoard()
        self.known_secrets = KnownSecrets()
        self.directory = Accounts(self.settings.accounts)
        self.grants = Grants(self.settings, self.clock, self.known_secrets)
        self.limits = Limits(self.clock)
        self.assertions = AssertionVerifier(self.settings, self.clock)
        self.recorder = Recorder(
            max_requests=self.settings.max_recorded_requests, max_bytes=self.settings.max_recorded_bytes
        )
        self.authorization = Authorization(
            settings=self.settings, grants=self.grants, accounts=self.directory, known_secrets=self.known_secrets
        )

        self.device_logins = DeviceLogins(
            settings=self.settings,
            clock=self.clock,
            grants=self.grants,
            accounts=self.directory,
            switches=self.switches,
            known_secrets=self.known_secrets,
        )

    # --- logging in --------------------------------------------------------------------------------------------

    def approve(self, authorization_url: str, subject: str) -> str:
        """`subject` logs in at this URL and approves; the `code#state` to paste.

        Raises `AuthorizationRejected` for a URL that the provider would not show a login page for.
        """
        return self.authorize(authorization_url, subject).pasted

    def authorize(self, authorization_url: str, subject: str) -> Approval:
        """As `approve`, with the parts and the redirect URL."""
        return self.authorization.approve(query_of(authorization_url), subject)

    def deny(self, authorization_url: str) -> str:
        """Somebody looks at the page and says no; the redirect URL with `error=access_denied`."""
        return self.authorization.deny(query_of(authorization_url))

    def approve_device(self, user_code: str, subject: str) -> None:
        """`subject` enters the code on the page and approves. ValueError when no login waits under it."""
        self.device_logins.approve(user_code, subject)

    def deny_device(self, user_code: str) -> None:
        """Somebody enters the code and says no."""
        self.device_logins.deny(user_code)

    # --- tokens ------------------------------------------------------------------------------------------------

    def issue_access_token(self, subject: str, expires_in: int | None = None) -> str:
        """An access token without any login."""
        return self._issue(subject, expires_in, with_refresh_token=False).access_token

    def issue_tokens(self, subject: str, expires_in: int | None = None) -> IssuedTokens:
        """An access token and a refresh token, as after a login."""
        return self._issue(subject, expires_in, with_refresh_token=True)

    def expire_access_tokens(self, subject: str) -> None:
        """Every access token the account has is expired now, whatever `expires_in` said."""
        self.grants.end_access_tokens(subject)

    def revoke_grants(self, subject: str) -> None:
        """The account's grants are withdrawn: the API answers 403 revoked, a refresh `invalid_grant`."""
        self.grants.revoke_grants(subject)

    # --- limits ------------------------------------------------------------------------------------------------

    def exhaust(self, subject: str, window: str = "5h", reset_in: float | None = None) -> None:
        """The account's window is used up until its reset. ValueError unless the window is 5h, 7d or 7d_oi."""
        self.limits.set_utilization(subject, window, 1.0, reset_in=reset_in)

    def recover(self, subject: str) -> None:
        """All the account's windows start anew."""
        self.limits.recover(subject)

    # --- looking -----------------------------------------------------------------------------------------------

    def requests(self, path: str | None = None, subject: str | None = None) -> list[RecordedRequest]:
        """What was received, the oldest first. Entries of requests that are still answered go on changing."""
        return self.recorder.requests(path=path, subject=subject)

    def clear_requests(self) -> None:
        self.recorder.clear()

    def secrets(self) -> dict[str, list[str]]:
        """Every secret issued or received, by kind."""
        return self.known_secrets.listing()

    def accounts(self) -> list[dict[str, Any]]:
        """Everybody who can log in or did, without any secret."""
        return [self.account(subject) for subject in self.directory.subjects()]

    def account(self, subject: str) -> dict[str, Any]:
        return {
            "subject": subject,
            "uuid": account_uuid(subject),
            "organization_id": personal_organization_id(subject),
            "switches": self.switches.overrides(subject),
            "windows": {
                window.name: {
                    "status": window.status,
                    "utilization": window.utilization,
                    "resets_at": window.resets_at,
                }
                for window in self.limits.windows(subject)
            },
            **self.grants.summary(subject),
        }

    def _issue(self, subject: str, expires_in: int | None, *, with_refresh_token: bool) -> IssuedTokens:
        self.directory.add(subject)
        return self.grants.issue_tokens(
            subject,
            switches=self.switches.get(subject),
            with_refresh_token=with_refresh_token,
            expires_in=expires_in,
        )
