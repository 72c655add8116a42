"""The checked configuration: one frozen object for each table in the file."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult

if TYPE_CHECKING:
    from oauth_pool_proxy.config.client_settings import ClientsConfig

Header = tuple[bytes, bytes]
"""A lower-case name and a value."""

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)
"""Headers that end at this hop (RFC 9110 7.6.1), and `proxy-connection`, which some clients still send."""


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
    """Prefix of every path, without a trailing slash. Usually empty."""

    @classmethod
    def of(cls, url: SplitResult) -> Self:
        """The URL must be http or https, with a host."""
        is_tls = url.scheme == "https"
        path = url.path.rstrip("/").encode()
        return cls(is_tls, url.hostname or "", url.port or (443 if is_tls else 80), path)

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority.decode()}{self.base_path.decode()}"

    @property
    def authority(self) -> bytes:
        """The `Host` header. It omits the scheme's default port (RFC 9110 7.2, RFC 3986 6.2.3)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}").encode()


@dataclass(frozen=True, slots=True)
class UpstreamProxy:
    """An HTTP proxy on the way to the upstream (CONNECT, RFC 9110 9.3.6)."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)
    """`user:password` for Basic authentication."""

    def __str__(self) -> str:
        return f"http://{Address(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What the proxy presents if the upstream requests it (mutual TLS). Both files are PEM; they may be the same."""

    certificate: Path
    key: Path


class LateHeads(StrEnum):
    """Which requests are sent again if the head of the answer is late."""

    ALL = "all"
    IDEMPOTENT = "idempotent"


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The table `[proxy]`. Times are in seconds, sizes in bytes."""

    listen: Address
    upstream: UpstreamUrl
    metrics: Address | None = None
    """A separate listener for everything that shows names. None: it is on the traffic port."""
    timeout: float = 60
    """For the head of an answer, from the end of the upload."""
    connect_timeout: float = 5
    """For TCP. A TLS handshake gets the same time again."""
    idle_timeout: float = 300
    """Between two bytes of an answer, from the upstream or to the client."""
    body_timeout: float = 300
    """For a client's whole upload."""
    max_connections: int = 1000
    """Requests at once. The others wait in line."""
    max_client_connections: int = 10_000
    spare_connections: int = 0
    """Connections to the upstream that are open ahead of need."""
    max_queued: int = 10_000
    """Requests that may wait in line. Any more are refused."""
    attempts: int = 3
    retry_late_heads: LateHeads = LateHeads.ALL
    drain_timeout: float = 5
    pre_stop_delay: float = 0
    max_body_bytes: int = 10 * 1024 * 1024
    max_buffered_bytes: int = 48 * 1024 * 1024
    """For all request bodies held at once."""
    upstream_ca_file: Path | None = None
    upstream_client_certificate: ClientCertificate | None = None
    tls_groups: tuple[str, ...] = ()
    """Groups for the key exchange with the upstream, by OpenSSL's names. Empty: OpenSSL chooses."""
    upstream_proxy: UpstreamProxy | None = None


class Verdict(StrEnum):
    """What an answer says about the account that was used. `[[oauth.rules]]` uses the same words."""

    PASS_ON = "pass_on"
    """The answer is good, or the request is to blame. It goes to the client, and the account stays in use."""
    NEXT_ACCOUNT = "next_account"
    """Another account may do better, but this one is not to blame."""
    SUSPECT = "suspect"
    """Another account is tried. If its answer is good, this account is to blame. If it is the same, no account is."""
    UNAUTHORIZED = "unauthorized"
    """The access token is refused."""
    FORBIDDEN = "forbidden"
    """The account is refused: revoked, disabled, not allowed."""
    BILLING = "billing"
    """The account cannot pay."""
    QUOTA_EXHAUSTED = "quota_exhausted"
    """One of the account's windows is used up."""
    RATE_LIMITED = "rate_limited"
    """The account hit a short limit."""
    MODEL_LIMITED = "model_limited"
    """The account hit a limit for one model."""
    MODEL_FORBIDDEN = "model_forbidden"
    """The account may not use this model."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table that judges answers. All given conditions must hold."""

    verdict: Verdict
    statuses: frozenset[int] = frozenset()
    """Empty: any status from 400 up."""
    words: tuple[str, ...] = ()
    """One of them occurs in the error's message, or in a plain text body. Lower case. `*` is a gap of up to 40 characters, and
    `{model}` is the requested model."""
    json_path: tuple[str, ...] = ()
    """The path of a value in the body: member names, from the outside in."""
    json_values: tuple[str, ...] = ()
    """Globs, one of which matches the value. Empty: it only has to exist."""
    header: bytes | None = None
    header_values: tuple[str, ...] = ()
    """Globs, one of which matches the header's value. Empty: it only has to exist."""
    cooldown: float | None = None
    """Seconds that the account rests, if nothing in the answer says so."""

    def __str__(self) -> str:
        conditions = (
            ("status", ", ".join(map(str, sorted(self.statuses)))),
            ("words", " | ".join(self.words)),
            (".".join(self.json_path), " | ".join(self.json_values) or "any"),
            ((self.header or b"").decode(), " | ".join(self.header_values) or "any"),
        )
        told = "; ".join(f"{name} {values}" for name, values in conditions if name and values)
        return f"{told} -> {self.verdict.value}" + (f" for {self.cooldown:g} s" if self.cooldown else "")


