"""Reads the TOML file, typed and validated. Uses only the environment passed in, and opens only files that the TOML names.

Anything wrong is one `ConfigInvalid` with a line for a person. Anything merely surprising is a warning, which the caller logs.
`cli.py` decides what takes precedence over the file.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from oauth_pool_proxy.config.clients import clients_of
from oauth_pool_proxy.config.oauth import oauth_of
from oauth_pool_proxy.config.proxy import proxy_of
from oauth_pool_proxy.config.settings import Config
from oauth_pool_proxy.config.table import Table
from oauth_pool_proxy.config.values import headers_of
from oauth_pool_proxy.errors import ConfigInvalid

_ADMIN_IS_GONE = (
    "there is no admin API any more; use kubectl apply -f ACCOUNT.yaml (add an account), "
    "kubectl get oauthaccounts (list), kubectl delete oauthaccount NAME (remove), and delete this table"
)


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigInvalid(
            f"{path}: cannot be read: {error.strerror}; name the file with --config or CONFIG_PATH"
        ) from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: is not UTF-8, which TOML requires") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"{path}: is not valid TOML: {error}") from None
    return parse_config(values, environment, str(path))


def parse_config(values: Mapping[str, object], environment: Mapping[str, str], file: str = "config") -> Config:
    top = Table(file, "", values)
    if top.has("admin"):
        top.refuse(_ADMIN_IS_GONE, "[admin]")
    top.only("proxy", "headers", "oauth", "clients")
    warnings: list[str] = []
    table = top.table("proxy")
    if table is None:
        top.refuse("is missing; it holds at least listen_addr and upstream_url", "[proxy]")
    proxy = proxy_of(table)
    headers = headers_of(top.tables("headers"), warnings)
    oauth_table = top.table("oauth")
    oauth = oauth_of(oauth_table, environment, warnings) if oauth_table else None
    if oauth and headers:
        warnings.append("[[headers]] is ignored in pool mode; put these headers into [[oauth.headers]]")
        headers = ()
    clients_table = top.table("clients")
    clients = clients_of(clients_table, environment, proxy, oauth) if clients_table else None
    if clients and not proxy.metrics:
        warnings.append("/metrics and the detailed /health are not served: with [clients] they need metrics_addr")
    return Config(proxy, headers, oauth, tuple(warnings), clients)
