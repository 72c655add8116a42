"""All that is known of one account while it is reconciled, gathered once and then replaced step by step."""

from dataclasses import dataclass
from datetime import UTC, datetime

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.cooldowns import Cooldown, Probe, longest_cooldown, next_probe
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.storage.documents import Credential, Journal, LoginSession

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Trouble:
    """What kept this reconcile from finishing its work: a reason, its text, and when to try again."""

    reason: str
    message: str
    retry_at: datetime
    is_stalled: bool  # True: a person has to change something. False: it passes by itself


@dataclass(frozen=True)
class Facts:
    """All that a decision looks at."""

    account: Account
    now: datetime
    credential: Credential | None = None
    journal: Journal | None = None
    session: LoginSession | None = None
    trouble: Trouble | None = None
    is_unread: bool = False  # the state volume could not be read: a missing credential or session means nothing
    # the name of the credential's file that was set aside, while there is no other; `credential` is then what is left of
    # it, the access token that proxies use, for as long as that is valid
    damaged: str | None = None
    last_forced_refresh: datetime | None = None  # by a proxy's report, not by time
    cleared: str | None = None  # the request to end the cooldown that has just been done
    next_poll: datetime | None = None  # when the provider is asked about a device's login
    login_trouble: Trouble | None = None  # of the login that is under way; the account may work meanwhile

    @property
    def cooldown(self) -> Cooldown | None:
        return longest_cooldown(self.account, self.now)

    @property
    def probe(self) -> Probe | None:
        """The probe that is on, if one is."""
        probe = next_probe(self.account, self.now)
        return probe if probe is not None and probe.start <= self.now else None

    @property
    def outcome_is_unknown(self) -> bool:
        """A refresh with the refresh token that is stored was begun and not ended: the provider may have redeemed it."""
        return self.journal is not None and self.journal.is_about(self.credential)

    @property
    def storage_fails(self) -> bool:
        """A volume could not be read, or not be written."""
        return self.trouble is not None and self.trouble.reason == c.STORAGE_UNAVAILABLE

    @property
    def login_is_impossible(self) -> bool:
        """Nothing a person could do at the provider would help now."""
        blocking = (c.UNKNOWN_PROVIDER, c.INVALID_PROFILE, c.INVALID_SPEC)
        is_blocked = self.trouble is not None and self.trouble.reason in blocking
        cannot_be_opened = self.storage_fails and self.credential is None and not self.session_is_open
        return self.is_unread or is_blocked or cannot_be_opened

    @property
    def session_is_open(self) -> bool:
        return self.session is not None and not self.session.is_over and self.session.expires > self.now
