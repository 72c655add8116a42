"""Reads and checks `[clients]`, its keys and its rules."""

import re
from collections.abc import Mapping

from oauth_pool_proxy.config.client_settings import ClientKey, ClientRule, ClientsConfig
from oauth_pool_proxy.config.kubernetes import token_issuer_of
from oauth_pool_proxy.config.selector import Selector, parse_selector
from oauth_pool_proxy.config.settings import Address, KubernetesConfig, OAuthConfig, ProxyConfig
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.config.values import address_of

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def clients_of(
    table: Table, environment: Mapping[str, str], proxy: ProxyConfig, oauth: OAuthConfig | None
) -> ClientsConfig:
    table.only(
        "require",
        "audience",
        "service_accounts",
        "tailscale_listen_addr",
        "most_names",
        "kubernetes",
        "keys",
        "rules",
    )
    clients = ClientsConfig(
        require=table.flag("require", True),
        audience=table.text("audience", "oauth-pool") or "",
        kubernetes=_token_issuer(table, environment, oauth),
        tailscale=_tailscale_address(table, proxy),
        keys=keys_of(table.tables("keys")),
        rules=tuple(_rule_of(rule, has_pool=oauth is not None) for rule in table.tables("rules")),
        most_names=table.number("most_names", 200, least=1, most=10_000),
    )
    if not (clients.kubernetes or clients.tailscale or clients.keys):
        table.refuse(
            "no client could prove who it is: there are no keys, no tailscale_listen_addr and no service_accounts"
        )
    return clients


def _token_issuer(table: Table, environment: Mapping[str, str], oauth: OAuthConfig | None) -> KubernetesConfig | None:
    if not table.flag("service_accounts", True):
        return None
    source = oauth.source if oauth else None
    return token_issuer_of(table, environment, source if isinstance(source, KubernetesConfig) else None)


def _tailscale_address(table: Table, proxy: ProxyConfig) -> Address | None:
    key = "tailscale_listen_addr"
    address = address_of(table, key) if table.has(key) else None
    if address and address.port and address in (proxy.listen, proxy.metrics):
        table.refuse("must be an address of its own, which nobody but the Tailscale proxy can reach", key)
    return address


def keys_of(tables: list[Table]) -> tuple[ClientKey, ...]:
    """Names may occur twice, while one key replaces another. Digests may not."""
    keys = tuple(_key_of(table) for table in tables)
    for number, key in enumerate(keys):
        if any(key.digest == other.digest for other in keys[:number]):
            tables[number].refuse("is the digest of an earlier key", "sha256")
    return keys


def _key_of(table: Table) -> ClientKey:
    table.only("name", "sha256", "expires")
    name = table.required_text("name", "what the client is called")
    if not _KEY_NAME.fullmatch(name):
        table.refuse(f'must be letters, digits and ._@-, 63 at most; "{name}" is not', "name")
    # Someone may have put the key itself here, so it is never shown.
    digest = table.secret_text("sha256", "the SHA-256 of the key, as `kubectl oauthaccount key create` prints it")
    if not _DIGEST.fullmatch(digest):
        table.refuse("must be 64 hexadecimal digits, the SHA-256 of the key and never the key itself", "sha256")
    return ClientKey(name, bytes.fromhex(digest), table.instant("expires"))


def _rule_of(table: Table, *, has_pool: bool) -> ClientRule:
    table.only(
        "match",
        "deny",
        "models",
        "denied_models",
        "paths",
        "denied_paths",
        "max_concurrent_requests",
        "requests_per_minute",
        "accounts",
        "priority",
    )
    match = table.texts("match", ())
    if not match:
        table.refuse(
            'is missing; it is an array of globs over names of clients, such as ["team-a/*", "key:ci"]', "match"
        )
    return ClientRule(
        match=match,
        deny=table.flag("deny", False),
        models=table.texts("models", ()),
        denied_models=table.texts("denied_models", ()),
        paths=table.path_beginnings("paths"),
        denied_paths=table.path_beginnings("denied_paths"),
        max_concurrent_requests=_limit(table, "max_concurrent_requests"),
        requests_per_minute=_limit(table, "requests_per_minute"),
        accounts=_accounts(table, has_pool=has_pool),
        priority=table.number("priority", 0, least=-1000, most=1000),
    )


def _limit(table: Table, key: str) -> int | None:
    return table.number(key, 1, least=1) if table.has(key) else None


def _accounts(table: Table, *, has_pool: bool) -> Selector | None:
    text = table.text("accounts")
    if text is None:
        return None
    if not has_pool:
        table.refuse("has no effect in passthrough mode, which has no accounts", "accounts")
    try:
        return parse_selector(text)
    except ValueError as error:
        table.refuse(
            f'must be a label selector, such as "tier=gold,team in (a, b)"; "{error}" is no part of one', "accounts"
        )
