"""Reads and checks `[oauth.kubernetes]` and `[clients.kubernetes]`: an API server, and how to reach it."""

from collections.abc import Mapping
from pathlib import Path

from oauth_pool_proxy.config.settings import KubernetesConfig
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.config.values import ca_file_of, url_of

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def kubernetes_of(table: Table, environment: Mapping[str, str]) -> KubernetesConfig:
    """Inside a pod every key has a default. Outside, an error names the missing ones."""
    table.only("server", "ca_file", "token_file", "namespace", "config_map")
    in_pod = SERVICE_ACCOUNT if (SERVICE_ACCOUNT / "token").exists() else None
    server = table.text("server") or _server_of(environment)
    if server is None:
        table.refuse(
            "is missing; inside a pod it comes from KUBERNETES_SERVICE_HOST, elsewhere it has to be set", "server"
        )
    url_of(table, "server", server)
    namespace = table.text("namespace") or _read_if_there(SERVICE_ACCOUNT / "namespace")
    if namespace is None:
        table.refuse("is missing; inside a pod it is the pod's own, elsewhere it has to be set", "namespace")
    return KubernetesConfig(
        server=server.rstrip("/"),
        namespace=namespace,
        ca_file=ca_file_of(table, "ca_file", in_pod and in_pod / "ca.crt"),
        token_file=_token_file(table, in_pod),
        config_map=table.text("config_map", "oauth-pool") or "",
    )


def token_issuer_of(
    table: Table, environment: Mapping[str, str], of_index: KubernetesConfig | None
) -> KubernetesConfig:
    """The API server whose tokens are accepted: that of the pool index, unless another is named."""
    named = table.table("kubernetes")
    if named is None and of_index:
        return of_index
    inner = named or table.inner("kubernetes", {})
    inner.only("server", "ca_file", "token_file")
    in_pod = SERVICE_ACCOUNT if (SERVICE_ACCOUNT / "token").exists() else None
    server = inner.text("server") or _server_of(environment)
    if server is None:
        table.refuse(
            "there is no API server whose ServiceAccount tokens count: set [clients.kubernetes] server, or service_accounts = false"
        )
    url_of(inner, "server", server)
    return KubernetesConfig(
        server=server.rstrip("/"),
        namespace="",
        ca_file=ca_file_of(inner, "ca_file", in_pod and in_pod / "ca.crt"),
        token_file=_token_file(inner, in_pod),
    )


def _server_of(environment: Mapping[str, str]) -> str | None:
    """The API server's URL, from the environment variables of every pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://{f'[{host}]' if ':' in host else host}:{port}" if host else None


def _token_file(table: Table, in_pod: Path | None) -> Path | None:
    token_file = table.path("token_file") or (in_pod and in_pod / "token")
    if token_file and not _is_readable(token_file):
        table.refuse(f'cannot be read: "{token_file}"', "token_file")
    return token_file


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _is_readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
