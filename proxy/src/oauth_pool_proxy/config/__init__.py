"""The configuration: a TOML file, typed and validated. All other modules import it from here."""

from oauth_pool_proxy.config.client_settings import ClientKey, ClientRule, ClientsConfig
from oauth_pool_proxy.config.load import load_config, parse_config
from oauth_pool_proxy.config.pod import require_pod
from oauth_pool_proxy.config.selector import Selector
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
    Rule,
    SealedConfig,
    Strategy,
    UpstreamProxy,
    UpstreamUrl,
    Verdict,
    split_list,
)

__all__ = [
    "HOP_BY_HOP",
    "Address",
    "ClientCertificate",
    "ClientKey",
    "ClientRule",
    "ClientsConfig",
    "Config",
    "Header",
    "KubernetesConfig",
    "LateHeads",
    "OAuthConfig",
    "ProxyConfig",
    "Rule",
    "SealedConfig",
    "Selector",
    "Strategy",
    "UpstreamProxy",
    "UpstreamUrl",
    "Verdict",
    "load_config",
    "parse_config",
    "require_pod",
    "split_list",
]
