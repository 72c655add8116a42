"""Accounts in every state there is, with the health that ArgoCD should show for each.

Each status is what the operator itself writes for such facts, so that a reason which it renames, or a condition that it sets in
another way, shows here.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Remark
from oauth_pool_operator.account.facts import Facts
from oauth_pool_operator.account.status import render_status
from tests.support.builders import NOW, account, credential, device_session, facts, report, session, trouble

HEALTH_KEY = "resource.customizations.health.oauthpool.dev_OAuthAccount"
URL = "https://provider.example/oauth/authorize?state=of-a-test"
ELAPSED = timedelta(minutes=11)  # a login lasts ten
EXPIRED = credential(expires_in=timedelta(minutes=-1))
DAMAGED = "credential.json.damaged"


@dataclass(frozen=True)
class Case:
    """An account, and what its health says; `reason` is the word that the message begins with."""

    name: str
    object: dict[str, Any]
    health: str
    reason: str


def case(name: str, of: Facts, health: str, reason: str) -> Case:
    return Case(name, live(of), health, reason)


def live(of: Facts, status: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object as it is in the cluster; unless another status is given, with the operator's own."""
    spec: dict[str, Any] = {"provider": of.account.spec.provider, "grant": of.account.spec.grant}
    if of.account.spec.suspend:
        spec["suspend"] = True
    if of.account.spec.workload_identity is not None:
        names = of.account.spec.workload_identity
        spec["workloadIdentity"] = {
            "serviceAccountName": names.service_account_name,
            "federationRuleID": names.federation_rule_id,
            "organizationID": names.organization_id,
        }
    return {
        "apiVersion": "oauthpool.dev/v1alpha1",
        "kind": "OAuthAccount",
        "metadata": {"name": of.account.name, "namespace": of.account.namespace, "generation": of.account.generation},
        "spec": spec,
        **({"status": render_status(of, URL)} if status is None else {"status": status} if status else {}),
    }


def of_device(**members: Any) -> Facts:
    return facts(account(grant="DeviceCode"), **members)


def of_workload(**members: Any) -> Facts:
    return facts(account(grant="WorkloadIdentity"), **members)


def suspended(**members: Any) -> Facts:
    return facts(account(suspend=True), **members)


def benched(reason: str) -> Facts:
    return facts(account(reports=(report(reason, until=timedelta(minutes=30)),)), credential=credential())


def dead(reason: str, **members: Any) -> Facts:
    return facts(credential=credential(dead=reason), **members)


def with_problem(reason: str, **members: Any) -> Any:
    return session(problem=reason, problem_message="what the person reads", **members)


def stalled(reason: str) -> Any:
    return trouble(reason, is_stalled=True)


DENIED = device_session(problem=c.ACCESS_DENIED, problem_message="somebody said no", age=ELAPSED)

