"""The decisions about one account: should we refresh, is it ready, when to look again.

Pure functions of what was gathered (`Facts`); the clock is a value. The account's life:

    (new) ──▶ LoginRequired ──code──▶ Available ◀───────────────┐
                 ▲     ▲                │   │   quota reported  │ until passed
                 │     │                │   └─────────────▶ CoolingDown
     login       │     └── first use    │
     requested   │                      │ refresh answered invalid_grant
     again       └────── Disabled ◀─────┘
                                             Suspended: from anywhere, and back

    An access token lives like this (after a login; WorkloadIdentity exchanges anew instead of refreshing):

    obtained ─────────────────────────────┬── refresh due ──┬─────── expires
              used by proxies             │  still used     │  Refreshing: not used
                                          └─ margin: max(10 min, 20 % of the lifetime), at most half of it
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.cooldowns import latest_windows, next_probe, stale_at
from oauth_pool_operator.account.facts import NEVER, Facts
from oauth_pool_operator.account.login_policy import login_required
from oauth_pool_operator.account.spec import Account, Report, rfc3339
from oauth_pool_operator.storage.documents import AccessFile, Credential, fingerprint

# A provider that refuses even fresh tokens must not be asked for another with every request.
FORCED_REFRESH_INTERVAL = timedelta(minutes=5)

# More than clocks may differ: a proxy whose clock is 5 minutes ahead has a new token before it takes the old for expired.
REFRESH_MARGIN = timedelta(minutes=10)
# An exchange that failed is tried again at this time before expiry, if not before: the official SDKs count on it.
LAST_CALL = timedelta(seconds=30)
# However short a token lives, the token endpoint is not asked more often than this.
SHORTEST_PAUSE = timedelta(seconds=1)


@dataclass(frozen=True)
class Readiness:
    """May the pool use the account now; `reason` is the word shown as STATUS."""

    is_ready: bool
    reason: str
    message: str


def next_refresh(credential: Credential, account: Account) -> datetime:
    """When the access token is due: a margin before it expires, spread a little so that accounts do not come at once."""
    lifetime = credential.expires - credential.obtained
    margin = min(max(REFRESH_MARGIN, lifetime * 0.2), lifetime / 2)
    # the same for every look at the same token, different for every account and token
    spread = zlib.crc32(f"{account.uid}/{credential.generation}".encode()) / 2**32
    due = credential.expires - margin * (1 + 0.1 * spread)
    return max(due, credential.obtained + SHORTEST_PAUSE)


def last_call(facts: Facts) -> datetime | None:
    """When an exchange of a ServiceAccount token must have another try at the latest, however often it failed before."""
    credential = facts.credential
    if credential is None or facts.account.has_login:
        return None
    lifetime = credential.expires - credential.obtained
    instant = credential.expires - min(LAST_CALL, lifetime / 4)
    return instant if instant > facts.now else None


def refresh_is_due(facts: Facts) -> bool:
    """True when a new access token should be obtained now, be it by refresh or by exchanging an assertion."""
    account, credential = facts.account, facts.credential
    if account.spec.suspend:
        return False
    if credential is None or facts.damaged is not None:
        return not account.has_login
    if credential.dead is not None:
        return False
    if account.has_login and credential.refresh_token is None:
        return credential.expires <= facts.now  # nothing to refresh with: used up to its end
    if facts.outcome_is_unknown:
        return True  # at once: a provider that repeats its answer does so for a while only
    if _is_of_another_workload(account, credential):
        return True
    return next_refresh(credential, account) <= facts.now or forced_refresh(facts) == facts.now


def _is_of_another_workload(account: Account, credential: Credential) -> bool:
    """spec.workloadIdentity has changed since the token was obtained."""
    workload = account.spec.workload_identity
    if workload is None or credential.workload is None:
        return False
    return fingerprint(workload.text) != credential.workload


def salvaged(access: AccessFile | None, facts: Facts) -> Credential | None:
    """What is left of a credential that was lost: its access token serves until it expires, or is refused."""
    try:
        expires = datetime.fromisoformat(access.expires).astimezone(UTC) if access is not None else facts.now
    except ValueError:
        return None
    if access is None or expires <= facts.now:
        return None
    subject = facts.account.status.get("subject")
    left = Credential(access.generation, access.access_token, expires=expires, obtained=expires, subject=subject)
    return None if token_was_refused(facts.account.reports, left) else left


def forced_refresh(facts: Facts) -> datetime | None:
    """When a proxy's report of a refused token makes us refresh: now, or a while after the last time it did."""
    if facts.credential is None or not token_was_refused(facts.account.reports, facts.credential):
        return None
    if facts.last_forced_refresh is None:
        return facts.now
    return max(facts.now, facts.last_forced_refresh + FORCED_REFRESH_INTERVAL)


