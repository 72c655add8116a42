"""Reads the TOML file, typed and validated. Uses only the environment passed in, and opens only files that the TOML names.

Anything wrong is one `ConfigInvalid` with a line for a person. Anything merely surprising is a warning, which the caller logs.
`cli.py` decides what takes precedence over the file.
"""

import re
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from oauth_pool_proxy.config.client_settings import ClientsConfig
from oauth_pool_proxy.config.clients import client_rule_of, keys_of
from oauth_pool_proxy.config.rules import rule_of
from oauth_pool_proxy.config.settings import (
    HOP_BY_HOP,
    Address,
    ClientCertificate,
    Config,
    Header,
    KubernetesConfig,
    LateHeads,
    OAuthConfig,
    ProxyConfig,
    SealedConfig,
    Strategy,
    TokenWay,
    UpstreamProxy,
    UpstreamUrl,
    split_list,
)
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.errors import ConfigInvalid
from oauth_pool_proxy.upstream.certificates import context_for, offer_groups

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5 without obs-text
_FRAMING = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")

_ADMIN_IS_GONE = (
    "there is no admin API any more; use kubectl apply -f ACCOUNT.yaml (add an account), "
    "kubectl get oauthaccounts (list), kubectl delete oauthaccount NAME (remove), and delete this table"
)
_OPERATOR_OWNS = {
    "credential_file": "the operator holds credentials; log each account in again (kubectl get oauthaccounts says which)",
    "refresh_interval_secs": "the operator decides when to look at a token",
    "refresh_threshold_secs": "the operator decides when to refresh a token",
    "providers": "provider profiles are in the operator's configuration",
}


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
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"{path}: is not valid TOML: {error}") from None
    return parse_config(values, environment, str(path))


def parse_config(values: Mapping[str, object], environment: Mapping[str, str], file: str = "config") -> Config:
    top = Table(file, "", values)
    if top.has("admin"):
        top.refuse(_ADMIN_IS_GONE, "[admin]")
    top.only("proxy", "headers", "oauth", "clients")
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
    clients_table = top.table("clients")
    clients = _clients(clients_table, environment, proxy, oauth) if clients_table else None
    if clients and not proxy.metrics:
        warnings.append("/metrics and the detailed /health are not served: with [clients] they need metrics_addr")
    return Config(proxy, headers, oauth, tuple(warnings), clients)


def _proxy(table: Table) -> ProxyConfig:
    table.only(
        "listen_addr",
        "metrics_addr",
        "upstream_url",
        "timeout_secs",
        "connect_timeout_secs",
        "idle_timeout_secs",
        "body_timeout_secs",
        "max_connections",
        "max_client_connections",
        "spare_connections",
        "max_queued",
        "attempts",
        "retry_late_heads",
        "drain_timeout_secs",
        "pre_stop_delay_secs",
        "max_body_bytes",
        "max_buffered_bytes",
        "upstream_ca_file",
        "upstream_client_certificate",
        "upstream_client_key",
        "tls_groups",
        "upstream_proxy",
        "upstream_proxy_password_file",
    )
    max_body_bytes = table.number("max_body_bytes", 10 * 1024 * 1024, least=1)
    listen = _address(table, "listen_addr")
    return ProxyConfig(
        listen=listen,
        upstream=_upstream_url(table, "upstream_url"),
        metrics=_metrics_address(table, listen),
        timeout=table.number("timeout_secs", 60, least=1),
        connect_timeout=table.number("connect_timeout_secs", 5, least=1),
        idle_timeout=table.number("idle_timeout_secs", 300, least=1),
        body_timeout=table.number("body_timeout_secs", 300, least=1),
        max_connections=table.number("max_connections", 1000, least=1),
        max_client_connections=table.number("max_client_connections", 10_000, least=1),
        spare_connections=table.number("spare_connections", 0, least=0),
        max_queued=table.number("max_queued", 10_000, least=0),
        attempts=table.number("attempts", 3, least=1, most=100),
        retry_late_heads=table.choice("retry_late_heads", LateHeads.ALL),
        drain_timeout=table.number("drain_timeout_secs", 5, least=0),
        pre_stop_delay=table.number("pre_stop_delay_secs", 0, least=0),
        max_body_bytes=max_body_bytes,
        max_buffered_bytes=_max_buffered_bytes(table, max_body_bytes),
        upstream_ca_file=_ca_file(table, "upstream_ca_file"),
        upstream_client_certificate=_client_certificate(table),
        tls_groups=_tls_groups(table),
        upstream_proxy=_upstream_proxy(table, "upstream_proxy"),
    )