WAITING = "waiting for the operator"
CASES = [
    # nothing is known yet
    Case("new", live(facts(), {}), "Progressing", WAITING),
    Case("only reports", live(facts(), {"reports": []}), "Progressing", WAITING),
    Case("no conditions", live(facts(), {"observedGeneration": 1}), "Progressing", WAITING),
    Case(
        "spec has changed",
        live(facts(account(generation=2)), render_status(facts(credential=credential()), URL)),
        "Progressing",
        WAITING,
    ),
    # a person is waited for
    case("login about to be opened", facts(), "Suspended", c.AWAITING_CODE),
    case("first login", facts(session=session()), "Suspended", c.AWAITING_CODE),
    case("first login of a device", of_device(session=device_session()), "Suspended", c.AWAITING_APPROVAL),
    case("first login expired", facts(session=session(age=ELAPSED)), "Suspended", c.LOGIN_EXPIRED),
    case("first login denied", of_device(session=DENIED), "Suspended", c.ACCESS_DENIED),
    case("first code rejected", facts(session=with_problem(c.CODE_REJECTED)), "Suspended", c.CODE_REJECTED),
    case("somebody else logged in", facts(session=with_problem(c.SUBJECT_MISMATCH)), "Suspended", c.SUBJECT_MISMATCH),
    case("dead, new login open", dead(c.GRANT_REVOKED, session=session()), "Suspended", c.AWAITING_CODE),
    case(
        "dead, code of the new login rejected",
        dead(c.GRANT_REVOKED, session=with_problem(c.CODE_REJECTED)),
        "Suspended",
        c.CODE_REJECTED,
    ),
    # its login is lost
    case("grant revoked", dead(c.GRANT_REVOKED), "Degraded", c.GRANT_REVOKED),
    case("refresh outcome unknown", dead(c.REFRESH_OUTCOME_UNKNOWN), "Degraded", c.REFRESH_OUTCOME_UNKNOWN),
    case("dead, new login expired", dead(c.GRANT_REVOKED, session=session(age=ELAPSED)), "Degraded", c.LOGIN_EXPIRED),
    case(
        "dead, new login denied",
        replace(of_device(session=DENIED), credential=credential(dead=c.GRANT_REVOKED)),
        "Degraded",
        c.ACCESS_DENIED,
    ),
    case(
        "dead, code rejected, expired since",
        dead(c.GRANT_REVOKED, session=with_problem(c.CODE_REJECTED, age=ELAPSED)),
        "Degraded",
        c.CODE_REJECTED,
    ),
    case(
        "dead, somebody else logged in, expired since",
        dead(c.GRANT_REVOKED, session=with_problem(c.SUBJECT_MISMATCH, age=ELAPSED)),
        "Degraded",
        c.SUBJECT_MISMATCH,
    ),
    case(
        "credential damaged, token still good",
        facts(credential=credential(refresh_token=None), damaged=DAMAGED),
        "Degraded",
        c.STATE_CORRUPT,
    ),
    case("credential damaged", facts(damaged=DAMAGED, session=session()), "Degraded", c.STATE_CORRUPT),
    case("logged out", dead(c.LOGGED_OUT), "Degraded", c.LOGGED_OUT),
    case(
        "grant revoked, token expired",
        facts(credential=credential(dead=c.GRANT_REVOKED, expires_in=-ELAPSED)),
        "Degraded",
        c.GRANT_REVOKED,
    ),
    # it works, or will by itself
    case("grant doubted", facts(credential=credential(), trouble=trouble(c.GRANT_DOUBTED)), "Healthy", c.AVAILABLE),
    case(
        "a grant that is replaced cannot be given back",
        facts(credential=credential(), trouble=trouble(c.REVOCATION_FAILED)),
        "Healthy",
        c.AVAILABLE,
    ),
    case(
        "the provider has asked to wait",
        facts(credential=credential(), trouble=replace(trouble(), is_held=True)),
        "Healthy",
        c.AVAILABLE,
    ),
    case("available", facts(credential=credential()), "Healthy", c.AVAILABLE),
    case("available, new login open", facts(credential=credential(), session=session()), "Healthy", c.AVAILABLE),
    case(
        "available, code of the new login rejected",
        facts(credential=credential(), session=with_problem(c.CODE_REJECTED)),
        "Healthy",
        c.AVAILABLE,
    ),
    case("available, refreshing fails", facts(credential=credential(), trouble=trouble()), "Healthy", c.AVAILABLE),
    *(
        case(
            f"available, {reason}",
            facts(credential=credential(remarks=(Remark(reason, "odd"),))),
            "Healthy",
            c.AVAILABLE,
        )
        for reason in (c.SCOPE_NARROWED, c.NO_REFRESH_TOKEN, c.LIFETIME_ODD)
    ),
    case("quota exhausted", benched(c.QUOTA_EXHAUSTED), "Healthy", c.COOLING_DOWN),
    case("rate limited", benched(c.RATE_LIMITED), "Healthy", c.COOLING_DOWN),
    # it is tried again, but somebody has to look at the provider's console
    case("cannot pay", benched(c.BILLING), "Degraded", c.BILLING),
    case("refused, whatever its token", benched(c.FORBIDDEN), "Degraded", c.FORBIDDEN),
    case(
        "cannot pay, new login open",
        facts(
            account(reports=(report(c.BILLING, until=timedelta(minutes=5)),)),
            credential=credential(),
            session=session(),
        ),
        "Degraded",
        c.BILLING,
    ),
    case("token has expired", facts(credential=EXPIRED), "Progressing", c.REFRESHING),
    case("refreshing fails", facts(credential=EXPIRED, trouble=trouble()), "Progressing", c.REFRESHING),
    case("first exchange", of_workload(), "Progressing", c.REFRESHING),
    case("first exchange fails", of_workload(trouble=trouble(c.EXCHANGING)), "Progressing", c.REFRESHING),
    # somebody has to change something
    case(
        "refused again and again in no known words",
        facts(
            credential=EXPIRED,
            trouble=stalled(c.EXCHANGE_REJECTED),
            refusals=3,
            refused_since=NOW - timedelta(minutes=3),
        ),
        "Degraded",
        c.EXCHANGE_REJECTED,
    ),
    case(
        "an error of the operator",
        facts(credential=EXPIRED, trouble=stalled(c.UNEXPECTED)),
        "Degraded",
        c.UNEXPECTED,
    ),
    case(
        "a token kept beside",
        facts(credential=credential(), trouble=stalled(c.TOKEN_RESCUED)),
        "Degraded",
        c.TOKEN_RESCUED,
    ),
    case("unknown provider", facts(trouble=stalled(c.UNKNOWN_PROVIDER)), "Degraded", c.UNKNOWN_PROVIDER),
    case("invalid profile", facts(trouble=stalled(c.INVALID_PROFILE)), "Degraded", c.INVALID_PROFILE),
    case("invalid spec", facts(trouble=stalled(c.INVALID_SPEC)), "Degraded", c.INVALID_SPEC),
    case(
        "volume cannot be read",
        facts(is_unread=True, trouble=stalled(c.STORAGE_UNAVAILABLE)),
        "Degraded",
        c.STORAGE_UNAVAILABLE,
    ),
    case(
        "volume cannot be written, token still good",
        facts(credential=credential(), trouble=stalled(c.STORAGE_UNAVAILABLE)),
        "Degraded",
        c.STORAGE_UNAVAILABLE,
    ),
    case(
        "volume cannot be written, login waits",
        facts(session=session(), trouble=stalled(c.STORAGE_UNAVAILABLE)),
        "Degraded",
        c.STORAGE_UNAVAILABLE,
    ),
    case(
        "volume cannot be written, token has expired",
        facts(credential=EXPIRED, trouble=stalled(c.STORAGE_UNAVAILABLE)),
        "Degraded",
        c.STORAGE_UNAVAILABLE,
    ),
    case(
        "no room in the index",
        facts(credential=credential(), trouble=stalled(c.INDEX_FULL)),
        "Degraded",
        c.INDEX_FULL,
    ),
    case(
        "no room for its sealed token",
        facts(credential=credential(), trouble=stalled(c.TOKENS_FULL)),
        "Degraded",
        c.TOKENS_FULL,
    ),
    case("exchange rejected", of_workload(trouble=stalled(c.EXCHANGE_REJECTED)), "Degraded", c.EXCHANGE_REJECTED),
    case(
        "no token of the ServiceAccount",
        of_workload(trouble=stalled(c.SERVICE_ACCOUNT_TOKEN_REFUSED)),
        "Degraded",
        c.SERVICE_ACCOUNT_TOKEN_REFUSED,
    ),
    # somebody took it out of use
    case("suspended", suspended(credential=credential()), "Suspended", "spec.suspend"),
    case("suspended before the first login", suspended(), "Suspended", "spec.suspend"),
    case("suspended, grant dead", suspended(credential=credential(dead=c.GRANT_REVOKED)), "Suspended", "spec.suspend"),
    case(
        "suspended, stalled",
        suspended(is_unread=True, trouble=stalled(c.STORAGE_UNAVAILABLE)),
        "Suspended",
        "spec.suspend",
    ),
    case("suspended, provider unknown", suspended(trouble=stalled(c.UNKNOWN_PROVIDER)), "Suspended", "spec.suspend"),
]
