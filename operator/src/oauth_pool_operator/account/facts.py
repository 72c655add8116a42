"""All that is known about one account during a reconcile: gathered once, then replaced step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.cooldowns import LIMITS, Cooldown, Probe, longest_cooldown, next_probe
from oauth_pool_operator.account.documents import Credential, Journal, LoginSession
from oauth_pool_operator.account.spec import Account
from oauth_pool_operator.account.trouble import OF_TOKENS, Subject, Trouble

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Facts:
    """All that a decision looks at."""

    account: Account
    now: datetime
    credential: Credential | None = None
    journal: Journal | None = None
    session: LoginSession | None = None
    troubles: Mapping[Subject, Trouble] = field(default_factory=dict)
    is_rotating: bool = False  # a rotation was under way when this was gathered: what was read may be old by now
    is_unread: bool = False  # the state volume could not be read: a missing credential or session means nothing
    # the name of the credential's file that was set aside, while there is no other; `credential` is then what is left of
    # it, the access token that proxies use, for as long as that is valid
    damaged: str | None = None
    is_undelivered: bool = False  # no proxy can have the current access token yet
    rescued: tuple[str, ...] = ()  # names of files with a token that could not take its place
    last_forced_refresh: datetime | None = None  # by a proxy's report, not by time
    next_poll: datetime | None = None  # when the provider is asked about a device's login
    retry_begin: datetime | None = None  # when to try to begin what this operator might not begin just now
    is_doubted: bool = False  # the refresh token was answered with `invalid_grant` once
    refusals: int = 0  # of refreshes in a row, in words that nobody knows
    refused_since: datetime | None = None
    # requests that have just been done
    cleared: str = ""
    refreshed: str = ""
    logged_out: str = ""

    def with_trouble(self, subject: Subject, trouble: Trouble | None) -> "Facts":
        """The same with this trouble of the subject, or with none."""
        rest = {known: one for known, one in self.troubles.items() if known is not subject}
        return replace(self, troubles=rest if trouble is None else {**rest, subject: trouble})

    @property
    def trouble(self) -> Trouble | None:
        """What keeps the account from fresh tokens; of several, what matters most."""
        return next((self.troubles[subject] for subject in OF_TOKENS if subject in self.troubles), None)

    @property
    def login_trouble(self) -> Trouble | None:
        """Of the login that is under way; the account may work meanwhile."""
        return self.troubles.get(Subject.LOGIN)

    @property
    def cooldown(self) -> Cooldown | None:
        return longest_cooldown(self.account, self.now)

    @property
    def limit(self) -> Cooldown | None:
        """The current cooldown because of a limit, if there is one."""
        return longest_cooldown(self.account, self.now, LIMITS)

    @property
    def probe(self) -> Probe | None:
        """The current probe, if there is one."""
        probe = next_probe(self.account, self.now)
        return probe if probe is not None and probe.start <= self.now else None

    @property
    def outcome_is_unknown(self) -> bool:
        """A refresh with the refresh token that is stored was begun and not ended: the provider may have redeemed it."""
        return self.journal is not None and self.journal.is_about(self.credential)

    @property
    def storage_fails(self) -> bool:
        """A volume could not be read, or not be written."""
        return self.storage_trouble is not None

    @property
    def storage_trouble(self) -> Trouble | None:
        found = (self.troubles.get(subject) for subject in (Subject.STORAGE, Subject.ACCESS))
        return next((one for one in found if one is not None and one.reason == c.STORAGE_UNAVAILABLE), None)

    @property
    def refresh_is_wanted(self) -> bool:
        """A person has asked for a refresh, and there was none since."""
        return self.account.refresh_request not in ("", self.refreshed)

    @property
    def spec_is_wrong(self) -> bool:
        """Nothing can be done for the account before somebody changes its spec, or the operator's configuration."""
        return Subject.SPEC in self.troubles

    @property
    def login_is_refused(self) -> bool:
        """Nobody can log in under this spec, although the account that is logged in works."""
        return self.login_trouble is not None and self.login_trouble.reason == c.INVALID_SPEC

    @property
    def login_is_impossible(self) -> bool:
        """Nothing a person could do at the provider would help now."""
        cannot_be_opened = self.storage_fails and self.credential is None and not self.session_is_open
        return self.is_unread or self.spec_is_wrong or cannot_be_opened

    @property
    def session_is_open(self) -> bool:
        return self.session is not None and not self.session.is_over and self.session.expires > self.now

    @property
    def refusals_tell_nothing(self) -> bool:
        """Refreshes are refused again and again, and nobody can say whether the profile is wrong or the grant is dead."""
        is_long = self.refused_since is not None and self.now - self.refused_since >= REFUSED_FOR
        has_expired = self.credential is not None and self.credential.expires <= self.now
        return self.refusals >= MOST_REFUSALS and is_long and has_expired


# From then on a person has to choose: fix the profile, or log in again.
MOST_REFUSALS, REFUSED_FOR = 3, timedelta(minutes=2)
