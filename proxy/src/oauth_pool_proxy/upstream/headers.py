"""Decides which headers cross the proxy, in both directions. Pure: lists of (lower-case name, value) bytes in, a new list out.

Every header not named here passes unchanged. Several lines of one name keep their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from oauth_pool_proxy.config import HOP_BY_HOP, Config, Header, split_list

Headers = list[Header]
Fields = Mapping[bytes, bytes]
"""Headers by lower-case name. If a name occurs on several lines, the last one counts."""

# The upstream client writes its own `host` and `content-length`. 100-continue ends at this hop.
_REQUEST_FRAMING = frozenset((b"host", b"content-length", b"expect"))
_CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"cookie"))
_WHOSE = frozenset(  # headers that identify the client, or the path the request took
    (b"forwarded", b"via", b"x-real-ip", b"origin", b"referer")
)
_WHOSE_PREFIXES = (b"tailscale-", b"x-forwarded-")
_OF_ONE_ACCOUNT = frozenset((b"set-cookie", b"alt-svc"))
"""Answer headers that are about this account's connection. The next request may use another account."""
_CORS = frozenset(  # https://fetch.spec.whatwg.org, 3.3.3: `allowed_origins` decides whether a web page may read an answer
    b"access-control-" + name
    for name in b"allow-origin allow-credentials allow-methods allow-headers max-age expose-headers allow-private-network".split()
)
_CODINGS = b"accept-encoding"
_UNDERSTOOD = frozenset((b"gzip", b"x-gzip", b"deflate", b"identity"))
"""Content codings that the pool can decode."""
_BETA = b"anthropic-beta"
_VERSION = b"anthropic-version"
_NO_NAMES: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class HeaderContract:
    """What the configuration requires of every upstream request."""

    configured: tuple[tuple[bytes, bytes], ...] = ()
    """These replace the client's headers of the same name."""
    beta: tuple[bytes, ...] = ()
    """Merged with the client's `anthropic-beta`: replacing its values would break features that it asked for."""
    version: bytes | None = None
    """`anthropic-version`, for clients that send none."""
    is_pool: bool = False
    """Whether to drop the client's credentials and the headers that identify it."""
    dropped: frozenset[bytes] = field(init=False)
    """The client headers that never pass."""
    dropped_from_answers: frozenset[bytes] = field(init=False)
    adds_version: bool = field(init=False)
    """Whether to add `version` for clients that send none."""
    beta_header: tuple[bytes, bytes] = field(init=False)
    """`anthropic-beta`, for clients that send none."""

    def __post_init__(self) -> None:
        if self.is_pool:
            understood = [(name, _understood(value) if name == _CODINGS else value) for name, value in self.configured]
            object.__setattr__(self, "configured", tuple(understood))
        dropped = HOP_BY_HOP | _REQUEST_FRAMING | {name for name, _ in self.configured}
        object.__setattr__(self, "dropped", dropped | _CREDENTIALS | _WHOSE if self.is_pool else dropped)
        of_answers = HOP_BY_HOP | _OF_ONE_ACCOUNT | _CORS if self.is_pool else HOP_BY_HOP
        object.__setattr__(self, "dropped_from_answers", of_answers)
        is_configured = any(name == _VERSION for name, _ in self.configured)
        object.__setattr__(self, "adds_version", bool(self.version) and not is_configured)
        object.__setattr__(self, "beta_header", (_BETA, b",".join(dict.fromkeys(self.beta))))

    @classmethod
    def of(cls, config: Config) -> "HeaderContract":
        configured = config.oauth.headers if config.oauth else config.headers
        beta = tuple(value for name, text in configured if name == _BETA for value in split_list(text))
        others = tuple(header for header in configured if header[0] != _BETA)
        if config.oauth is None:
            return cls(others, beta)
        if config.oauth.user_agent:
            others += ((b"user-agent", config.oauth.user_agent),)
        return cls(others, config.oauth.beta + beta, config.oauth.version, is_pool=True)


def request_headers(client: Headers, fields: Fields, contract: HeaderContract) -> Headers:
    """The headers of the upstream request, except `host`, `content-length` and the account's `authorization`."""
    dropped = contract.dropped
    if b"connection" in fields and (named := _named_in_connection(client)):
        dropped |= named
        fields = {name: value for name, value in fields.items() if name not in named}
    if contract.is_pool:
        kept = [header for header in client if header[0] not in dropped and not header[0].startswith(_WHOSE_PREFIXES)]
    else:
        kept = [header for header in client if header[0] not in dropped]
    kept += contract.configured
    if contract.is_pool and _CODINGS in fields:
        kept = [(name, _understood(value)) if name == _CODINGS else (name, value) for name, value in kept]
    if contract.beta:
        if _BETA in fields:
            kept = _with_beta(kept, contract.beta)
        else:
            kept.append(contract.beta_header)
    if contract.adds_version and _VERSION not in fields:
        kept.append((_VERSION, contract.version or b""))
    return kept


def response_headers(upstream: Headers, fields: Fields, contract: HeaderContract, *, status: int) -> Headers:
    """The headers of the answer to the client. Its framing is rebuilt from `content-length`, if present."""
    dropped = contract.dropped_from_answers
    if b"connection" in fields and (named := _named_in_connection(upstream)):
        dropped |= named
    if status in (204, 304):
        # Neither has a body, and the server would wait for as many bytes as this header says.
        dropped |= {b"content-length"}
    return [header for header in upstream if header[0] not in dropped]


@lru_cache(256)
def _understood(codings: bytes) -> bytes:
    """`accept-encoding` without the codings that the pool cannot decode (RFC 9110 12.5.3)."""
    kept = [coding for coding in split_list(codings) if coding.partition(b";")[0].strip().lower() in _UNDERSTOOD]
    if len(kept) == len(split_list(codings)) > 0:
        return codings
    return b", ".join(kept) or b"identity"


def _named_in_connection(headers: Headers) -> frozenset[bytes]:
    """The headers that `Connection` lists: they end at this hop, too. `close` and `keep-alive` are options, not names."""
    values = [value.lower() for name, value in headers if name == b"connection"]
    if values == [b"keep-alive"]:
        return _NO_NAMES
    return frozenset(member for value in values for member in split_list(value))


def _with_beta(headers: Headers, configured: tuple[bytes, ...]) -> Headers:
    """One `anthropic-beta` line: the client's values in its order, then the configured ones, each once."""
    clients = [value for name, text in headers if name == _BETA for value in split_list(text)]
    merged = (_BETA, b",".join(dict.fromkeys([*clients, *configured])))
    return [header for header in headers if header[0] != _BETA] + [merged]
