"""Reads and checks `[proxy]`."""

import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

from oauth_pool_proxy.config.settings import Address, ClientCertificate, LateHeads, ProxyConfig, UpstreamProxy
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.config.values import address_of, ca_file_of, url_of
from oauth_pool_proxy.upstream.certificates import offer_groups


def proxy_of(table: Table) -> ProxyConfig:
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
    listen = address_of(table, "listen_addr")
    return ProxyConfig(
        listen=listen,
        upstream=url_of(
            table,
            "upstream_url",
            table.required_text("upstream_url", 'where requests go, such as "https://api.anthropic.com"'),
        ),
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
        upstream_ca_file=ca_file_of(table, "upstream_ca_file"),
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
    address = address_of(table, "metrics_addr")
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
