"""The TOML file, typed and validated. Reads no environment but what is passed in, and opens nothing but files it names.

Everything wrong is one `ConfigInvalid` with a line for a person; what is merely surprising is a warning, which the
caller logs. Precedence over the file is the business of `cli.py`.
"""

import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from oauth_pool_proxy.errors import ConfigInvalid
from oauth_pool_proxy.toml_table import Table
from oauth_pool_proxy.upstream.certificates import context_for

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5 without obs-text
_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
_FRAMING = _HOP_BY_HOP | {"host", "content-length", "expect"}
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")

_ADMIN_IS_GONE = (
    "there is no admin API any more; use kubectl apply -f ACCOUNT.yaml (add an account), "
    "kubectl get oauthaccounts (list), kubectl delete oauthaccount NAME (remove), and delete this table"
)
_OPERATOR_OWNS = {
    "credential_file": "the operator holds credentials; log each account in anew (kubectl get oauthaccounts says which)",
    "refresh_interval_secs": "the operator decides when to look at a token",
    "refresh_threshold_secs": "the operator decides when to refresh a token",
    "providers": "provider profiles are in the operator's configuration",
}

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    is_tls: bool
    host: str
    port: int
    base_path: bytes
    """Put in front of every path, without a slash at its end; empty for most."""

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority.decode()}{self.base_path.decode()}"

    @property
    def authority(self) -> bytes:
        """The `Host` header: without the port where it is the scheme's own (RFC 9110 7.2, RFC 3986 6.2.3)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}").encode()


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    listen: Address
    upstream: UpstreamUrl
    timeout: float = 60
    max_connections: int = 1000
    attempts: int = 3
    drain_timeout: float = 5
    pre_stop_delay: float = 0
    max_body_bytes: int = 10 * 1024 * 1024
    upstream_ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    server: str
    namespace: str
    ca_file: Path | None = None
    token_file: Path | None = None
    config_map: str = "oauth-pool"


@dataclass(frozen=True, slots=True)
class OAuthConfig:
    source: KubernetesConfig | Path
    """Where the pool index comes from: a ConfigMap, or a folder with a file per account."""
    access_dir: Path
    provider: str = "anthropic"
    cooldown: float = 7200
    beta: tuple[bytes, ...] = (b"oauth-2025-04-20",)
    version: bytes = b"2023-06-01"
    user_agent: bytes | None = None
    headers: tuple[Header, ...] = ()
    affinity: bool = True
    usage_metrics: bool = True
    system_prefix: str = ""
    """Put in front of every request's system prompt; none leaves bodies as they are, byte for byte."""
    system_prefix_excluded_models: tuple[str, ...] = ()
    """Parts of names of models whose requests get no prefix."""


@dataclass(frozen=True, slots=True)
class Config:
    proxy: ProxyConfig
    headers: tuple[Header, ...] = ()
    oauth: OAuthConfig | None = None
    warnings: tuple[str, ...] = ()


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigInvalid(
            f"{path}: cannot be read: {error.strerror}; name the file with --config or CONFIG_PATH"
        ) from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: is not UTF-8, which TOML requires") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: is not valid TOML: {error}") from None
    return parse_config(values, environment, str(path))


def parse_config(values: Mapping[str, object], environment: Mapping[str, str], file: str = "config") -> Config:
    top = Table(file, "", values)
    if top.has("admin"):
        top.refuse(_ADMIN_IS_GONE, "[admin]")
    top.only("proxy", "headers", "oauth")
    warnings: list[str] = []
    table = top.table("proxy")
    if table is None:
        top.refuse("is missing; it holds at least listen_addr and upstream_url", "[proxy]")
    proxy = _proxy(table)
    headers = _headers(top.tables("headers"), warnings)
    oauth_table = top.table("oauth")
    oauth = _oauth(oauth_table, environment, warnings) if oauth_table else None
    if oauth and headers:
        warnings.append("[[headers]] is ignored in pool mode; put these headers into [[oauth.headers]]")
        headers = ()
    return Config(proxy, headers, oauth, tuple(warnings))


