"""What the head of a request must be like before anything is done with it: pure.

The parser has seen to the syntax. What it lets through, and RFC 9110 and RFC 9112 do not, is refused here.
"""

import re

from oauth_pool_proxy.errors import InvalidRequest, MethodNotAllowed, MethodNotImplemented, Misdirected, ProxyError
from oauth_pool_proxy.upstream.headers import Headers

_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_HOST = re.compile(  # RFC 9110 7.2: uri-host [ ":" port ], and RFC 3986 3.2.2
    rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]*))?"
)
_OF_ANOTHER_PROTOCOL = frozenset(
    b"ANNOUNCE DESCRIBE FLUSH GET_PARAMETER PAUSE PLAY RECORD REDIRECT SETUP SET_PARAMETER SOURCE TEARDOWN".split()
)
"""The parser takes them, and versions of RTSP and Icecast with them."""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 5.6.2
_REQUEST_LINE = re.compile(rb"%s [\x21-\x7e]+ HTTP/1\.[01]" % _TOKEN)
_BEGINNING_OF_ONE = re.compile(rb"%s(?: [ -~]*)?" % _TOKEN)


def refusal(method: bytes, version: str, target: bytes, headers: Headers) -> ProxyError | None:
    """Why a request with this head is not served, if it is not. Names of headers are in lower case."""
    if method in (b"TRACE", b"CONNECT"):
        return MethodNotAllowed(f"{method.decode()} is not forwarded")
    if method in _OF_ANOTHER_PROTOCOL:
        return MethodNotImplemented(f"{method.decode()} is not a method of HTTP")
    if version not in ("1.0", "1.1"):
        return InvalidRequest(f"HTTP/{version} is not served, only HTTP/1.0 and HTTP/1.1")
    if problem := _framing_problem(version, headers):
        return InvalidRequest(problem)
    hosts = [value for name, value in headers if name == b"host"]
    host = _normal(hosts[0].strip(b" \t")) if len(hosts) == 1 else None
    if host is None and (hosts or version == "1.1"):
        return InvalidRequest("The request needs one Host header, and a host in it")  # RFC 9112 3.2: MUST
    return _target_refusal(method, target, host)


def origin_form(target: bytes) -> bytes:
    """The target without an authority (RFC 9112 3.2.1), every other byte as it was. Empty for one without a path.

    Of one that is refused, nothing that could be a secret is left.
    """
    target = target.partition(b"#")[0]
    if target.startswith(b"/") or target == b"*":
        return target
    if absolute := _ABSOLUTE.fullmatch(target):
        rest: bytes = absolute[3]
        return rest if rest.startswith(b"/") else b"/" + rest
    return b""


def is_unknown_method(data: bytes) -> bool:
    """Whether what the parser stumbled over at its first word is a request all the same, with a method of its own."""
    line, end, _ = data.lstrip(b"\r\n").partition(b"\n")
    pattern = _REQUEST_LINE if end else _BEGINNING_OF_ONE
    return pattern.fullmatch(line.removesuffix(b"\r")) is not None


def _framing_problem(version: str, headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"transfer-encoding":
            if version != "1.1":
                return "HTTP/1.0 has no Transfer-Encoding"  # RFC 9112 6.1: faulty framing, and the connection ends
            if value.lower() != b"chunked":
                # Another coding would have to be undone (RFC 9112 7), and the body would not be the client's any more.
                return "The request is not valid HTTP"
    return None


def _target_refusal(method: bytes, target: bytes, host: tuple[bytes, bytes] | None) -> ProxyError | None:
    if b"#" in target:
        return InvalidRequest("A request target has no fragment")  # RFC 9112 3.2
    if target.startswith(b"/"):
        return None
    if target == b"*":
        is_allowed = method == b"OPTIONS"  # RFC 9112 3.2.4
        return None if is_allowed else InvalidRequest("The target * is for OPTIONS only")
    absolute = _ABSOLUTE.fullmatch(target)
    authority = _normal(absolute[2]) if absolute else None
    if absolute is None or authority is None:
        return InvalidRequest("The request target is none that HTTP has")
    if absolute[1].lower() != b"http" or authority != host:
        # Something takes this proxy for a forward proxy, and its request must not leave with an account's token.
        return Misdirected("The request is for another host than this proxy")
    return None


def _normal(authority: bytes) -> tuple[bytes, bytes] | None:
    """Host and port such that equal ones compare equal (RFC 9110 4.2.3); none if it is no `uri-host [ ":" port ]`."""
    match = _HOST.fullmatch(authority)
    return (match[1].lower(), match[2] or b"80") if match else None
