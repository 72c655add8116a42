"""The condition types and reasons that the plugin looks at. Any other is shown as it is."""

from collections.abc import Sequence
from typing import Any

READY = "Ready"
LOGIN_REQUIRED = "LoginRequired"
RECONCILING = "Reconciling"
STALLED = "Stalled"
# There only while it is so. Stalled and Reconciling sum them up.
LOGIN_FAILING = "LoginFailing"
REFRESH_FAILING = "RefreshFailing"
INDEX_FAILING = "IndexFailing"
PROVIDER_HELD = "ProviderHeld"  # the provider has asked the operator to wait

# Ready: the word shown as STATUS
AVAILABLE = "Available"
COOLING_DOWN = "CoolingDown"
BILLING = "Billing"  # the provider refuses the account; tried again after a while, as after CoolingDown
FORBIDDEN = "Forbidden"
DISABLED = "Disabled"
SUSPENDED = "Suspended"
REFRESHING = "Refreshing"
STORAGE_UNAVAILABLE = "StorageUnavailable"
# (LoginRequired is also a reason of Ready)

# LoginRequired
NOT_REQUIRED = "NotRequired"
AWAITING_CODE = "AwaitingAuthorizationCode"
AWAITING_APPROVAL = "AwaitingDeviceApproval"

# Stalled
UNKNOWN_PROVIDER = "UnknownProvider"
INVALID_PROFILE = "InvalidProfile"
INVALID_SPEC = "InvalidSpec"


def find(conditions: Sequence[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The condition of that type, if it is there."""
    return next((entry for entry in conditions if entry.get("type") == kind), None)