def _proxy(table: Table) -> ProxyConfig:
    table.only(
        "listen_addr",
        "upstream_url",
        "timeout_secs",
        "max_connections",
        "attempts",
        "drain_timeout_secs",
        "pre_stop_delay_secs",
        "max_body_bytes",
        "upstream_ca_file",
    )
    return ProxyConfig(
        listen=_address(table, "listen_addr"),
        upstream=_upstream_url(table, "upstream_url"),
        timeout=table.number("timeout_secs", 60, least=1),
        max_connections=table.number("max_connections", 1000, least=1),
        attempts=table.number("attempts", 3, least=1, most=100),
        drain_timeout=table.number("drain_timeout_secs", 5, least=0),
        pre_stop_delay=table.number("pre_stop_delay_secs", 0, least=0),
        max_body_bytes=table.number("max_body_bytes", 10 * 1024 * 1024, least=1),
        upstream_ca_file=_ca_file(table, "upstream_ca_file"),
    )


def _address(table: Table, key: str) -> Address:
    text = table.required_text(key, 'the address to listen on, such as "0.0.0.0:8080"')
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        table.refuse(f'must be host:port with a port from 0 to 65535, such as "0.0.0.0:8080", not "{text}"', key)
    return Address(host, int(port))


def _upstream_url(table: Table, key: str) -> UpstreamUrl:
    return _url(table, key, table.required_text(key, 'where requests go, such as "https://api.anthropic.com"'))


def _url(table: Table, key: str, text: str) -> UpstreamUrl:
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        table.refuse("is not a URL; allowed is http:// or https://, a host, and a port from 1 to 65535", key)
    if url.scheme not in ("http", "https") or not host or port == 0 or url.netloc.endswith(":"):
        table.refuse("must be http:// or https://, a host, and a port from 1 to 65535 if any", key)
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        table.refuse("has no valid host name", key)
    if url.username is not None or url.query or url.fragment or "?" in text or "#" in text:
        table.refuse("must not have a user name, a query or a fragment", key)
    if not re.fullmatch(r"[\x21-\x7e]*", url.path):
        table.refuse("has a path with characters that must be percent-encoded", key)
    is_tls = url.scheme == "https"
    return UpstreamUrl(is_tls, host, port or (443 if is_tls else 80), url.path.rstrip("/").encode())


def _ca_file(table: Table, key: str, default: Path | None = None) -> Path | None:
    path = table.path(key) or default
    if path is None:
        return None
    try:
        context_for(path)
    except ssl.SSLError:
        table.refuse(f'must be a file with certificates in PEM form; "{path}" is not', key)
    except OSError as error:
        table.refuse(f'cannot be read: "{path}": {error.strerror}', key)
    return path


def _headers(tables: list[Table], warnings: list[str]) -> tuple[Header, ...]:
    """Configured headers, checked here so that no request can fail for them. Values are never shown: they may be keys."""
    headers = []
    for table in tables:
        table.only("name", "value")
        name = table.required_text("name", "the name of the header").lower()
        value = table.secret_text("value", "the value of the header")
        if not _HEADER_NAME.fullmatch(name):
            table.refuse("is not a valid header name (letters, digits and !#$%&'*+-.^_`|~)", "name")
        if name in _FRAMING:
            table.refuse(f"{name} cannot be set: the proxy itself decides it for each connection", "name")
        if not _HEADER_VALUE.fullmatch(value):
            table.refuse("must be printable ASCII on one line", "value")
        if name == "authorization":
            warnings.append(
                "a configured header `authorization` is ignored: it never replaces the credentials of a request"
            )
        else:
            headers.append((name.encode(), value.strip().encode()))
    return tuple(headers)


