"""The TOML file: where things are, and the provider profiles, typed and validated with errors a person can act on.

Nothing about a provider is built in: endpoints, client ids, scopes and header values are what the file says.
"""

import ipaddress
import os
import re
import ssl
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from .errors import ConfigError

DEFAULT_PATH = Path("/etc/oauth-pool-operator/config.toml")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5 without obs-text
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class AuthorizationCodeProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A registered OAuth client (RFC 6749, PKCE per RFC 7636)."""

    client_id: str
    authorization_endpoint: str
    token_endpoint: str
    redirect_uri: str
    scopes: list[str] = []
    revocation_endpoint: str | None = None
    # the body of requests to the token endpoint: RFC 6749 says form, some providers want JSON
    token_body: Literal["json", "form"] = "form"
    # not in RFC 6749; some providers want `state` in the exchange, too
    send_state: bool = False
    authorization_parameters: dict[str, str] = {}
    token_headers: dict[str, str] = {}


class WorkloadIdentityProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a ServiceAccount token is exchanged for an access token (RFC 7523)."""

    token_endpoint: str
    audience: str
    token_headers: dict[str, str] = {}


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One provider: what `spec.provider` names."""

    authorization_code: AuthorizationCodeProfile | None = None
    workload_identity: WorkloadIdentityProfile | None = None
    # trusted instead of the system's certificates, for a provider with a private CA
    ca_file: Path | None = None
    timeout_secs: float = 60

    @property
    def grants(self) -> frozenset[str]:
        """The values of `spec.grant` that this profile serves."""
        offered = {"AuthorizationCode": self.authorization_code, "WorkloadIdentity": self.workload_identity}
        return frozenset(grant for grant, settings in offered.items() if settings is not None)


class OperatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where things are."""

    namespace: str = ""
    state_dir: Path = Path("/var/lib/oauth-pool/state")
    access_dir: Path = Path("/var/lib/oauth-pool/access")
    config_map: str = "oauth-pool"
    health_listen_addr: str = "0.0.0.0:8081"
    metrics_listen_addr: str = "0.0.0.0:9090"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    providers: dict[str, Profile] = {}
    operator: OperatorSettings = OperatorSettings()


def load_config(path: Path, *, namespace: str | None = None) -> Config:
    """Read and check the file; `namespace` (from the command line or the environment) wins over the file.

    Raises `ConfigError` with one line that says what is wrong, where, and what is allowed.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        _refuse_unknown_keys(raw)
        config = msgspec.convert(raw, Config, dec_hook=_decode)
        config = _with_namespace(config, namespace)
        _check(config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_readable(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as its parts; ValueError when it is not that."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise msgspec.ValidationError(f"Expected a path, got `{type(value).__name__}`")


def _refuse_unknown_keys(raw: dict[str, Any]) -> None:
    _known(raw, Config, "the top level")
    operator = raw.get("operator")
    if isinstance(operator, dict):
        _known(operator, OperatorSettings, "[operator]")
    providers = raw.get("providers")
    if not isinstance(providers, dict):
        return
    for name, profile in providers.items():
        if not isinstance(profile, dict):
            continue
        _known(profile, Profile, f"[providers.{name}]")
        for key, kind in (
            ("authorization_code", AuthorizationCodeProfile),
            ("workload_identity", WorkloadIdentityProfile),
        ):
            if isinstance(profile.get(key), dict):
                _known(profile[key], kind, f"[providers.{name}.{key}]")


def _known(table: dict[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    unknown = sorted(set(table) - set(kind.__struct_fields__))
    if unknown:
        known = ", ".join(sorted(kind.__struct_fields__))
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known are {known}")


def _readable(error: msgspec.ValidationError) -> str:
    what, _, where = str(error).partition(" - at ")
    return f"{where.strip('`').removeprefix('$.') or 'the top level'}: {what[0].lower()}{what[1:]}"


def _with_namespace(config: Config, namespace: str | None) -> Config:
    chosen = namespace or config.operator.namespace
    if not chosen and _SERVICE_ACCOUNT_NAMESPACE.exists():
        chosen = _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    if not chosen:
        raise ConfigError(
            "operator.namespace: is missing; outside a pod, set it here, in NAMESPACE or with --namespace"
        )
    return msgspec.structs.replace(config, operator=msgspec.structs.replace(config.operator, namespace=chosen))


def _check(config: Config) -> None:
    for key in ("health_listen_addr", "metrics_listen_addr"):
        address = getattr(config.operator, key)
        try:
            split_address(address)
        except ValueError:
            raise ConfigError(f"operator.{key}: {address!r} is not host:port with a port from 1 to 65535") from None
    for name, profile in config.providers.items():
        _check_profile(f"providers.{name}", profile)


def _check_profile(where: str, profile: Profile) -> None:
    if profile.authorization_code is None and profile.workload_identity is None:
        raise ConfigError(f"{where}: needs [{where}.authorization_code], [{where}.workload_identity] or both")
    if profile.timeout_secs <= 0:
        raise ConfigError(f"{where}.timeout_secs: must be more than 0")
    if profile.ca_file is not None:
        try:
            ssl.create_default_context(cafile=str(profile.ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{where}.ca_file: {profile.ca_file} is not a PEM file with certificates") from error
    for grant in ("authorization_code", "workload_identity"):
        settings = getattr(profile, grant)
        if settings is None:
            continue
        for key in ("authorization_endpoint", "token_endpoint", "revocation_endpoint"):
            url = getattr(settings, key, None)
            if url is not None:
                _check_url(f"{where}.{grant}.{key}", url)
        redirect_uri = getattr(settings, "redirect_uri", None)
        if redirect_uri is not None and not urlsplit(redirect_uri).scheme:
            raise ConfigError(f"{where}.{grant}.redirect_uri: {redirect_uri!r} is not a URI; it is what you registered")
        for key in ("client_id", "audience"):
            if getattr(settings, key, None) == "":
                raise ConfigError(f"{where}.{grant}.{key}: must not be empty")
        for header, value in settings.token_headers.items():
            if not _HEADER_NAME.fullmatch(header) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(f"{where}.{grant}.token_headers: {header!r} is not a header that can be sent")


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
