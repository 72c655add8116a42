"""Kinds of values that several tables have: addresses, URLs, certificates, headers."""

import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from oauth_pool_proxy.config.settings import HOP_BY_HOP, Address, Header, UpstreamUrl
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.upstream.certificates import context_for

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2, token
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5 without obs-text
_FRAMING = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")


def address_of(table: Table, key: str) -> Address:
    text = table.required_text(key, 'the address to listen on, such as "0.0.0.0:8080"')
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        table.refuse(f'must be host:port with a port from 0 to 65535, such as "0.0.0.0:8080", not "{text}"', key)
    return Address(host, int(port))


def url_of(table: Table, key: str, text: str) -> UpstreamUrl:
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


def ca_file_of(table: Table, key: str, default: Path | None = None) -> Path | None:
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


def headers_of(tables: list[Table], warnings: list[str]) -> tuple[Header, ...]:
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


def header_text_of(table: Table, key: str, text: str) -> bytes:
    if not _HEADER_VALUE.fullmatch(text):
        table.refuse("must be printable ASCII on one line: it becomes a header", key)
    return text.strip().encode()
