"""What a profile lets accounts ask for."""

from typing import Any

import msgspec
import pytest

from oauth_pool_operator.account.spec import WorkloadIdentity
from oauth_pool_operator.oauth.profiles import Profile
from oauth_pool_operator.oauth.terms import why_no_login, why_not
from tests.support.builders import account
from tests.test_operator.oauth.asking import profile_at


def pinned(**pins: list[str]) -> Profile:
    profile = profile_at("https://provider.example/token")
    assert profile.workload_identity is not None
    return msgspec.structs.replace(
        profile, workload_identity=msgspec.structs.replace(profile.workload_identity, **pins)
    )


@pytest.mark.parametrize(
    ("pins", "says"),
    [
        pytest.param({}, None, id="no pin: anybody's"),
        pytest.param({"organization_ids": ["other", "org"]}, None, id="the organization"),
        pytest.param({"organization_ids": ["o*"], "federation_rule_ids": ["fdrl_1*"]}, None, id="globs"),
        pytest.param({"organization_ids": ["ORG"]}, "organizationID org is not one", id="letters count"),
        pytest.param({"organization_ids": ["other"]}, "organizationID org is not one that provider", id="another's"),
        pytest.param(
            {"organization_ids": ["org"], "federation_rule_ids": ["fdrl_2", "fdrl_3"]},
            "federationRuleID fdrl_1 is not one that provider 'anthropic' allows: federation_rule_ids of the operator's "
            "configuration has fdrl_2, fdrl_3",
            id="another rule of it",
        ),
    ],
)
def test_a_profile_pins_whose_tokens_a_workload_may_bring_in(pins: dict[str, list[str]], says: str | None) -> None:
    workload = WorkloadIdentity("inference", "fdrl_1", "org")
    spec = msgspec.structs.replace(account(grant="WorkloadIdentity").spec, workload_identity=workload)
    problem = why_not(spec, pinned(**pins))
    assert problem is None if says is None else says in (problem or "")


def test_a_grant_that_the_profile_has_not_is_refused_with_those_that_it_has() -> None:
    profile = msgspec.structs.replace(profile_at("https://provider.example/token"), device_code=None)
    problem = why_not(account(grant="DeviceCode").spec, profile)
    assert problem == (
        "provider 'anthropic' is not configured for grant DeviceCode; it offers AuthorizationCode, WorkloadIdentity"
    )


@pytest.mark.parametrize(
    ("client", "expected", "is_refused"),
    [
        pytest.param({}, "alice", True, id="a provider that names nobody"),
        pytest.param({}, None, False, id="but nobody is expected"),
        pytest.param({"subject_claim": "email"}, "alice", False, id="the profile says where"),
        pytest.param({"scopes": ["openid"]}, "alice", False, id="an ID token is asked for"),
    ],
)
@pytest.mark.parametrize("grant", ["AuthorizationCode", "DeviceCode"])
def test_nobody_is_expected_where_nobody_can_be_told(
    client: dict[str, Any], expected: str | None, is_refused: bool, grant: str
) -> None:
    spec = account(grant=grant, expected_subject=expected).spec
    problem = why_no_login(spec, profile_at("https://provider.example/token", **client))
    assert (problem is not None) == is_refused
    assert problem is None or "subject_claim in [providers.anthropic." in problem
