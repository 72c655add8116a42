"""The checked contents of `[clients]`: which clients are served, how they prove who they are, and what each may do."""

from dataclasses import dataclass, field

from oauth_pool_proxy.config.selector import Selector
from oauth_pool_proxy.config.settings import Address, KubernetesConfig


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A key that identifies a client. The configuration has only its digest, which is not secret: the key is 256 random bits."""

    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the key."""
    expires_at: float | None = None
    """In seconds since 1970. None: it does not expire."""


@dataclass(frozen=True, slots=True)
class ClientRule:
    """What the matching clients may do. Anything not given is not limited."""

    match: tuple[str, ...]
    """Globs for client names."""
    deny: bool = False
    """Serve none of their requests."""
    models: tuple[str, ...] = ()
    """Globs for the models that they may use. Empty: all."""
    denied_models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Prefixes of the only paths that they may use. Empty: all."""
    denied_paths: tuple[str, ...] = ()
    max_concurrent_requests: int | None = None
    """For each client separately, including waiting requests."""
    requests_per_minute: int | None = None
    """For each client separately. That many may come at once."""
    accounts: Selector | None = None
    """Matched against the labels of OAuthAccounts."""
    priority: int = 0
    """In the line for `max_connections`. The highest comes first."""

    @property
    def limits_models(self) -> bool:
        return bool(self.models or self.denied_models)

    def __str__(self) -> str:
        told = (
            ("models", ", ".join(self.models)),
            ("but not", ", ".join(self.denied_models)),
            ("paths", ", ".join(self.paths)),
            ("without", ", ".join(self.denied_paths)),
            ("at once", self.max_concurrent_requests),
            ("a minute", self.requests_per_minute),
            ("accounts", self.accounts),
            ("priority", self.priority),
        )
        limits = "; ".join(f"{name} {value}" for name, value in told if value)
        return f"{', '.join(self.match)} -> {'denied' if self.deny else limits or 'everything'}"


@dataclass(frozen=True, slots=True)
class ClientsConfig:
    """The table `[clients]`."""

    require: bool = True
    """Whether strangers are refused."""
    audience: str = "oauth-pool"
    """The audience of ServiceAccount tokens."""
    kubernetes: KubernetesConfig | None = None
    """The API server whose ServiceAccount tokens are accepted. None: no token is accepted."""
    tailscale: Address | None = None
    """The listener on which `Tailscale-User-Login` is trusted."""
    keys: tuple[ClientKey, ...] = ()
    rules: tuple[ClientRule, ...] = ()
    """The first matching rule counts."""
    most_names: int = 200
    """The most client names in metrics. Further clients are counted as `other`."""
