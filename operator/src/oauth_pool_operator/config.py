"""The TOML file: where things are, and the provider profiles, typed and validated with errors a person can act on.

Nothing about a provider is built in: endpoints, client ids, scopes and header values are what the file says. A profile
that cannot be used costs its own accounts only: it is set aside with the reason, and the others are served.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from oauth_pool_operator.certificates import context_for
from oauth_pool_operator.errors import ConfigError

DEFAULT_PATH = Path("/etc/oauth-pool-operator/config.toml")
_PROVIDER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # what the CRD allows in spec.provider
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5 without obs-text
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ClientProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A registered OAuth client, whichever way people log in with it."""

    client_id: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    scopes: list[str] = []
    # the body of requests to the endpoints: RFC 6749 says form, some providers want JSON
    token_body: Literal["json", "form"] = "form"
    token_headers: dict[str, str] = {}


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
    """Where a ServiceAccount token is exchanged for an access token (RFC 7523)."""

    token_endpoint: str
    audience: str
    token_headers: dict[str, str] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One provider: what `spec.provider` names."""

    authorization_code: AuthorizationCodeProfile | None = None
    device_code: DeviceCodeProfile | None = None
    workload_identity: WorkloadIdentityProfile | None = None
    # trusted instead of the system's certificates, for a provider with a private CA
    ca_file: Path | None = None
    timeout_secs: float = 60
    # a new login of an account that works gives the grant back that it replaces (RFC 9700 2.2.2)
    revoke_replaced_grants: bool = True

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


class OperatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where things are."""

    namespace: str = ""
    state_dir: Path = Path("/var/lib/oauth-pool/state")
    access_dir: Path = Path("/var/lib/oauth-pool/access")
    config_map: str = "oauth-pool"
    health_listen_addr: str = "0.0.0.0:8081"
    metrics_listen_addr: str = "0.0.0.0:9090"
    # to the token endpoint of one provider
    max_concurrent_refreshes: int = 4


class Config(msgspec.Struct, frozen=True):
    """The whole file. Every provider that it names is in one of the two dictionaries."""

    operator: OperatorSettings
    providers: dict[str, Profile]
    # provider -> one line that says what is wrong with its profile, where, and what is allowed
    broken_providers: dict[str, str] = {}