def _oauth(table: Table, environment: Mapping[str, str], warnings: list[str]) -> OAuthConfig:
    table.only(
        "source",
        "provider",
        "access_dir",
        "index_dir",
        "cooldown_secs",
        "anthropic_beta",
        "anthropic_version",
        "user_agent",
        "headers",
        "affinity",
        "usage_metrics",
        "system_prefix",
        "system_prefix_excluded_models",
        "kubernetes",
        *_OPERATOR_OWNS,
    )
    source_name = table.required_text("source", 'where the pool index comes from: "kubernetes" or "file"')
    if source_name not in ("kubernetes", "file"):
        table.refuse(f'must be "kubernetes" or "file", not "{source_name}"', "source")
    for key, owner in _OPERATOR_OWNS.items():
        if table.has(key):
            warnings.append(f"[oauth] {key} is ignored: {owner}")
    index_dir, kubernetes = table.path("index_dir"), table.table("kubernetes")
    source: KubernetesConfig | Path
    if source_name == "kubernetes":
        source = _kubernetes(kubernetes or table.inner("kubernetes", {}), environment)
        if index_dir:
            warnings.append('[oauth] index_dir is ignored: it is used with source = "file" only')
    else:
        if index_dir is None:
            table.refuse(
                'is missing; with source = "file" it is the folder with one index file per account', "index_dir"
            )
        source = index_dir
        if kubernetes:
            warnings.append('[oauth.kubernetes] is ignored: it is used with source = "kubernetes" only')
    return OAuthConfig(
        source=source,
        access_dir=table.path("access_dir", "/var/lib/oauth-pool/access") or Path(),
        provider=table.text("provider", "anthropic") or "",
        cooldown=table.number("cooldown_secs", 7200, least=1),
        beta=_beta(table),
        version=_header_text(table, "anthropic_version", table.text("anthropic_version", "2023-06-01") or ""),
        user_agent=_header_text(table, "user_agent", table.text("user_agent") or "") or None,
        headers=_headers(table.tables("headers"), warnings),
        affinity=table.flag("affinity", True),
        usage_metrics=table.flag("usage_metrics", True),
        system_prefix=table.text("system_prefix") or "",
        system_prefix_excluded_models=table.texts("system_prefix_excluded_models", ()),
    )


def _beta(table: Table) -> tuple[bytes, ...]:
    texts = table.texts("anthropic_beta", ("oauth-2025-04-20",))
    return tuple(value for text in texts for value in split_list(_header_text(table, "anthropic_beta", text)))


def split_list(value: bytes) -> list[bytes]:
    """The members of a comma-separated header value (RFC 9110 5.6.1)."""
    return [member for part in value.split(b",") if (member := part.strip(b" \t"))]


def _header_text(table: Table, key: str, text: str) -> bytes:
    if not _HEADER_VALUE.fullmatch(text):
        table.refuse("must be printable ASCII on one line: it becomes a header", key)
    return text.strip().encode()


def _kubernetes(table: Table, environment: Mapping[str, str]) -> KubernetesConfig:
    """Inside a pod every key has a default; outside, the ones without are named."""
    table.only("server", "ca_file", "token_file", "namespace", "config_map")
    in_pod = SERVICE_ACCOUNT if (SERVICE_ACCOUNT / "token").exists() else None
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    default_server = f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else None
    server = table.text("server") or default_server
    if server is None:
        table.refuse(
            "is missing; inside a pod it comes from KUBERNETES_SERVICE_HOST, elsewhere it has to be set", "server"
        )
    _url(table, "server", server)
    namespace = table.text("namespace") or _read_if_there(SERVICE_ACCOUNT / "namespace")
    if namespace is None:
        table.refuse("is missing; inside a pod it is the pod's own, elsewhere it has to be set", "namespace")
    token_file = table.path("token_file") or (in_pod and in_pod / "token")
    if token_file and not _is_readable(token_file):
        table.refuse(f'cannot be read: "{token_file}"', "token_file")
    return KubernetesConfig(
        server=server.rstrip("/"),
        namespace=namespace,
        ca_file=_ca_file(table, "ca_file", in_pod and in_pod / "ca.crt"),
        token_file=token_file,
        config_map=table.text("config_map", "oauth-pool") or "",
    )


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
