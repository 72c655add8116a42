"""Checks the head of a request before anything is done with it. Pure.

The parser has checked the syntax. This module refuses what the parser accepts but RFC 9110 and RFC 9112 do not.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from oauth_pool_proxy.errors import InvalidRequest, MethodNotAllowed, MethodNotImplemented, Misdirected, ProxyError
from oauth_pool_proxy.upstream.headers import Headers

Authority = tuple[bytes, bytes]
"""Host and port."""

_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".svc", ".ts.net")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_HOST = re.compile(  # RFC 9110 7.2: uri-host [ ":" port ], and RFC 3986 3.2.2
    rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]*))?"
)
_NOT_SERVED = frozenset(
    b"CONNECT TRACE ANNOUNCE DESCRIBE FLUSH GET_PARAMETER PAUSE PLAY RECORD REDIRECT SETUP SET_PARAMETER SOURCE TEARDOWN".split()
)
"""`TRACE` would echo the access token, and this is no tunnel. The others belong to RTSP and Icecast: the parser accepts them."""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 5.6.2
_REQUEST_LINE = re.compile(rb"%s [\x21-\x7e]+ HTTP/1\.[01]" % _TOKEN)
_BEGINNING_OF_ONE = re.compile(rb"%s(?: [ -~]*)?" % _TOKEN)


def refusal(
    method: bytes, version: str, target: bytes, headers: Headers, fields: Mapping[bytes, bytes]
) -> ProxyError | None:
    """Why a request with this head is refused. None: it is not. `fields` are its headers by lower-case name."""
    if method in _NOT_SERVED:
        return _not_served(method)
    if version not in ("1.1", "1.0"):
        return InvalidRequest(f"HTTP/{version} is not served, only HTTP/1.0 and HTTP/1.1")
    if b"transfer-encoding" in fields and (problem := _coding_problem(version, headers)):
        return InvalidRequest(problem)
    host = fields.get(b"host")
    authority = None if host is None else _authority(host)
    is_good = authority is not None or (host is None and version == "1.0")
    if not is_good or (len(fields) < len(headers) and [name for name, _ in headers].count(b"host") > 1):
        return InvalidRequest("The request needs one Host header, and a host in it")  # RFC 9112 3.2: MUST
    if target.startswith(b"/") and b"#" not in target:
        return None
    return _target_refusal(method, target, authority)


def body_length(fields: Mapping[bytes, bytes]) -> int | None:
    """The length announced in the head. None for a chunked body."""
    if b"transfer-encoding" in fields:
        return None
    return int(fields.get(b"content-length", 0))  # the parser accepts only digits


def origin_form(target: bytes) -> bytes:
    """The target without an authority (RFC 9112 3.2.1), otherwise byte for byte. Empty if it has no path.

    Nothing that could be a secret is left of a target that is refused.
    """
    target = target.partition(b"#")[0]
    if target.startswith(b"/") or target == b"*":
        return target
    if absolute := _ABSOLUTE.fullmatch(target):
        rest: bytes = absolute[3]
        return rest if rest.startswith(b"/") else b"/" + rest
    return b""


def is_unknown_method(data: bytes) -> bool:
    """Whether the data that the parser rejected at its first word is a valid request with an unknown method."""
    line, end, _ = data.lstrip(b"\r\n").partition(b"\n")
    pattern = _REQUEST_LINE if end else _BEGINNING_OF_ONE
    return pattern.fullmatch(line.removesuffix(b"\r")) is not None


def _coding_problem(version: str, headers: Headers) -> str | None:
    if version == "1.0":
        return "HTTP/1.0 has no Transfer-Encoding"  # RFC 9112 6.1: treat the framing as faulty, close the connection
    # Any other coding would have to be decoded (RFC 9112 7), and the body would no longer be what the client sent.
    is_known = all(value.lower() == b"chunked" for name, value in headers if name == b"transfer-encoding")
    return None if is_known else "The request is not valid HTTP"


def _not_served(method: bytes) -> ProxyError:
    if method in (b"TRACE", b"CONNECT"):
        return MethodNotAllowed(f"{method.decode()} is not forwarded")
    return MethodNotImplemented(f"{method.decode()} is not a method of HTTP")


def _target_refusal(method: bytes, target: bytes, host: Authority | None) -> ProxyError | None:
    if b"#" in target:
        return InvalidRequest("A request target has no fragment")  # RFC 9112 3.2
    if target == b"*":
        is_allowed = method == b"OPTIONS"  # RFC 9112 3.2.4
        return None if is_allowed else InvalidRequest("The target * is for OPTIONS only")
    absolute = _ABSOLUTE.fullmatch(target)
    authority = _authority(absolute[2]) if absolute else None
    if absolute is None or authority is None:
        return InvalidRequest("The request target is none that HTTP has")
    if absolute[1].lower() != b"http" or authority != host or not _may_be_ours(authority[0].decode()):
        # The sender takes this proxy for a forward proxy. Its request must not leave with an account's token.
        return Misdirected("The request is for another host than this proxy")
    return None


@lru_cache(64)
def _may_be_ours(host: str) -> bool:
    """Whether a private network may know this proxy by that name. Only clients that take it for a forward proxy send the
    absolute form, and they name hosts on the internet.
    """
    try:
        return not ip_address(host.strip("[]")).is_global
    except ValueError:
        return "." not in host.rstrip(".") or host.rstrip(".").endswith(_PRIVATE_NAMES)


@lru_cache(64)
def _authority(text: bytes) -> Authority | None:
    """Normalized: equivalent authorities compare equal (RFC 9110 4.2.3). None if it is not `uri-host [ ":" port ]`."""
    match = _HOST.fullmatch(text.strip(b" \t"))
    return (match[1].lower(), match[2] or b"80") if match else None