def _max_buffered_bytes(table: Table, max_body_bytes: int) -> int:
    """At least room for one body of the maximum size: otherwise such a request would wait forever."""
    if table.has("max_buffered_bytes"):
        return table.number("max_buffered_bytes", 0, least=max_body_bytes)
    return max(48 * 1024 * 1024, max_body_bytes)


def _metrics_address(table: Table, listen: Address) -> Address | None:
    if not table.has("metrics_addr"):
        return None
    address = _address(table, "metrics_addr")
    if address == listen and address.port:
        table.refuse("must be another address than listen_addr; without it, /metrics is on listen_addr", "metrics_addr")
    return address


def _client_certificate(table: Table) -> ClientCertificate | None:
    certificate, key = table.path("upstream_client_certificate"), table.path("upstream_client_key")
    if certificate is None:
        if key is not None:
            table.refuse("has no effect without upstream_client_certificate", "upstream_client_key")
        return None
    pair = ClientCertificate(certificate, key or certificate)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(pair.certificate, pair.key, password=_no_password)
    except OSError as error:
        names = f'"{pair.certificate}" and "{pair.key}"'
        what = "cannot be used" if isinstance(error, ssl.SSLError) else f"cannot be read: {error.strerror}"
        table.refuse(
            f"{what}: {names} must be a certificate and its key without a passphrase, in PEM form",
            "upstream_client_certificate",
        )
    return pair


def _tls_groups(table: Table) -> tuple[str, ...]:
    groups = table.texts("tls_groups", ())
    try:
        offer_groups(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), groups)
    except ValueError as error:
        table.refuse(f"cannot be {', '.join(groups)}: {error}", "tls_groups")
    return groups


def _no_password() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    return ""


def _upstream_proxy(table: Table, key: str) -> UpstreamProxy | None:
    """`http://user@host:port`. The password is in a file, so the configuration contains no secret."""
    text, password_file = table.text(key), table.path("upstream_proxy_password_file")
    if text is None:
        if password_file is not None:
            table.refuse("has no effect without upstream_proxy", "upstream_proxy_password_file")
        return None
    try:
        url = urlsplit(text)
        host, port, user, password = url.hostname or "", url.port, url.username, url.password
    except ValueError:
        table.refuse("is not a URL; allowed is http://, a user name if any, a host, and a port", key)
    if password is not None:
        table.refuse("must not hold a password; name a file in upstream_proxy_password_file", key)
    if url.scheme != "http" or not host or not port or url.path.strip("/") or url.query or url.fragment:
        table.refuse('must be http://, a user name if any, a host, and a port, such as "http://proxy:3128"', key)
    if password_file is not None and user is None:
        table.refuse("must name the user of upstream_proxy_password_file, such as http://user@proxy:3128", key)
    if user is None:
        return UpstreamProxy(host, port)
    secret = _first_line(table, "upstream_proxy_password_file", password_file) if password_file else ""
    return UpstreamProxy(host, port, f"{unquote(user)}:{secret}")


