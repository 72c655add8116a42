"""Decides for one account: refresh now? ready? when to look again?

Pure functions of what was gathered (`Facts`); the clock is a value. The account's life:

    (new) ──▶ LoginRequired ──code──▶ Available ◀───────────────┐
                 ▲     ▲                │   │   limit, refusal  │ until passed
                 │     │                │   └─────────────▶ CoolingDown, Billing, Forbidden
     login       │     └── first use    │
     requested   │                      │ refresh answered invalid_grant
     again       └────── Disabled ◀─────┘
                                             Suspended: from anywhere, and back

    An access token lives like this (after a login; WorkloadIdentity exchanges anew instead of refreshing):

    obtained ─────────────────────────────┬── refresh due ──┬─────── expires
              used by proxies             │  still used     │  Refreshing: not used
                                          └─ margin: max(10 min, 20 % of the lifetime), at most half of it

    `rotation` draws what happens to it on the way, step by step. A token whose grant is dead is still used, until it expires
    or is refused.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.cooldowns import REFUSALS, Cooldown, is_of_token, latest_windows, next_probe, stale_at
from oauth_pool_operator.account.documents import AccessFile, Credential, fingerprint
from oauth_pool_operator.account.facts import MOST_REFUSALS, NEVER, REFUSED_FOR, Facts
from oauth_pool_operator.account.login_policy import login_required
from oauth_pool_operator.account.spec import CLEAR_ANNOTATION, Account, Report, rfc3339
from oauth_pool_operator.account.trouble import Subject, Trouble

# A provider that refuses even fresh tokens must not be asked for another with every request.
FORCED_REFRESH_INTERVAL = timedelta(minutes=5)

# More than clocks may differ: a proxy whose clock is 5 minutes ahead gets a new token before it considers the old expired.
REFRESH_MARGIN = timedelta(minutes=10)
# After a failure, the last attempt is this long before expiry, whatever the provider has asked for.
LAST_CALL = timedelta(seconds=30)
# If a token was obtained this much later than now, the clock was wrong then, and nobody knows when the token expires.
MOST_SKEW = timedelta(minutes=5)
# However short a token lives, the token endpoint is not asked more often than this.
SHORTEST_PAUSE = timedelta(seconds=1)


@dataclass(frozen=True)
class Readiness:
    """May the pool use the account now; `reason` is the word shown as STATUS."""

    is_ready: bool
    reason: str
    message: str


def next_refresh(credential: Credential, account: Account) -> datetime:
    """When the access token is due: a margin before it expires, spread a little so that accounts do not refresh all at once."""
    lifetime = credential.expires - credential.obtained
    margin = min(max(REFRESH_MARGIN, lifetime * 0.2), lifetime / 2)
    # the same for every look at the same token, different for every account and token
    spread = zlib.crc32(f"{account.uid}/{credential.generation}".encode()) / 2**32
    due = credential.expires - margin * (1 + 0.1 * spread)
    return max(due, credential.obtained + SHORTEST_PAUSE)


def last_call(facts: Facts) -> datetime | None:
    """When a refresh or an exchange must have another try at the latest, however often it failed before."""
    credential = facts.credential
    if credential is None or facts.damaged is not None or credential.dead is not None:
        return None
    lifetime = credential.expires - credential.obtained
    instant = credential.expires - min(LAST_CALL, lifetime / 4)
    return instant if instant > facts.now else None


def is_last_call(facts: Facts) -> bool:
    """The token is about to expire, so it gets an attempt even while the provider has asked us to wait."""
    credential = facts.credential
    return credential is not None and last_call(facts) is None and facts.now < credential.expires


def refresh_is_due(facts: Facts) -> bool:
    """True when a new access token should be obtained now, by a refresh or by exchanging an assertion."""
    account, credential = facts.account, facts.credential
    if account.spec.suspend or facts.spec_is_wrong or facts.is_unread:
        return False
    if credential is None or facts.damaged is not None:
        return not account.has_login
    if facts.refresh_is_wanted and (credential.refresh_token is not None or not account.has_login):
        return True  # even if the grant is dead: the provider may have been wrong
    if credential.dead is not None:
        return False
    if account.has_login and credential.refresh_token is None:
        return credential.expires <= facts.now  # nothing to refresh with: used until it expires
    if facts.is_doubted:
        return True  # one answer is not enough to ask anybody to log in
    if facts.outcome_is_unknown:
        return True  # at once: a provider that repeats its answer does so for a while only
    if _is_of_another_workload(account, credential) or credential.obtained > facts.now + MOST_SKEW:
        return True
    if facts.troubles.get(Subject.REFRESH) is not None:
        return True  # a failed refresh is retried until it succeeds, even if the reason for it is gone
    return next_refresh(credential, account) <= facts.now or forced_refresh(facts) == facts.now


def _is_of_another_workload(account: Account, credential: Credential) -> bool:
    """spec.workloadIdentity has changed since the token was obtained."""
    workload = account.spec.workload_identity
    if workload is None or credential.workload is None:
        return False
    return fingerprint(workload.text) != credential.workload


def salvaged(access: AccessFile | None, facts: Facts) -> Credential | None:
    """What is left of a lost credential: its access token is used until it expires or is refused."""
    try:
        expires = datetime.fromisoformat(access.expires).astimezone(UTC) if access is not None else facts.now
    except (ValueError, OverflowError):
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
    last = facts.last_forced_refresh
    if last is None or last > facts.now:  # later than now: the clock was wrong then
        return facts.now
    return max(facts.now, last + FORCED_REFRESH_INTERVAL)


def is_used(credential: Credential | None, facts: Facts) -> bool:
    """Proxies may use the access token: it is not known to be refused, and was not revoked. It may have expired."""
    if credential is None:
        return False
    if credential.dead is None:
        return True
    is_over = credential.expires <= facts.now or credential.dead == c.LOGGED_OUT
    return not is_over and not token_was_refused(facts.account.reports, credential)


def token_was_refused(reports: Sequence[Report], credential: Credential) -> bool:
    """A proxy was refused with the very token that is stored; a report about an older token no longer matters."""
    return any(is_of_token(report) and report.token_generation == credential.generation for report in reports)


def stale_reports(facts: Facts) -> list[str]:
    """The reporters whose reports should be removed."""
    return [report.reporter for report in facts.account.reports if _stale_at(report, facts) <= facts.now]


def _stale_at(report: Report, facts: Facts) -> datetime:
    if facts.is_unread:  # which generation of the access token is current is not known
        return NEVER
    generation = facts.credential.generation if facts.credential is not None else None
    return stale_at(report, facts.account, generation, facts.now) or NEVER


def readiness(facts: Facts) -> Readiness:
    """The word for STATUS and its explanation; the order of the checks is the order of importance."""
    account, credential, troubles = facts.account, facts.credential, facts.troubles
    spec, index = troubles.get(Subject.SPEC), troubles.get(Subject.INDEX)
    storage = facts.storage_trouble
    if spec is not None and spec.reason in (c.UNKNOWN_PROVIDER, c.INVALID_SPEC):
        return Readiness(False, spec.reason, spec.message)
    if account.spec.suspend:
        return Readiness(False, c.SUSPENDED, "spec.suspend is true")
    if facts.is_unread and storage is not None:
        return Readiness(False, c.STORAGE_UNAVAILABLE, storage.message)
    if credential is None or not is_used(credential, facts):
        return _without_grant(facts)
    if credential.expires <= facts.now:
        return _expired(facts, storage or spec)
    if index is not None:
        return Readiness(False, index.reason, index.message)
    if (cooldown := facts.cooldown) is not None:
        return _cooling_down(facts, cooldown)
    if facts.probe is not None:
        return Readiness(
            True, c.AVAILABLE, f"after a long cooldown: one request at a time until {rfc3339(facts.probe.end)}"
        )
    return Readiness(True, c.AVAILABLE, f"access token valid until {rfc3339(credential.expires)}{_but(facts)}")


def _cooling_down(facts: Facts, cooldown: Cooldown) -> Readiness:
    so_far = "; trying it with one request at a time" if facts.probe is not None else ""
    until = f"until {rfc3339(cooldown.until)}{so_far}"
    if cooldown.reason not in REFUSALS:
        return Readiness(False, c.COOLING_DOWN, f"{cooldown.reason} {until}")
    end_it = f"kubectl annotate oauthaccount {facts.account.name} {CLEAR_ANNOTATION}=$(date +%s) --overwrite"
    message = f"{_REFUSED[cooldown.reason]}. Not used {until}, then tried again. To try it now, when that is settled: {end_it}"
    return Readiness(False, cooldown.reason, message)


_REFUSED = {
    c.BILLING: (
        "the provider says that the account cannot pay; check its plan, credit and spending limits in the provider's console"
    ),
    c.FORBIDDEN: (
        "the provider refuses the account, whatever access token it has; check in the provider's console whether the account "
        "and its organization may use the API"
    ),
}


def _expired(facts: Facts, worse: Trouble | None) -> Readiness:
    if worse is not None:
        return Readiness(False, worse.reason, worse.message)
    why = f": {facts.trouble.message}" if facts.trouble is not None else ""
    return Readiness(False, c.REFRESHING, f"the access token has expired and a new one is being obtained{why}")


def _but(facts: Facts) -> str:
    """What will stop an account that works now, or keeps some proxies from using it."""
    credential, access = facts.credential, facts.troubles.get(Subject.ACCESS)
    if facts.account.has_login and facts.damaged is not None:
        return "; a login is needed before that, because the stored credential was damaged"
    if credential is not None and credential.dead is not None:
        return f"; a login is needed before that, because the grant is dead ({credential.dead})"
    if access is not None and access.reason == c.TOKENS_FULL and facts.trouble is access:
        return f"; {access.message}"
    return f"; refreshing it fails: {facts.trouble.message}" if facts.trouble is not None else ""


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
    """The number of the next access token. Even if the credential is lost, no two tokens may have the same number."""
    stored = facts.credential.generation if facts.credential is not None else 0
    published = facts.account.status.get("token", {}).get("generation", 0)
    return max(stored, int(published)) + 1


def next_check(facts: Facts) -> datetime:
    """The next instant at which something changes without an event."""
    account, credential, session = facts.account, facts.credential, facts.session
    instants = [trouble.retry_at for trouble in facts.troubles.values()]
    instants += [instant for instant in (facts.next_poll, facts.retry_begin) if instant is not None]
    if facts.session_is_open and session is not None:
        instants.append(session.expires)
    if credential is not None and is_used(credential, facts):
        instants.append(credential.expires)
    is_put_off = account.spec.suspend or bool({Subject.REFRESH, Subject.CLUSTER} & facts.troubles.keys())
    if credential is not None and credential.dead is None and facts.damaged is None and not is_put_off:
        instants += [next_refresh(credential, account), forced_refresh(facts) or NEVER]
    if facts.refusals >= MOST_REFUSALS and facts.refused_since is not None:
        instants.append(facts.refused_since + REFUSED_FOR)
    if (cooldown := facts.cooldown) is not None:
        instants.append(cooldown.until)
    instants.extend(w.reset_time for w in latest_windows(account, facts.now)[0] if w.reset_time is not None)
    if (probe := next_probe(account, facts.now)) is not None:
        instants.extend((probe.start, probe.end))
    instants.extend(_stale_at(report, facts) for report in account.reports)
    return min((instant for instant in instants if instant > facts.now), default=NEVER)
