"""Condition types and reasons, and the rule for changing them.

`Ready` and `QuotaAvailable` are always present. `LoginRequired`, `Reconciling` and `Stalled` are abnormal-true (kstatus):
the first is False when nothing is asked of a person, the other two are absent when there is nothing to say.
"""

from datetime import datetime
from typing import Any

from oauth_pool_operator.account.spec import rfc3339

READY = "Ready"
LOGIN_REQUIRED = "LoginRequired"
QUOTA_AVAILABLE = "QuotaAvailable"
RECONCILING = "Reconciling"
STALLED = "Stalled"
_OURS = frozenset((READY, LOGIN_REQUIRED, QUOTA_AVAILABLE, RECONCILING, STALLED))

# Ready: the word shown as STATUS
AVAILABLE = "Available"
COOLING_DOWN = "CoolingDown"
DISABLED = "Disabled"  # the grant is dead; only a new login revives the account
SUSPENDED = "Suspended"
REFRESHING = "Refreshing"  # no valid access token yet; one is being obtained
STORAGE_UNAVAILABLE = "StorageUnavailable"  # a volume cannot be read or written; also a reason of Stalled
# (LoginRequired is also a reason of Ready, and so are the reasons of Stalled that keep an account from working)

# LoginRequired
AWAITING_CODE = "AwaitingAuthorizationCode"
AWAITING_APPROVAL = "AwaitingDeviceApproval"
ACCESS_DENIED = "AccessDenied"  # the person said no
LOGIN_EXPIRED = "LoginExpired"
CODE_REJECTED = "CodeRejected"
GRANT_REVOKED = "GrantRevoked"
REFRESH_OUTCOME_UNKNOWN = "RefreshOutcomeUnknown"
STATE_CORRUPT = "StateCorrupt"
SUBJECT_MISMATCH = "SubjectMismatch"  # somebody else logged in than spec.expectedSubject says
NOT_REQUIRED = "NotRequired"

# QuotaAvailable
QUOTA_EXHAUSTED = "QuotaExhausted"
RATE_LIMITED = "RateLimited"

# Reconciling
EXCHANGING = "Exchanging"

# Stalled
UNKNOWN_PROVIDER = "UnknownProvider"
INVALID_PROFILE = "InvalidProfile"  # the profile is there, but the operator cannot use it
INVALID_SPEC = "InvalidSpec"
EXCHANGE_REJECTED = "ExchangeRejected"  # the token endpoint refuses for a reason that is not the account's
SERVICE_ACCOUNT_TOKEN_REFUSED = "ServiceAccountTokenRefused"
INDEX_FULL = "IndexFull"  # there are more accounts than the pool index has room for


def condition(
    previous: list[dict[str, Any]], kind: str, is_true: bool, reason: str, message: str, generation: int, now: datetime
) -> dict[str, Any]:
    """A condition as it belongs into status; `lastTransitionTime` moves only when `status` does."""
    status = "True" if is_true else "False"
    before = find(previous, kind)
    since = rfc3339(now)
    if before is not None and before.get("status") == status:
        since = before.get("lastTransitionTime", since)
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def find(conditions: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The condition of that type, if it is there."""
    return next((entry for entry in conditions if entry.get("type") == kind), None)


def is_true(conditions: list[dict[str, Any]], kind: str) -> bool:
    """True when the condition of that type is there and True."""
    found = find(conditions, kind)
    return found is not None and found.get("status") == "True"


def reason_of(conditions: list[dict[str, Any]], kind: str) -> str | None:
    """The reason of the condition of that type, if it is there."""
    found = find(conditions, kind)
    return found.get("reason") if found is not None else None


def of_others(conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are no business of ours."""
    return [entry for entry in conditions if entry.get("type") not in _OURS]
