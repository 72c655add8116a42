"""Reads and checks `[oauth]`, apart from `[oauth.kubernetes]` and `[[oauth.rules]]`."""

import re
from collections.abc import Mapping
from pathlib import Path

from oauth_pool_proxy.config.kubernetes import kubernetes_of
from oauth_pool_proxy.config.rules import rule_of
from oauth_pool_proxy.config.settings import KubernetesConfig, OAuthConfig, SealedConfig, Strategy, TokenWay, split_list
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.config.values import header_text_of, headers_of

_OPERATOR_OWNS = {
    "credential_file": "the operator holds credentials; log each account in again (kubectl get oauthaccounts says which)",
    "refresh_interval_secs": "the operator decides when to look at a token",
    "refresh_threshold_secs": "the operator decides when to refresh a token",
    "providers": "provider profiles are in the operator's configuration",
}


def oauth_of(table: Table, environment: Mapping[str, str], warnings: list[str]) -> OAuthConfig:
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
        source = kubernetes_of(kubernetes or table.inner("kubernetes", {}), environment)
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
        version=header_text_of(table, "anthropic_version", table.text("anthropic_version", "2023-06-01") or ""),
        user_agent=header_text_of(table, "user_agent", table.text("user_agent") or "") or None,
        headers=headers_of(table.tables("headers"), warnings),
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
    return tuple(value for text in texts for value in split_list(header_text_of(table, "anthropic_beta", text)))