def _first_line(table: Table, key: str, path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        table.refuse(f'cannot be read: "{path}": {why}', key)


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
    return UpstreamUrl.of(url)


def _clients(
    table: Table, environment: Mapping[str, str], proxy: ProxyConfig, oauth: OAuthConfig | None
) -> ClientsConfig:
    table.only(
        "require",
        "audience",
        "service_accounts",
        "tailscale_listen_addr",
        "most_names",
        "kubernetes",
        "keys",
        "rules",
    )
    clients = ClientsConfig(
        require=table.flag("require", True),
        audience=table.text("audience", "oauth-pool") or "",
        kubernetes=_token_issuer(table, environment, oauth) if table.flag("service_accounts", True) else None,
        tailscale=_tailscale_address(table, proxy),
        keys=keys_of(table.tables("keys")),
        rules=tuple(client_rule_of(rule, has_pool=oauth is not None) for rule in table.tables("rules")),
        most_names=table.number("most_names", 200, least=1, most=10_000),
    )
    if not (clients.kubernetes or clients.tailscale or clients.keys):
        table.refuse(
            "no client could prove who it is: there are no keys, no tailscale_listen_addr and no service_accounts"
        )
    return clients


def _tailscale_address(table: Table, proxy: ProxyConfig) -> Address | None:
    key = "tailscale_listen_addr"
    address = _address(table, key) if table.has(key) else None
    if address and address.port and address in (proxy.listen, proxy.metrics):
        table.refuse("must be an address of its own, which nobody but the Tailscale proxy can reach", key)
    return address


def _token_issuer(table: Table, environment: Mapping[str, str], oauth: OAuthConfig | None) -> KubernetesConfig:
    """The API server whose tokens are accepted: that of the pool index, unless another is named."""
    named = table.table("kubernetes")
    if named is None and oauth and isinstance(oauth.source, KubernetesConfig):
        return oauth.source
    inner = named or table.inner("kubernetes", {})
    inner.only("server", "ca_file", "token_file")
    in_pod = SERVICE_ACCOUNT if (SERVICE_ACCOUNT / "token").exists() else None
    server = inner.text("server") or _server_of(environment)
    if server is None:
        table.refuse(
            "there is no API server whose ServiceAccount tokens count: set [clients.kubernetes] server, or service_accounts = false"
        )
    _url(inner, "server", server)
    return KubernetesConfig(
        server=server.rstrip("/"),
        namespace="",
        ca_file=_ca_file(inner, "ca_file", in_pod and in_pod / "ca.crt"),
        token_file=_token_file(inner, in_pod),
    )


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
    """Configured headers. They are checked here, so no request fails because of them. Values are never shown: they may be keys."""
    headers = []
    for table in tables:
        table.only("name", "value")
        name = table.required_text("name", "the name of the header").lower()
        value = table.secret_text("value", "the value of the header")
        if not _HEADER_NAME.fullmatch(name):
            table.refuse("is not a valid header name (letters, digits and !#$%&'*+-.^_`|~)", "name")
        if name.encode() in _FRAMING:
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
        "tokens",
        "key_dir",
        "access_dir",
        "index_dir",
        "cooldown_secs",
        "anthropic_beta",
        "anthropic_version",
        "user_agent",
        "headers",
        "denied_paths",
        "allowed_paths",
        "allowed_origins",
        "rules",
        "most_accounts",
        "strategy",
        "reserve",
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
        sealed=_sealed(table, isinstance(source, KubernetesConfig), environment, warnings),
        provider=table.text("provider", "anthropic") or "",
        cooldown=table.number("cooldown_secs", 7200, least=1),
        beta=_beta(table),
        version=_header_text(table, "anthropic_version", table.text("anthropic_version", "2023-06-01") or ""),
        user_agent=_header_text(table, "user_agent", table.text("user_agent") or "") or None,
        headers=_headers(table.tables("headers"), warnings),
        denied_paths=table.path_beginnings("denied_paths", ("/v1/organizations/", "/api/")),
        allowed_paths=table.path_beginnings("allowed_paths"),
        allowed_origins=_origins(table, "allowed_origins"),
        rules=tuple(rule_of(rule) for rule in table.tables("rules")),
        most_accounts=table.number("most_accounts", 8, least=1, most=1000),
        strategy=table.choice("strategy", Strategy.ROUND_ROBIN),
        reserve=table.fraction("reserve", 1.0),
        affinity=table.flag("affinity", True),
        usage_metrics=table.flag("usage_metrics", True),
        system_prefix=table.text("system_prefix") or "",
        system_prefix_excluded_models=table.texts("system_prefix_excluded_models", ()),
    )


