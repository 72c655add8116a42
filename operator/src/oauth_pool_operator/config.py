"""The TOML file: where things are, and the provider profiles, typed and validated with errors a person can act on.

What a profile holds is in `oauth.profiles`, and what it must be like in `oauth.profile_checks`. A profile
that cannot be used costs its own accounts only: it is set aside with the reason, and the others are served.
"""

import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from oauth_pool_operator.errors import ConfigError
from oauth_pool_operator.oauth.profile_checks import check_profile, check_proxy
from oauth_pool_operator.oauth.profiles import (
    GRANT_TABLES,
    AuthorizationCodeProfile,
    ClientProfile,
    DeviceCodeProfile,
    Profile,
    WorkloadIdentityProfile,
)

__all__ = [
    "DEFAULT_PATH",
    "GRANT_TABLES",
    "AuthorizationCodeProfile",
    "ClientProfile",
    "Config",
    "DeviceCodeProfile",
    "OperatorSettings",
    "Profile",
    "PublicationSettings",
    "WorkloadIdentityProfile",
    "load_config",
    "split_address",
]

DEFAULT_PATH = Path("/etc/oauth-pool-operator/config.toml")
TOKENS = ("sealed", "volume")
_PROVIDER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # what the CRD allows in spec.provider
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


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
    # http(s)://[user@]host:port, on the way to token endpoints, never to the API server; a profile may have its own
    proxy_url: str | None = None
    proxy_password_file: Path | None = None


class PublicationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How access tokens reach the proxies."""

    # "sealed": to each proxy, by the API server. "volume": as files in `operator.access_dir`
    tokens: str = "sealed"

    @property
    def are_sealed(self) -> bool:
        """No access volume is needed."""
        return self.tokens == "sealed"


class Config(msgspec.Struct, frozen=True):
    """The whole file. Every provider that it names is in one of the two dictionaries."""

    operator: OperatorSettings
    providers: dict[str, Profile]
    # provider -> one line that says what is wrong with its profile, where, and what is allowed
    broken_providers: dict[str, str] = {}
    publication: PublicationSettings = PublicationSettings()


def load_config(path: Path, *, namespace: str | None = None) -> Config:
    """Read and check the file; `namespace` (from the command line or the environment) wins over the file.

    Raises `ConfigError` with one line that says what is wrong, where, and what is allowed. What is wrong with a single
    provider's profile is not an error here: see `Config.broken_providers`.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
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
    _refuse_unknown_keys(raw, ("operator", "providers", "publication"), "the top level")
    operator = _with_namespace(_table(raw.get("operator", {}), OperatorSettings, "operator"), namespace)
    _check_operator(operator)
    publication = _table(raw.get("publication", {}), PublicationSettings, "publication")
    if publication.tokens not in TOKENS:
        raise ConfigError(f"publication.tokens: {publication.tokens!r} is not one of {', '.join(TOKENS)}")
    tables = raw.get("providers", {})
    if not isinstance(tables, dict):
        raise ConfigError("providers: must be tables, [providers.NAME]")
    providers, broken = {}, {}
    for name, table in tables.items():
        try:
            providers[name] = _read_profile(name, table, operator)
        except ConfigError as error:
            broken[name] = str(error)
    return Config(operator, providers, broken, publication)


def _read_profile(name: str, table: Any, operator: OperatorSettings) -> Profile:
    where = f"providers.{name}"
    if not _PROVIDER_NAME.fullmatch(name):
        allowed = "lower case letters, digits and '-', with a letter or digit at both ends, at most 63"
        raise ConfigError(f"{where}: no account can name it; allowed are {allowed}")
    for key, kind in _TABLE_KINDS.items():
        if isinstance(table, dict) and isinstance(table.get(key), dict):
            _refuse_unknown_keys(table[key], kind.__struct_fields__, f"[{where}.{key}]")
    profile = _table(table, Profile, where)
    check_profile(where, profile)
    if profile.proxy_url is not None:
        return profile
    return msgspec.structs.replace(
        profile, proxy_url=operator.proxy_url, proxy_password_file=operator.proxy_password_file
    )


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
    check_proxy("operator", settings.proxy_url, settings.proxy_password_file)
