"""What `[clients]` says, once it has been checked: who may ask, how that is proved, and what each may."""

from dataclasses import dataclass, field

from oauth_pool_proxy.config.selector import Selector
from oauth_pool_proxy.config.settings import Address, KubernetesConfig


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A key that proves a client. The configuration holds its digest, which is no secret: the key has 256 random bits."""

    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the key."""
    expires_at: float | None = None
    """In seconds since 1970; none: it does not expire."""


@dataclass(frozen=True, slots=True)
class ClientRule:
    """What the clients that match may. What is not said is not limited."""

    match: tuple[str, ...]
    """Globs over names of clients."""
    deny: bool = False
    """None of their requests is served."""
    models: tuple[str, ...] = ()
    """Globs over the models that they may ask for; none: all."""
    denied_models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Beginnings of the only paths that they may ask for; none: all."""
    denied_paths: tuple[str, ...] = ()
    max_concurrent_requests: int | None = None
    """Of each client by itself, waiting ones included."""
    requests_per_minute: int | None = None
    """Of each client by itself; as many may come at once."""
    accounts: Selector | None = None
    """Over the labels of OAuthAccounts."""
    priority: int = 0
    """In the line of `max_connections`; the higher, the sooner."""

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
    """Of ServiceAccount tokens."""
    kubernetes: KubernetesConfig | None = None
    """The API server whose ServiceAccount tokens count; none: no token counts."""
    tailscale: Address | None = None
    """The listener on which `Tailscale-User-Login` is believed."""
    keys: tuple[ClientKey, ...] = ()
    rules: tuple[ClientRule, ...] = ()
    """The first that matches counts."""
    most_names: int = 200
    """In metrics; the other clients are counted as `other`."""
