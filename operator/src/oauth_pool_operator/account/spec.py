"""The custom resource as the operator sees it: an API object in, a typed `Account` out.

The CRD's schema has already refused most nonsense; what is read here is only what the operator uses. Unknown fields
are ignored, so a newer CRD does not break an older operator.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

GROUP = "oauthpool.dev"
VERSION = "v1alpha1"
KIND = "OAuthAccount"
PLURAL = "oauthaccounts"

FINALIZER = f"{GROUP}/operator"
CODE_ANNOTATION = f"{GROUP}/authorization-code"
LOGIN_ANNOTATION = f"{GROUP}/login-requested"
CLEAR_ANNOTATION = f"{GROUP}/cooldown-cleared"
IMPORT_ANNOTATION = f"{GROUP}/import-requested"

LAST_YEAR = 9000
LONGEST_LOGIN_REQUEST = 1024  # also of one to end a cooldown: it is answered in status, which has limits

Grant = Literal["AuthorizationCode", "DeviceCode", "WorkloadIdentity"]


class WorkloadIdentity(msgspec.Struct, frozen=True, rename="camel"):
    """Which ServiceAccount to present, under which federation rule of the provider."""

    service_account_name: str
    federation_rule_id: str = msgspec.field(name="federationRuleID")
    organization_id: str = msgspec.field(name="organizationID")
    service_account_id: str | None = msgspec.field(name="serviceAccountID", default=None)
    workspace_id: str | None = msgspec.field(name="workspaceID", default=None)

    @property
    def text(self) -> str:
        """The same for the same content."""
        return msgspec.json.encode(self).decode()


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    """What the person asked for."""

    provider: str
    grant: Grant
    workload_identity: WorkloadIdentity | None = None
    expected_subject: str | None = None
    suspend: bool = False
    priority: int = 0
    weight: int = 1
    max_concurrent_requests: int = 0
    cooldown: str = "2h"
    deletion_policy: Literal["Revoke", "Retain"] = "Revoke"


class Window(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One quota window as the upstream's headers describe it; `utilization` is a fraction and may exceed 1."""

    name: str
    utilization: float | None = None
    status: str | None = None
    reset_time: datetime | None = None


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """What one proxy saw of the account."""

    reporter: str
    observed_time: datetime
    reason: str | None = None
    until_time: datetime | None = None
    token_generation: int = 0
    windows: list[Window] = []


class Account(msgspec.Struct, frozen=True):
    """One OAuthAccount object as last observed."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    finalizers: list[str]
    # repr is off where a pasted code, or an authorization URL with its state, may be inside
    annotations: dict[str, str]
    spec: Spec
    reports: list[Report]
    status: dict[str, Any]

    def __repr__(self) -> str:
        return f"<Account {self.namespace}/{self.name} {self.uid}>"

    @property
    def has_login(self) -> bool:
        """True when a person logs in and the operator refreshes from then on."""
        return self.spec.grant != "WorkloadIdentity"

    @property
    def pasted_code(self) -> str | None:
        return self.annotations.get(CODE_ANNOTATION)

    @property
    def login_request(self) -> str | None:
        value = self.annotations.get(LOGIN_ANNOTATION)
        return value[:LONGEST_LOGIN_REQUEST] if value is not None else None

    @property
    def clear_request(self) -> str | None:
        value = self.annotations.get(CLEAR_ANNOTATION)
        return value[:LONGEST_LOGIN_REQUEST] if value is not None else None

    @property
    def conditions(self) -> list[dict[str, Any]]:
        conditions: list[dict[str, Any]] = self.status.get("conditions") or []
        return conditions

    def is_older_than(self, other: "Account") -> bool:
        """True when `other` is a later version of the same object (resourceVersion, compared as etcd's counter)."""
        try:
            return int(self.resource_version) < int(other.resource_version)
        except ValueError:
            return False


def parse_account(body: dict[str, Any]) -> Account:
    """An API object as an `Account`; `msgspec.ValidationError` when the spec is not one this operator knows."""
    metadata = body["metadata"]
    status = body.get("status") or {}
    return Account(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        deleting="deletionTimestamp" in metadata,
        finalizers=list(metadata.get("finalizers") or ()),
        annotations=dict(metadata.get("annotations") or {}),
        spec=msgspec.convert(body["spec"], Spec),
        reports=parse_reports(status.get("reports") or []),
        status=status,
    )


def parse_reports(raw: list[Any]) -> list[Report]:
    """The reports that make sense; one that does not costs nobody else's."""
    reports = []
    for entry in raw:
        try:
            report = msgspec.convert(entry, Report)
        except msgspec.ValidationError:
            continue
        if report.observed_time.year < LAST_YEAR:  # room to add a cooldown
            reports.append(report)
    return reports


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def parse_duration(text: str) -> timedelta:
    """`2h`, `90m`, `1h30m`, `45s` as a duration; ValueError for anything else (the CRD allows no more than these)."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is not a duration such as 2h, 90m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def rfc3339(instant: datetime) -> str:
    """An instant as Kubernetes writes them: UTC, whole seconds, `Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
