"""Condition types and reasons, and the rule for changing them.

`Ready` and `QuotaAvailable` are always present. `LoginRequired`, `Reconciling`, `Stalled` and `TokenAnswerOdd` are
abnormal-true (kstatus): the first is False when nobody has to act, the others are absent when there is nothing to say.
`Reconciling` and `Stalled` summarise the conditions `…Failing`, which are present only while something fails.
"""

from datetime import datetime
from typing import Any

from oauth_pool_operator.account.spec import rfc3339
from oauth_pool_operator.account.trouble import Subject

READY = "Ready"
LOGIN_REQUIRED = "LoginRequired"
QUOTA_AVAILABLE = "QuotaAvailable"
RECONCILING = "Reconciling"
STALLED = "Stalled"
PROVIDER_HELD = "ProviderHeld"  # the provider asked us to wait, and this account waits
TOKEN_ANSWER_ODD = "TokenAnswerOdd"
FAILING = {
    Subject.STORAGE: "StorageFailing",
    Subject.ACCESS: "AccessFailing",
    Subject.CLUSTER: "ClusterFailing",
    Subject.REFRESH: "RefreshFailing",
    Subject.INDEX: "IndexFailing",
    Subject.LOGIN: "LoginFailing",
    Subject.REVOCATION: "RevocationFailing",
}
OURS = frozenset(
    (
        *(READY, LOGIN_REQUIRED, QUOTA_AVAILABLE, RECONCILING, STALLED, PROVIDER_HELD, TOKEN_ANSWER_ODD),
        *FAILING.values(),
    )
)

# Ready: the word shown as STATUS
AVAILABLE = "Available"
COOLING_DOWN = "CoolingDown"
BILLING = "Billing"  # the provider says that the account cannot pay, and it is left alone for a while
FORBIDDEN = "Forbidden"  # the provider refuses the account, whatever token it has, and it is left alone for a while
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
REFRESH_REFUSED = (
    "RefreshRefused"  # again and again, in words that nobody knows: the profile's mistake, or a dead grant
)
LOGGED_OUT = "LoggedOut"  # a person has given the grant back
STATE_CORRUPT = "StateCorrupt"
SUBJECT_MISMATCH = "SubjectMismatch"  # somebody else logged in than spec.expectedSubject says
NOT_REQUIRED = "NotRequired"

# TokenAnswerOdd
SCOPE_NARROWED = "ScopeNarrowed"
NO_REFRESH_TOKEN = "NoRefreshToken"
LIFETIME_ODD = "LifetimeOdd"

# QuotaAvailable
QUOTA_EXHAUSTED = "QuotaExhausted"
RATE_LIMITED = "RateLimited"

# Reconciling
EXCHANGING = "Exchanging"

# ProviderHeld
ASKED_TO_WAIT = "AskedToWait"

# Stalled
UNKNOWN_PROVIDER = "UnknownProvider"
INVALID_PROFILE = "InvalidProfile"  # the profile is there, but the operator cannot use it
INVALID_SPEC = "InvalidSpec"
EXCHANGE_REJECTED = "ExchangeRejected"  # the token endpoint refuses for a reason that is not the account's
SERVICE_ACCOUNT_TOKEN_REFUSED = "ServiceAccountTokenRefused"
GRANT_DOUBTED = "GrantDoubted"  # the provider refused the refresh token once, and is asked once more
UNEXPECTED = "UnexpectedFailure"  # an error of this operator, or of something that it relies on
TOKEN_RESCUED = "TokenRescued"  # one that was granted is kept beside the credential, whose place it could not take
REVOCATION_FAILED = "RevocationFailed"
TOKENS_FULL = "TokensFull"  # sealed to every proxy, the accounts' tokens have no room in the ConfigMaps
INDEX_FULL = "IndexFull"  # there are more accounts than the pool index has room for


def condition(
    previous: list[dict[str, Any]], kind: str, is_true: bool, reason: str, message: str, generation: int, now: datetime
) -> dict[str, Any]:
    """A condition for `status`; `lastTransitionTime` changes only when the condition's `status` does."""
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


def of_others(conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conditions of other controllers."""
    return [entry for entry in conditions if entry.get("type") not in OURS]


def find(conditions: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The condition of that type, if present."""
    return next((entry for entry in conditions if entry.get("type") == kind), None)


def is_true(conditions: list[dict[str, Any]], kind: str) -> bool:
    """True when the condition of that type is present and True."""
    found = find(conditions, kind)
    return found is not None and found.get("status") == "True"


def reason_of(conditions: list[dict[str, Any]], kind: str) -> str | None:
    """The reason of the condition of that type, if present."""
    found = find(conditions, kind)
    return found.get("reason") if found is not None else None