def token_was_refused(reports: Sequence[Report], credential: Credential) -> bool:
    """A proxy was refused with the very token that is stored; a report about an older one says nothing any more."""
    return any(
        report.reason in ("Unauthorized", "Forbidden") and report.token_generation == credential.generation
        for report in reports
    )


def stale_reports(facts: Facts) -> list[str]:
    """Whose reports are to be removed."""
    return [report.reporter for report in facts.account.reports if _stale_at(report, facts) <= facts.now]


def _stale_at(report: Report, facts: Facts) -> datetime:
    if facts.is_unread:  # which generation of the access token is current is not known
        return NEVER
    generation = facts.credential.generation if facts.credential is not None else None
    return stale_at(report, facts.account, generation, facts.now) or NEVER


def readiness(facts: Facts) -> Readiness:
    """The word for STATUS and its explanation; the order of the checks is the order of importance."""
    account, credential, trouble = facts.account, facts.credential, facts.trouble
    if trouble is not None and trouble.reason in (c.UNKNOWN_PROVIDER, c.INVALID_SPEC):
        return Readiness(False, trouble.reason, trouble.message)
    if account.spec.suspend:
        return Readiness(False, c.SUSPENDED, "spec.suspend is true")
    if facts.is_unread and trouble is not None:
        return Readiness(False, c.STORAGE_UNAVAILABLE, trouble.message)
    if credential is None or credential.dead is not None:
        return _without_grant(facts)
    if credential.expires <= facts.now and facts.storage_fails and trouble is not None:
        return Readiness(False, c.STORAGE_UNAVAILABLE, trouble.message)
    if credential.expires <= facts.now:
        if trouble is not None and trouble.reason == c.INVALID_PROFILE:
            return Readiness(False, trouble.reason, trouble.message)
        why = f": {trouble.message}" if trouble is not None else ""
        return Readiness(False, c.REFRESHING, f"the access token has expired and a new one is being obtained{why}")
    if trouble is not None and trouble.reason == c.INDEX_FULL:
        return Readiness(False, trouble.reason, trouble.message)
    if (cooldown := facts.cooldown) is not None:
        so_far = "; trying it with one request at a time" if facts.probe is not None else ""
        return Readiness(False, c.COOLING_DOWN, f"{cooldown.reason} until {rfc3339(cooldown.until)}{so_far}")
    if facts.probe is not None:
        return Readiness(
            True, c.AVAILABLE, f"after a long cooldown: one request at a time until {rfc3339(facts.probe.end)}"
        )
    why = f"; refreshing it fails: {trouble.message}" if trouble is not None else ""
    if facts.damaged is not None and account.has_login:
        why = "; a login is needed before that, because the stored credential was damaged"
    return Readiness(True, c.AVAILABLE, f"access token valid until {rfc3339(credential.expires)}{why}")


def _without_grant(facts: Facts) -> Readiness:
    trouble = facts.trouble
    if facts.login_is_impossible and trouble is not None:
        return Readiness(False, trouble.reason, trouble.message)
    if facts.account.spec.grant == "WorkloadIdentity":
        if trouble is not None and trouble.is_stalled:
            return Readiness(False, trouble.reason, trouble.message)
        why = f": {trouble.message}" if trouble is not None else ""
        return Readiness(False, c.REFRESHING, f"exchanging a ServiceAccount token for the first access token{why}")
    _, _, message = login_required(facts)
    if facts.credential is not None and not facts.session_is_open:
        return Readiness(False, c.DISABLED, message)
    return Readiness(False, c.LOGIN_REQUIRED, message)


def next_generation(facts: Facts) -> int:
    """The number of the next access token: also when the credential is lost, an old number must not mean another token."""
    stored = facts.credential.generation if facts.credential is not None else 0
    published = facts.account.status.get("token", {}).get("generation", 0)
    return max(stored, int(published)) + 1


def next_check(facts: Facts) -> datetime:
    """The next instant at which something changes by itself."""
    account, credential, session = facts.account, facts.credential, facts.session
    instants = []
    if facts.trouble is not None:
        instants.append(facts.trouble.retry_at)
    if facts.next_poll is not None:
        instants.append(facts.next_poll)
    if facts.login_trouble is not None:
        instants.append(facts.login_trouble.retry_at)
    if facts.session_is_open and session is not None:
        instants.append(session.expires)
    if credential is not None and credential.dead is None:
        instants.append(credential.expires)
        if not account.spec.suspend and facts.trouble is None and facts.damaged is None:
            instants.append(next_refresh(credential, account))
            instants.append(forced_refresh(facts) or NEVER)
    if (cooldown := facts.cooldown) is not None:
        instants.append(cooldown.until)
    instants.extend(w.reset_time for w in latest_windows(account, facts.now)[0] if w.reset_time is not None)
    if (probe := next_probe(account, facts.now)) is not None:
        instants.extend((probe.start, probe.end))
    instants.extend(_stale_at(report, facts) for report in account.reports)
    return min((instant for instant in instants if instant > facts.now), default=NEVER)