def _sealed(
    table: Table, has_api_server: bool, environment: Mapping[str, str], warnings: list[str]
) -> SealedConfig | None:
    """None if access tokens come as files."""
    way = table.choice("tokens", TokenWay.SEALED if has_api_server else TokenWay.VOLUME)
    key_dir = table.path("key_dir", "/run/oauth-pool") or Path()
    if way is TokenWay.VOLUME:
        if table.has("key_dir"):
            warnings.append('[oauth] key_dir is ignored: it is used with tokens = "sealed" only')
        return None
    if not has_api_server:
        table.refuse(
            'sealed access tokens come through the API server, so they need source = "kubernetes";'
            ' with source = "file" it is "volume"',
            "tokens",
        )
    if table.has("access_dir"):
        warnings.append('[oauth] access_dir is ignored: it is used with tokens = "volume" only')
    return SealedConfig(key_dir, environment.get("POD_NAME", ""), environment.get("POD_UID", ""))


def _origins(table: Table, key: str) -> tuple[str, ...]:
    """As a browser sends them (RFC 6454 6.2): scheme, host, and a port that is not the scheme's own."""
    origins = table.texts(key, ())
    for origin in origins:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#]+", origin):
            table.refuse(f'must be origins, such as "https://app.example.com"; "{origin}" is not', key)
    return origins


def _beta(table: Table) -> tuple[bytes, ...]:
    texts = table.texts("anthropic_beta", ("oauth-2025-04-20",))
    return tuple(value for text in texts for value in split_list(_header_text(table, "anthropic_beta", text)))


def _header_text(table: Table, key: str, text: str) -> bytes:
    if not _HEADER_VALUE.fullmatch(text):
        table.refuse("must be printable ASCII on one line: it becomes a header", key)
    return text.strip().encode()


def _kubernetes(table: Table, environment: Mapping[str, str]) -> KubernetesConfig:
    """Inside a pod every key has a default. Outside, an error names the missing ones."""
    table.only("server", "ca_file", "token_file", "namespace", "config_map")
    in_pod = SERVICE_ACCOUNT if (SERVICE_ACCOUNT / "token").exists() else None
    server = table.text("server") or _server_of(environment)
    if server is None:
        table.refuse(
            "is missing; inside a pod it comes from KUBERNETES_SERVICE_HOST, elsewhere it has to be set", "server"
        )
    _url(table, "server", server)
    namespace = table.text("namespace") or _read_if_there(SERVICE_ACCOUNT / "namespace")
    if namespace is None:
        table.refuse("is missing; inside a pod it is the pod's own, elsewhere it has to be set", "namespace")
    return KubernetesConfig(
        server=server.rstrip("/"),
        namespace=namespace,
        ca_file=_ca_file(table, "ca_file", in_pod and in_pod / "ca.crt"),
        token_file=_token_file(table, in_pod),
        config_map=table.text("config_map", "oauth-pool") or "",
    )


def _server_of(environment: Mapping[str, str]) -> str | None:
    """The API server's URL, from the environment variables of every pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else None


def _token_file(table: Table, in_pod: Path | None) -> Path | None:
    token_file = table.path("token_file") or (in_pod and in_pod / "token")
    if token_file and not _is_readable(token_file):
        table.refuse(f'cannot be read: "{token_file}"', "token_file")
    return token_file


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
