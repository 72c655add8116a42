"""What stays the same while the simulator runs: the registered client, the federation rules, who may log in.

What a test changes on the way is in `switches`.
"""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

BodyKind = Literal["json", "form"]

_RULE_KEYS = {
    "id": "id",
    "organization": "organization_id",
    "subject": "subject",
    "lifetime": "lifetime",
    "service-account": "service_account_id",
}


@dataclass(frozen=True)
class FederationRule:
    """Which ServiceAccount tokens the provider accepts, for which organisation, and for how long its answer lives.

    `subject` is the token's `sub` (`system:serviceaccount:NAMESPACE:NAME`) or a glob over it. The provider's
    documentation allows lifetimes from 60 to 86,400 seconds.
    """

    id: str
    organization_id: str
    subject: str
    lifetime: int = 3600
    service_account_id: str | None = None

    def __post_init__(self) -> None:
        if not self.id.startswith("fdrl_"):
            raise ValueError(f"federation rule {self.id!r}: the id must start with fdrl_")
        try:
            uuid.UUID(self.organization_id)
        except ValueError:
            raise ValueError(f"federation rule {self.id}: the organization must be a UUID") from None
        if not self.subject:
            raise ValueError(f"federation rule {self.id}: the subject is empty")
        if not 60 <= self.lifetime <= 86_400:
            raise ValueError(f"federation rule {self.id}: the lifetime must be from 60 to 86400 seconds")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `id=fdrl_…,organization=UUID,subject=GLOB[,lifetime=SECONDS][,service-account=svac_…]`.

        Raises ValueError with a message for the person who typed it.
        """
        values: dict[str, str] = {}
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if not equals or key not in _RULE_KEYS:
                raise ValueError(f"{part!r} is not KEY=VALUE with a key of {', '.join(_RULE_KEYS)}")
            values[_RULE_KEYS[key]] = value
        missing = [key for key in ("id", "organization", "subject") if _RULE_KEYS[key] not in values]
        if missing:
            raise ValueError(f"a federation rule needs {', '.join(missing)}")
        lifetime = values.pop("lifetime", "3600")
        if not re.fullmatch(r"[0-9]{1,6}", lifetime):
            raise ValueError(f"lifetime {lifetime!r} is not a number of seconds")
        return cls(**values, lifetime=int(lifetime))


@dataclass(frozen=True)
class Settings:
    """The registered OAuth client, the issuer whose ServiceAccount tokens are accepted, and limits of the recorder."""

    client_id: str = "oauth-pool-simulator"
    # a confidential client: its secret (RFC 6749 2.3.1), or the public half of its key as PEM (RFC 7523 2.2)
    client_secret: str | None = None
    client_public_key: str | None = None
    redirect_uris: tuple[str, ...] = ("https://simulator.invalid/oauth/code/callback",)
    scopes: tuple[str, ...] = ("user:inference", "user:profile")
    # bodies that the token endpoint reads; RFC 6749 says form, the provider JSON
    token_bodies: tuple[BodyKind, ...] = ("json",)
    # some deployments want `code=true` in the authorization URL
    code_parameter_required: bool = False
    # who is offered on the login page; anybody else may be typed
    accounts: tuple[str, ...] = ("alice@example.com", "bob@example.com", "carol@example.com")
    # RFC 6749 4.1.2: ten minutes at most
    code_lifetime: float = 600
    # seconds that access tokens of a code or a refresh live
    access_token_lifetime: int = 28_800

    # the API server that signs ServiceAccount tokens; its keys are discovered there unless `jwks_file` holds them
    issuer: str | None = None
    issuer_ca_file: Path | None = None
    jwks_file: Path | None = None
    audience: str = "https://simulator.invalid"
    federation_rules: tuple[FederationRule, ...] = ()

    max_recorded_requests: int = 10_000
    max_recorded_bytes: int = 64 * 1024 * 1024

    def federation_rule(self, rule_id: str) -> FederationRule | None:
        return next((rule for rule in self.federation_rules if rule.id == rule_id), None)
