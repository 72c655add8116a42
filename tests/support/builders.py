"""Builders for the operator's tests: say only what matters to the test, everything else is ordinary."""

from datetime import UTC, datetime, timedelta
from typing import Any

from oauth_pool_operator.account.documents import Credential, Import, LoginSession
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.spec import Account, Report, Spec, Window, WorkloadIdentity
from oauth_pool_operator.account.trouble import Subject, Trouble
from oauth_pool_operator.oauth.answer import DeviceAuthorization, TokenAnswer

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
UID = "3f8b7c1e-0000-4000-8000-000000000001"


def account(
    *,
    name: str = "claude-1",
    uid: str = UID,
    grant: Any = "AuthorizationCode",
    reports: tuple[Report, ...] = (),
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    resource_version: str = "1",
    generation: int = 1,
    deleting: bool = False,
    finalizers: tuple[str, ...] = (),
    **spec: Any,
) -> Account:
    workload = WorkloadIdentity("inference", "fdrl_1", "00000000-0000-0000-0000-000000000000")
    return Account(
        name=name,
        namespace="pool",
        uid=uid,
        generation=generation,
        resource_version=resource_version,
        deleting=deleting,
        finalizers=list(finalizers),
        annotations=annotations or {},
        labels=labels or {},
        spec=Spec(
            provider=spec.pop("provider", "anthropic"),
            grant=grant,
            workload_identity=workload if grant == "WorkloadIdentity" else None,
            **spec,
        ),
        reports=list(reports),
        status=status or {},
    )


def credential(
    *, expires_in: timedelta = timedelta(hours=7), lifetime: timedelta = timedelta(hours=8), **members: Any
) -> Credential:
    return Credential(
        **{
            "generation": 1,
            "access_token": "access-token-of-a-test",
            "refresh_token": "refresh-token-of-a-test",
            "expires": NOW + expires_in,
            "obtained": NOW + expires_in - lifetime,
            **members,
        }
    )


def answer(number: int = 2, **members: Any) -> TokenAnswer:
    """What a token endpoint grants; `number` tells it from others."""
    return TokenAnswer(
        **{
            "access_token": f"access-token-{number}-of-a-test",
            "refresh_token": f"refresh-token-{number}-of-a-test",
            "lifetime": timedelta(hours=8),
            "subject": None,
            **members,
        }
    )


def session(*, age: timedelta = timedelta(0), **members: Any) -> LoginSession:
    start = NOW - age
    return LoginSession(
        **{
            "session_id": "abc",
            "start": start,
            "expires": start + timedelta(minutes=10),
            "state": "state-of-a-test",
            "verifier": "verifier-of-a-test",
            **members,
        }
    )


def device_session(*, age: timedelta = timedelta(0), **members: Any) -> LoginSession:
    return session(
        age=age,
        **{
            "state": "",
            "verifier": "",
            "device_code": "device-code-of-a-test",
            "user_code": "BCDF-GHJK",
            "verification_uri": "https://provider.example/device",
            "poll_seconds": 5,
            **members,
        },
    )


def device_authorization(**members: Any) -> DeviceAuthorization:
    """What a device authorization endpoint answers."""
    return DeviceAuthorization(
        **{
            "device_code": "device-code-of-a-test",
            "user_code": "BCDF-GHJK",
            "verification_uri": "https://provider.example/device",
            "verification_uri_complete": None,
            "lifetime": timedelta(minutes=30),
            "interval": timedelta(seconds=5),
            **members,
        }
    )


def handed_over(**members: Any) -> Import:
    """What `oauth-pool-operator import` leaves on the state volume."""
    return Import(
        **{
            "request": "the-first",
            "refresh_token": "imported-refresh-token",
            "access_token": "imported-access-token",
            "expires": NOW + timedelta(hours=7),
            **members,
        }
    )


def report(reason: str | None = "QuotaExhausted", *, until: timedelta | None = None, **members: Any) -> Report:
    return Report(
        **{
            "reporter": "proxy-a",
            "observed_time": NOW,
            "reason": reason,
            "until_time": NOW + until if until is not None else None,
            "token_generation": 1,
            **members,  # such as `until_time`, an instant instead of a time from now
        }
    )


def window(name: str = "5h", utilization: float = 0.28, resets_in: timedelta = timedelta(hours=2)) -> Window:
    return Window(name=name, utilization=utilization, status="allowed", reset_time=NOW + resets_in)


def trouble(reason: str = "Refreshing", *, is_stalled: bool = False) -> Trouble:
    return Trouble(reason, "the token endpoint answered 503", NOW + timedelta(seconds=4), is_stalled)


_SUBJECTS = {
    "UnknownProvider": Subject.SPEC,
    "InvalidProfile": Subject.SPEC,
    "InvalidSpec": Subject.SPEC,
    "StorageUnavailable": Subject.STORAGE,
    "TokenRescued": Subject.STORAGE,
    "RevocationFailed": Subject.REVOCATION,
    "ServiceAccountTokenRefused": Subject.CLUSTER,
    "IndexFull": Subject.INDEX,
    "TokensFull": Subject.INDEX,
}


def facts(
    of: Account | None = None, *, trouble: Trouble | None = None, login_trouble: Trouble | None = None, **members: Any
) -> Facts:
    """`trouble` is of what its reason is about, and of the refresh if that says nothing."""
    troubles = {_SUBJECTS.get(trouble.reason, Subject.REFRESH): trouble} if trouble is not None else {}
    if login_trouble is not None:
        troubles[Subject.LOGIN] = login_trouble
    return Facts(of if of is not None else account(), members.pop("now", NOW), troubles=troubles, **members)
