"""Whether a provider profile can be used: every rule that a mistake in the file can break, with what to do about it.

Each rule raises `ConfigError` with the key that it is about. Files are read here once, at the start, so that a secret that is
missing is told before anybody logs in.
"""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from oauth_pool_operator.certificates import context_for
from oauth_pool_operator.errors import ConfigError
from oauth_pool_operator.oauth.client_auth import prove
from oauth_pool_operator.oauth.profiles import (
    GRANT_TABLES,
    LONGEST_TIMEOUT_SECS,
    AuthorizationCodeProfile,
    ClientProfile,
    Profile,
    WorkloadIdentityProfile,
)
from oauth_pool_operator.secret_files import SecretUnreadable, read_secret

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5 without obs-text
# Parameters of an authorize URL that make it safe, or that the profile has a key for (RFC 6749 4.1.1, RFC 7636 4.3).
_OURS = frozenset(
    ("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method")
)
_ENDPOINTS = ("authorization_endpoint", "device_authorization_endpoint", "token_endpoint", "revocation_endpoint")


def check_profile(where: str, profile: Profile) -> None:
    """All rules; `where` is the profile's place in the file."""
    if not profile.grants:
        tables = ", ".join(f"[{where}.{table}]" for table in GRANT_TABLES.values())
        raise ConfigError(f"{where}: needs at least one of {tables}")
    if not 0 < profile.timeout_secs <= LONGEST_TIMEOUT_SECS:
        longest = f"{LONGEST_TIMEOUT_SECS:g}: an operator that ends waits for what is in flight"
        raise ConfigError(f"{where}.timeout_secs: must be more than 0 and at most {longest}")
    if profile.ca_file is not None:
        try:
            context_for(str(profile.ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{where}.ca_file: {profile.ca_file} is not a PEM file with certificates") from error
    check_proxy(where, profile.proxy_url, profile.proxy_password_file)
    for table in GRANT_TABLES.values():
        settings = getattr(profile, table)
        if settings is not None:
            _check_table(f"{where}.{table}", settings)


def check_proxy(where: str, url: str | None, password_file: Path | None) -> None:
    """`http(s)://[user@]host:port`; the password only ever stands in a file."""
    if not url:
        if password_file is not None:
            raise ConfigError(f"{where}.proxy_password_file: has no effect without proxy_url")
        return
    try:
        parts = urlsplit(url)
        host, port, user, password = parts.hostname, parts.port, parts.username, parts.password
    except ValueError:
        host, port, user, password = None, None, None, None
    if password is not None:
        raise ConfigError(
            f"{where}.proxy_url: must not hold a password: put it into a file, and name proxy_password_file"
        )
    if host is None or port == 0 or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
        raise ConfigError(f"{where}.proxy_url: is not a URL such as http://user@proxy.example:3128")
    if password_file is not None:
        if not user:
            raise ConfigError(
                f"{where}.proxy_url: must name the user whose password is in proxy_password_file (http://user@host:port)"
            )
        try:
            read_secret(password_file)
        except SecretUnreadable as error:
            raise ConfigError(f"{where}.proxy_password_file: {error}") from None


def _check_table(where: str, settings: ClientProfile | WorkloadIdentityProfile) -> None:
    for key in _ENDPOINTS:
        url = getattr(settings, key, None)
        if url is not None:
            _check_url(f"{where}.{key}", url)
    for key in ("client_id", "audience", "issuer", "subject_claim"):
        if getattr(settings, key, None) == "":
            raise ConfigError(f"{where}.{key}: must not be empty")
    for header, value in settings.token_headers.items():
        if not _HEADER_NAME.fullmatch(header) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"{where}.token_headers: {header!r} is not a header that can be sent")
    if isinstance(settings, WorkloadIdentityProfile):
        _check_pins(where, settings)
    else:
        _check_authentication(where, settings)
    if isinstance(settings, AuthorizationCodeProfile):
        _check_authorization(where, settings)


def _check_pins(where: str, settings: WorkloadIdentityProfile) -> None:
    for key in ("organization_ids", "federation_rule_ids"):
        if getattr(settings, key) == []:
            raise ConfigError(f"{where}.{key}: allows none; name at least one, or leave it out to allow all")


def _check_authorization(where: str, settings: AuthorizationCodeProfile) -> None:
    try:
        scheme = urlsplit(settings.redirect_uri).scheme
    except ValueError:
        scheme = ""
    if not scheme:
        what = f"{settings.redirect_uri!r} is not a URI; it is what you registered"
        raise ConfigError(f"{where}.redirect_uri: {what}")
    if taken := sorted(_OURS & settings.authorization_parameters.keys()):
        raise ConfigError(f"{where}.authorization_parameters: {taken[0]!r} is set by the operator itself")


def _check_authentication(where: str, client: ClientProfile) -> None:
    """The files that the client's way to prove itself needs, and no other; and that they work (RFC 6749 2.3)."""
    method, with_secret = client.authentication, client.authentication.startswith("client_secret")
    needed = {"client_secret_file": with_secret, "private_key_file": method == "private_key_jwt"}
    for key, is_needed in needed.items():
        if is_needed and getattr(client, key) is None:
            raise ConfigError(f"{where}.{key}: is missing; client_authentication {method} needs it")
    for key in ("client_secret_file", "private_key_file", "key_id", "signing_algorithm", "assertion_audience"):
        is_wanted = needed.get(key, method == "private_key_jwt")
        if getattr(client, key) is not None and not is_wanted:
            raise ConfigError(f"{where}.{key}: has no effect with client_authentication {method}")
    if method == "client_secret_basic" and "authorization" in {name.lower() for name in client.token_headers}:
        raise ConfigError(f"{where}.token_headers: 'authorization' is set by client_authentication {method}")
    try:
        prove(client)
    except SecretUnreadable as error:
        key = "private_key_file" if method == "private_key_jwt" else "client_secret_file"
        raise ConfigError(f"{where}.{key}: {error}") from None


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