class Strategy(StrEnum):
    """How to choose the account for a request without a conversation, among those of the highest tier."""

    ROUND_ROBIN = "round_robin"
    RESET_SOONEST = "reset_soonest"
    LEAST_USED = "least_used"


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    server: str
    namespace: str
    ca_file: Path | None = None
    token_file: Path | None = None
    config_map: str = "oauth-pool"


class TokenWay(StrEnum):
    """How access tokens reach the proxy."""

    SEALED = "sealed"
    """Through the API server, each sealed to this proxy's key."""
    VOLUME = "volume"
    """As files on a volume."""


@dataclass(frozen=True, slots=True)
class SealedConfig:
    """What the proxy needs to have access tokens sealed to it."""

    key_dir: Path
    """Where a copy of the private key is kept, so a restarted container still has it."""
    pod_name: str
    pod_uid: str
    """The pod that owns the proxy's `OAuthProxy` object. Outside a pod both are empty, and the proxy cannot start."""


@dataclass(frozen=True, slots=True)
class OAuthConfig:
    source: KubernetesConfig | Path
    """Where the pool index comes from: a ConfigMap, or a folder with a file per account."""
    access_dir: Path
    """The folder of access files. Not used where tokens are sealed."""
    sealed: SealedConfig | None = None
    """None: access tokens come as files in `access_dir`."""
    provider: str = "anthropic"
    cooldown: float = 7200
    beta: tuple[bytes, ...] = (b"oauth-2025-04-20",)
    version: bytes = b"2023-06-01"
    user_agent: bytes | None = None
    headers: tuple[Header, ...] = ()
    denied_paths: tuple[str, ...] = ("/v1/organizations/", "/api/")
    """Prefixes of refused paths: they create keys and read profiles with the account's token."""
    allowed_paths: tuple[str, ...] = ()
    """Prefixes of the only paths that are forwarded. Empty: every path that is not denied."""
    allowed_origins: tuple[str, ...] = ()
    """The origins of web pages that may use the proxy, as in `Origin`."""
    rules: tuple[Rule, ...] = ()
    """They come before the built-in ones."""
    most_accounts: int = 8
    """The most accounts that one request is tried with."""
    strategy: Strategy = Strategy.ROUND_ROBIN
    reserve: float = 1.0
    """Accounts that have used more than this fraction of a window come last."""
    affinity: bool = True
    usage_metrics: bool = True
    system_prefix: str = ""
    """Added in front of every request's system prompt. Empty: bodies stay unchanged, byte for byte."""
    system_prefix_excluded_models: tuple[str, ...] = ()
    """Parts of model names whose requests get no prefix."""


@dataclass(frozen=True, slots=True)
class Config:
    proxy: ProxyConfig
    headers: tuple[Header, ...] = ()
    oauth: OAuthConfig | None = None
    warnings: tuple[str, ...] = ()
    clients: "ClientsConfig | None" = None
    """None: anyone who can reach the port is served."""


def split_list(value: bytes) -> list[bytes]:
    """The members of a comma-separated header value (RFC 9110 5.6.1)."""
    return [member for part in value.split(b",") if (member := part.strip(b" \t"))]
