"""What a provider profile lets an account ask for. Pure; the answers are sentences for the account's author."""

from fnmatch import fnmatchcase

from oauth_pool_operator.account.spec import Spec
from oauth_pool_operator.oauth.profiles import GRANT_TABLES, Profile


def why_not(spec: Spec, profile: Profile) -> str | None:
    """Why the account cannot be used at all under this profile; None when it can."""
    if spec.grant not in profile.grants:
        offered = ", ".join(sorted(profile.grants))
        return f"provider {spec.provider!r} is not configured for grant {spec.grant}; it offers {offered}"
    return _foreign_tenant(spec, profile)


def why_no_login(spec: Spec, profile: Profile) -> str | None:
    """Why nobody can log the account in; None when somebody can. An account that works keeps working."""
    client = profile.client(spec.grant)
    if spec.expected_subject is None or client is None or client.names_subjects:
        return None
    table = f"[providers.{spec.provider}.{GRANT_TABLES[spec.grant]}]"
    return (
        f"spec.expectedSubject cannot be checked: provider {spec.provider!r} does not say who logs in. Name the claim or "
        f"member of its answers that does with subject_claim in {table}, such as account.email_address, add the scope "
        f"openid there, or remove spec.expectedSubject"
    )


def _foreign_tenant(spec: Spec, profile: Profile) -> str | None:
    """The operator's configuration, not the account, says whose tokens the pool may use for people's requests."""
    workload, pins = spec.workload_identity, profile.workload_identity
    if spec.grant != "WorkloadIdentity" or workload is None or pins is None:
        return None
    named = (
        ("organizationID", workload.organization_id, "organization_ids", pins.organization_ids),
        ("federationRuleID", workload.federation_rule_id, "federation_rule_ids", pins.federation_rule_ids),
    )
    for field, value, key, allowed in named:
        if allowed is not None and not any(fnmatchcase(value, pattern) for pattern in allowed):
            return (
                f"spec.workloadIdentity.{field} {value} is not one that provider {spec.provider!r} allows: {key} of the "
                f"operator's configuration has {', '.join(allowed)}"
            )
    return None
