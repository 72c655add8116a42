"""The table that decides whose fault an answer is, as data. The configuration's `[[oauth.rules]]` come before it.

The first matching row decides. Limits explained by headers are not in it: `judgement.py` reads those first. Words are matched
against the error message only. An answer that matches no row goes to the client, and the account stays in use.

Sources: https://docs.anthropic.com/en/api/errors for statuses and types. The wordings were seen in answers.
"""

from oauth_pool_proxy.config import Rule, Verdict

LIMIT = 429
REFUSED_SECONDS = 300.0
"""How long an account rests after a refusal that a newer access token would not cure."""
ACCOUNT_STATUSES = frozenset((400, 401, 402, 403))
"""Statuses with which the API may also refuse an account."""

_TOKEN_IS_REFUSED = (
    "token*expired",
    "expired*token",
    "token*revoked",
    "revoked*token",
    "invalid*token",
    "token*invalid",
    "token*not valid",
    "invalid bearer",
)
_ACCOUNT_IS_REFUSED = (
    "not allowed for this organization",
    "not currently allowed for this organization",
    "organization has been disabled",
    "organization is disabled",
    "organization has been suspended",
    "organization is suspended",
    "organization has been deactivated",
    "account has been disabled",
    "account is disabled",
    "account has been suspended",
    "account is suspended",
    "account has been deactivated",
    "account has been banned",
)
_CANNOT_PAY = (
    "out of extra usage",
    "credit balance is too low",
    "credit balance too low",
    "insufficient credit",
    "api usage limits",
)
_QUOTA = (
    "5-hour",
    "5 hour",
    "rolling window",
    "usage limit for your plan",
    "subscription usage limit",
    "api usage limits",
    "out of extra usage",
)
_MODEL_IS_REFUSED = (
    "{model}",
    "access to*model",
    "model*no access",
    "model*access to",
    "model*not available",
    "model*not allowed",
    "model*not enabled",
    "not allowed*model",
    "permission*model",
    "model*permission",
)

BUILT_IN = (
    Rule(Verdict.QUOTA_EXHAUSTED, frozenset((LIMIT,)), words=_QUOTA),
    # Nothing explains the limit. Another account may do better, and this one is not to blame if it does.
    Rule(Verdict.NEXT_ACCOUNT, frozenset((LIMIT,))),
    Rule(
        Verdict.UNAUTHORIZED,
        frozenset((401,)),
        header=b"www-authenticate",
        header_values=("*invalid_token*",),  # RFC 6750 3.1
    ),
    Rule(Verdict.UNAUTHORIZED, frozenset((401,)), words=_TOKEN_IS_REFUSED),
    Rule(Verdict.FORBIDDEN, frozenset((403,)), words=("revoked",)),  # until there is a newer token
    Rule(Verdict.FORBIDDEN, ACCOUNT_STATUSES, words=_ACCOUNT_IS_REFUSED, cooldown=REFUSED_SECONDS),
    Rule(
        Verdict.FORBIDDEN,
        ACCOUNT_STATUSES,
        json_path=("error", "details", "error_code"),
        json_values=("oauth_not_allowed_for_organization", "*organization_disabled*", "*account_disabled*"),
        cooldown=REFUSED_SECONDS,
    ),
    Rule(Verdict.BILLING, ACCOUNT_STATUSES, words=_CANNOT_PAY, cooldown=REFUSED_SECONDS),
    Rule(Verdict.MODEL_FORBIDDEN, frozenset((403,)), words=_MODEL_IS_REFUSED),
    # A grant without this scope still works for everything else.
    Rule(Verdict.NEXT_ACCOUNT, frozenset((401, 403)), words=("scope",)),
    # No proof. The account is to blame if another one answers the same request well.
    Rule(Verdict.SUSPECT, frozenset((401, 402, 403))),
)
