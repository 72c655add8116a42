"""What the configuration file says of one provider: endpoints, registered clients, limits. `profile_checks` judges it.

Nothing about a provider is built in. Secrets are never here, only the files that they are read from.
"""

from pathlib import Path
from typing import Literal

import msgspec

# A request to a provider takes no longer than this, whatever a profile says: SIGTERM waits for it (`handlers`), and the
# Deployment's terminationGracePeriodSeconds is longer than both.
LONGEST_TIMEOUT_SECS = 120.0

Authentication = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
SigningAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


class ClientProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A registered OAuth client, whichever way people log in with it."""

    client_id: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    scopes: list[str] = []
    # the body of requests to the endpoints: RFC 6749 says form, some providers want JSON
    token_body: Literal["json", "form"] = "form"
    token_headers: dict[str, str] = {}
    # how a confidential client proves that it is the client; unset, it follows from the files
    client_authentication: Authentication | None = None
    client_secret_file: Path | None = None
    private_key_file: Path | None = None  # PEM, RSA or EC
    key_id: str | None = None
    signing_algorithm: SigningAlgorithm | None = None  # unset: what the key is for
    assertion_audience: str | None = None  # unset: the token endpoint
    # the provider's issuer identifier (RFC 8414 2): redirect URLs (RFC 9207) and ID tokens have to be of it
    issuer: str | None = None
    # who logged in: a claim of the ID token, or a member of the token answer, such as account.email_address
    subject_claim: str | None = None

    @property
    def authentication(self) -> Authentication:
        """How the client proves who it is (RFC 6749 2.3, RFC 7523 2.2)."""
        if self.client_authentication is not None:
            return self.client_authentication
        if self.private_key_file is not None:
            return "private_key_jwt"
        return "client_secret_basic" if self.client_secret_file is not None else "none"

    @property
    def names_subjects(self) -> bool:
        """The provider will say who logged in: the profile says where, or an ID token is asked for (OIDC Core 3.1.2.1)."""
        return self.subject_claim is not None or "openid" in self.scopes


class AuthorizationCodeProfile(ClientProfile, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """People log in on a page and hand over a code (RFC 6749 4.1, PKCE per RFC 7636)."""

    authorization_endpoint: str
    redirect_uri: str
    # take a pasted code that came without its `state`, for providers whose page shows the code alone
    allow_code_without_state: bool = False
    # not in RFC 6749; some providers want `state` in the exchange, too
    send_state: bool = False
    authorization_parameters: dict[str, str] = {}


class DeviceCodeProfile(ClientProfile, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """People enter a short code on a page, and nothing has to be handed over (RFC 8628)."""

    device_authorization_endpoint: str


class WorkloadIdentityProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a ServiceAccount token is exchanged for an access token (RFC 7523 2.1), and for whose."""

    token_endpoint: str
    audience: str
    token_headers: dict[str, str] = {}
    # globs: what `spec.workloadIdentity` may name; unset, anything
    organization_ids: list[str] | None = None
    federation_rule_ids: list[str] | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One provider: what `spec.provider` names."""

    authorization_code: AuthorizationCodeProfile | None = None
    device_code: DeviceCodeProfile | None = None
    workload_identity: WorkloadIdentityProfile | None = None
    # trusted instead of the system's certificates, for a provider with a private CA
    ca_file: Path | None = None
    timeout_secs: float = 60  # of a whole request, body included
    # a new login of an account that works gives the grant back that it replaces (RFC 9700 2.2.2)
    revoke_replaced_grants: bool = True
    # further words with which a token endpoint says that a refresh token is dead
    dead_grant_errors: list[str] = []
    # http(s)://[user@]host:port; unset: the operator's; empty: none
    proxy_url: str | None = None
    proxy_password_file: Path | None = None

    @property
    def grants(self) -> frozenset[str]:
        """The values of `spec.grant` that this profile serves."""
        return frozenset(grant for grant, table in GRANT_TABLES.items() if getattr(self, table) is not None)

    def client(self, grant: str) -> ClientProfile | None:
        """The client that people log in with under this grant; None for one without a login, or not offered."""
        return {"AuthorizationCode": self.authorization_code, "DeviceCode": self.device_code}.get(grant)


# spec.grant -> the table of a profile that is about it
GRANT_TABLES = {
    "AuthorizationCode": "authorization_code",
    "DeviceCode": "device_code",
    "WorkloadIdentity": "workload_identity",
}