def load_config(path: Path, *, namespace: str | None = None) -> Config:
    """Read and check the file; `namespace` (from the command line or the environment) wins over the file.

    Raises `ConfigError` with one line that says what is wrong, where, and what is allowed. What is wrong with a single
    provider's profile is not an error here: see `Config.broken_providers`.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return _read(raw, namespace)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as its parts; ValueError when it is not that."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected a path, got `{type(value).__name__}`")  # msgspec adds where


def _read(raw: dict[str, Any], namespace: str | None) -> Config:
    _refuse_unknown_keys(raw, ("operator", "providers"), "the top level")
    operator = _with_namespace(_table(raw.get("operator", {}), OperatorSettings, "operator"), namespace)
    _check_operator(operator)
    tables = raw.get("providers", {})
    if not isinstance(tables, dict):
        raise ConfigError("providers: must be tables, [providers.NAME]")
    providers, broken = {}, {}
    for name, table in tables.items():
        try:
            providers[name] = _read_profile(name, table)
        except ConfigError as error:
            broken[name] = str(error)
    return Config(operator, providers, broken)


def _read_profile(name: str, table: Any) -> Profile:
    where = f"providers.{name}"
    if not _PROVIDER_NAME.fullmatch(name):
        allowed = "lower case letters, digits and '-', with a letter or digit at both ends, at most 63"
        raise ConfigError(f"{where}: no account can name it; allowed are {allowed}")
    for key, kind in _TABLE_KINDS.items():
        if isinstance(table, dict) and isinstance(table.get(key), dict):
            _refuse_unknown_keys(table[key], kind.__struct_fields__, f"[{where}.{key}]")
    profile = _table(table, Profile, where)
    _check_profile(where, profile)
    return profile


_TABLE_KINDS: dict[str, type[msgspec.Struct]] = {
    "authorization_code": AuthorizationCodeProfile,
    "device_code": DeviceCodeProfile,
    "workload_identity": WorkloadIdentityProfile,
}

_TABLE = TypeVar("_TABLE", bound=msgspec.Struct)


def _table(raw: Any, kind: type[_TABLE], where: str) -> _TABLE:
    """A table of the file, typed."""
    if isinstance(raw, dict):
        _refuse_unknown_keys(raw, kind.__struct_fields__, f"[{where}]")
    try:
        return msgspec.convert(raw, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        place = where + path.strip("`").removeprefix("$")
        raise ConfigError(f"{place}: {what[0].lower()}{what[1:]}") from error


def _refuse_unknown_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _with_namespace(settings: OperatorSettings, namespace: str | None) -> OperatorSettings:
    chosen = namespace or settings.namespace
    if not chosen and _SERVICE_ACCOUNT_NAMESPACE.exists():
        chosen = _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    if not chosen:
        raise ConfigError(
            "operator.namespace: is missing; outside a pod, set it here, in NAMESPACE or with --namespace"
        )
    return msgspec.structs.replace(settings, namespace=chosen)


def _check_operator(settings: OperatorSettings) -> None:
    for key in ("health_listen_addr", "metrics_listen_addr"):
        address = getattr(settings, key)
        try:
            split_address(address)
        except ValueError:
            raise ConfigError(f"operator.{key}: {address!r} is not host:port with a port from 1 to 65535") from None
    if settings.max_concurrent_refreshes < 1:
        raise ConfigError("operator.max_concurrent_refreshes: must be at least 1")


def _check_profile(where: str, profile: Profile) -> None:
    if not profile.grants:
        tables = ", ".join(f"[{where}.{table}]" for table in GRANT_TABLES.values())
        raise ConfigError(f"{where}: needs at least one of {tables}")
    if profile.timeout_secs <= 0:
        raise ConfigError(f"{where}.timeout_secs: must be more than 0")
    if profile.ca_file is not None:
        try:
            context_for(str(profile.ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{where}.ca_file: {profile.ca_file} is not a PEM file with certificates") from error
    for grant in GRANT_TABLES.values():
        settings = getattr(profile, grant)
        if settings is None:
            continue
        for key in _ENDPOINTS:
            url = getattr(settings, key, None)
            if url is not None:
                _check_url(f"{where}.{grant}.{key}", url)
        redirect_uri = getattr(settings, "redirect_uri", None)
        if redirect_uri is not None and not urlsplit(redirect_uri).scheme:
            raise ConfigError(f"{where}.{grant}.redirect_uri: {redirect_uri!r} is not a URI; it is what you registered")
        for key in ("client_id", "audience"):
            if getattr(settings, key, None) == "":
                raise ConfigError(f"{where}.{grant}.{key}: must not be empty")
        if taken := sorted(_OURS & getattr(settings, "authorization_parameters", {}).keys()):
            raise ConfigError(f"{where}.{grant}.authorization_parameters: {taken[0]!r} is set by the operator itself")
        for header, value in settings.token_headers.items():
            if not _HEADER_NAME.fullmatch(header) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(f"{where}.{grant}.token_headers: {header!r} is not a header that can be sent")


# Parameters of an authorize URL that make it safe, or that the profile has a key for (RFC 6749 4.1.1, RFC 7636 4.3).
_OURS = frozenset(
    ("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method")
)

_ENDPOINTS = ("authorization_endpoint", "device_authorization_endpoint", "token_endpoint", "revocation_endpoint")


def _check_url(where: str, url: str) -> None:
    """Tokens and codes travel to these: https, or http on the machine itself (RFC 8252 7.3 allows loopback)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    if host is None or port == 0 or parts.scheme not in ("https", "http"):
        raise ConfigError(f"{where}: {url!r} is not a URL such as https://host/path")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError(f"{where}: must be https; http is allowed for loopback addresses only")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
