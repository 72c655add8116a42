"""The custom resource as the operator sees it: an API object in, a typed `Account` out.

The CRD's schema has already refused most nonsense; what is read here is only what the operator uses. Unknown fields
are ignored, so a newer CRD does not break an older operator.
"""

import re
import sys
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
REFRESH_ANNOTATION = f"{GROUP}/refresh-requested"
LOGOUT_ANNOTATION = f"{GROUP}/logout-requested"

# What a report says of time is brought between these: no sum of an instant and a cooldown, in any time zone, is out of range.
FIRST_INSTANT, LAST_INSTANT = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
LONGEST_REQUEST = 1024  # requests are answered in status, which has limits
_OURS = f"{GROUP}/"

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
    labels: dict[str, str] = {}
    # a hash: nobody reads them, but whoever wants the account looked at may write any
    annotations_of_others: int = 0
    # why this operator cannot read the spec, of which `spec` then holds what it can; empty when it can
    spec_problem: str = ""

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
    def login_request(self) -> str:
        return self._request(LOGIN_ANNOTATION)

    @property
    def clear_request(self) -> str:
        return self._request(CLEAR_ANNOTATION)

    @property
    def refresh_request(self) -> str:
        """To refresh now, if it is not done."""
        request = self._request(REFRESH_ANNOTATION)
        return request if request != self.status.get("lastHandledRefreshRequest") else ""

    @property
    def logout_request(self) -> str:
        """To give the grant back, if it is not done."""
        request = self._request(LOGOUT_ANNOTATION)
        return request if request != self.status.get("lastHandledLogoutRequest") else ""

    def _request(self, annotation: str) -> str:
        return self.annotations.get(annotation, "")[:LONGEST_REQUEST]

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

    def says_the_same_as(self, other: "Account") -> bool:
        """True when nothing differs but the version, as after a write of what nobody here reads."""
        return self == msgspec.structs.replace(other, resource_version=self.resource_version)

    def has_changed_since(self, before: "Account", *, but_for: "Account") -> bool:
        """True when somebody else has changed it since it was as `before`. `but_for` is what we have made of that: we write
        status and finalizers, and while we did, others may have written what `but_for` says, too."""
        expected = msgspec.structs.replace(before, finalizers=self.finalizers, status=but_for.status)
        return FINALIZER not in self.finalizers or not self.says_the_same_as(expected)


_OF_A_REPORT = ("reporter", "observedTime", "requestsPerMinute")


def parse_account(body: dict[str, Any]) -> Account:
    """An API object as an `Account`. Only its metadata has to be in order: what cannot be read of the spec is `spec_problem`."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    status = body.get("status") or {}
    spec, problem = parse_spec(body.get("spec"))
    return Account(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        resource_version=metadata.get("resourceVersion", ""),
        deleting="deletionTimestamp" in metadata,
        finalizers=list(metadata.get("finalizers") or ()),
        annotations={name: text for name, text in annotations.items() if name.startswith(_OURS)},
        spec=spec,
        reports=parse_reports(status.get("reports") or []),
        status=_with_shared_words(_without_windows(status)),
        labels=dict(metadata.get("labels") or {}),
        annotations_of_others=hash(frozenset(item for item in annotations.items() if not item[0].startswith(_OURS))),
        spec_problem=problem,
    )


def _without_windows(status: dict[str, Any]) -> dict[str, Any]:
    """The same, but of reports what is not in a `Report`, and what names them."""
    if not isinstance(reports := status.get("reports"), list):
        return status
    kept = [
        {name: one[name] for name in _OF_A_REPORT if name in one} if isinstance(one, dict) else {} for one in reports
    ]
    return {**status, "reports": kept}


def _with_shared_words(value: Any) -> Any:
    """An equal value in which all accounts share one object for each key and each text of one word. A JSON decoder makes new ones
    for every object; sharing them saves 2 KB for each account."""
    if isinstance(value, dict):
        return {sys.intern(key): _with_shared_words(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_with_shared_words(item) for item in value]
    return sys.intern(value) if isinstance(value, str) and value.isalpha() else value


def parse_spec(raw: Any) -> tuple[Spec, str]:
    """The spec, and what is wrong with it. What this operator does not know comes with a newer CRD, or with one that was
    rolled back: of such a spec, the members that make sense are kept, so that the account can be deleted as it says."""
    try:
        spec = msgspec.convert(raw, Spec)
        parse_duration(spec.cooldown)
        return spec, ""
    except (msgspec.ValidationError, ValueError) as error:
        return _readable(raw if isinstance(raw, dict) else {}), str(error)


def _readable(raw: dict[str, Any]) -> Spec:
    members: dict[str, Any] = {"provider": "", "grant": ""}  # no grant that anybody offers
    for member in msgspec.structs.fields(Spec):
        try:
            members[member.name] = msgspec.convert(raw[member.encode_name], member.type)
        except (KeyError, msgspec.ValidationError):
            continue
    if "deletionPolicy" in raw and "deletion_policy" not in members:
        members["deletion_policy"] = "Retain"  # whatever it means: nothing is given back that cannot be had again
    try:
        parse_duration(members.get("cooldown", "2h"))
    except ValueError:
        del members["cooldown"]
    return Spec(**members)


def parse_reports(raw: Any) -> list[Report]:
    """The reports that make sense, their instants within `FIRST_INSTANT` and `LAST_INSTANT`; one that does not costs
    nobody else's. One from beyond all time does not: as a cooldown, it would never end."""
    reports = []
    for entry in raw if isinstance(raw, list) else ():
        try:
            report = msgspec.convert(entry, Report)
        except msgspec.ValidationError:
            continue
        report = _clamped_report(report)
        if report.observed_time < LAST_INSTANT:
            reports.append(report)
    return reports


def _clamped_report(report: Report) -> Report:
    return msgspec.structs.replace(
        report,
        observed_time=clamped(report.observed_time),
        until_time=None if report.until_time is None else clamped(report.until_time),
        windows=[
            window
            if window.reset_time is None
            else msgspec.structs.replace(window, reset_time=clamped(window.reset_time))
            for window in report.windows
        ],
    )


def clamped(instant: datetime) -> datetime:
    """The instant in UTC, or the nearest one that can be reckoned with."""
    aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
    return min(max(aware, FIRST_INSTANT), LAST_INSTANT).astimezone(UTC)


_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")  # as the CRD has it


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
