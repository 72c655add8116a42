"""The command: reads the settings, runs the server, returns an exit code. It contains no other logic."""

import argparse
import logging
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from oauth_pool_proxy.config import ClientsConfig, Config, OAuthConfig, load_config, require_pod
from oauth_pool_proxy.errors import ConfigInvalid
from oauth_pool_proxy.observe.logs import LEVELS, set_up_logging

log = logging.getLogger(__name__)

DEFAULT_FILE = "anthropic-oauth-proxy.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _check(options) if options.check else _run(options)
    except ConfigInvalid as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _run(options: argparse.Namespace) -> int:
    _forbid_core_dumps()
    set_up_logging(_log_level(options, os.environ))
    path = _config_path(options, os.environ)
    log.info("starting anthropic-oauth-proxy", extra={"fields": {"version": version("oauth-pool-proxy")}})
    log.info("loading configuration", extra={"fields": {"path": str(path)}})
    config = load_config(path, os.environ)
    log.info("configuration loaded", extra={"fields": {"listen_addr": str(config.proxy.listen)}})
    for warning in config.warnings:
        log.warning(warning)
    require_pod(config)
    return _serve(config)


def _serve(config: Config) -> int:
    # Imported here because --help, --check and configuration errors need no server.
    from oauth_pool_proxy.app import App
    from oauth_pool_proxy.downstream.server import Server, allow_open_files, bind

    proxy = config.proxy
    allow_open_files()
    listener = bind(proxy.listen)
    monitoring = bind(proxy.metrics, "[proxy] metrics_addr") if proxy.metrics else None
    tailscale = config.clients.tailscale if config.clients else None
    tailnet = bind(tailscale, "[clients] tailscale_listen_addr") if tailscale else None
    Server(App(config), proxy, monitoring, tailnet).run([listener])
    return 0


def _forbid_core_dumps() -> None:
    """A core file would contain every token in memory. Lower the hard limit too, so this process cannot raise it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _check(options: argparse.Namespace) -> int:
    _log_level(options, os.environ)
    path = _config_path(options, os.environ)
    config = load_config(path, os.environ)
    for warning in config.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write(f"{path}: valid\n{_summary(config)}")
    return 0


def _summary(config: Config) -> str:
    """What would run: one line for each thing that a person may want to check."""
    proxy, oauth = config.proxy, config.oauth
    lines = [
        f"listens on {proxy.listen}, forwards to {proxy.upstream}",
        f"metrics and the detailed health on {proxy.metrics or ('no address' if config.clients else proxy.listen)}",
        f"at most {proxy.max_connections} requests at once, {proxy.attempts} attempts, {proxy.timeout:g} s until an answer",
        f"bodies of at most {proxy.max_body_bytes} bytes, {proxy.max_buffered_bytes} held at once",
    ]
    if proxy.upstream_proxy:
        lines.append(f"through {proxy.upstream_proxy}")
    if oauth is None:
        names = ", ".join(name.decode() for name, _ in config.headers) or "none"
        lines.append(f"passthrough: clients' own credentials; headers set: {names}")
    else:
        lines += _pool_summary(oauth)
    if config.clients:
        lines += _clients_summary(config.clients)
    return "".join(f"  {line}\n" for line in lines)


def _clients_summary(clients: ClientsConfig) -> list[str]:
    proofs = []
    if clients.kubernetes:
        proofs.append(f"ServiceAccount tokens of {clients.kubernetes.server} for {clients.audience}")
    if clients.keys:
        proofs.append(f"keys of {', '.join(dict.fromkeys(key.name for key in clients.keys))}")
    if clients.tailscale:
        proofs.append(f"Tailscale logins on {clients.tailscale}")
    return [
        f"clients by {'; '.join(proofs)}; strangers are {'refused' if clients.require else 'served'}",
        *(f"client rule {number}: {rule}" for number, rule in enumerate(clients.rules, 1)),
    ]


def _pool_summary(oauth: OAuthConfig) -> list[str]:
    source = oauth.source
    place = (
        source if isinstance(source, Path) else f"ConfigMap {source.namespace}/{source.config_map} of {source.server}"
    )
    tokens = f"sealed to a key in {oauth.sealed.key_dir}" if oauth.sealed else f"from {oauth.access_dir}"
    features = {
        "affinity": oauth.affinity,
        "usage metrics": oauth.usage_metrics,
        "system prefix": oauth.system_prefix,
    }
    paths = ", ".join(oauth.allowed_paths) or "every path"
    return [
        f"pool of provider {oauth.provider}: index from {place}, access tokens {tokens}",
        f"forwards {paths} but {', '.join(oauth.denied_paths) or 'none'}; web pages: {', '.join(oauth.allowed_origins) or 'none'}",
        f"accounts by {oauth.strategy.value}, at most {oauth.most_accounts} for a request",
        ", ".join(f"{name} {'on' if is_on else 'off'}" for name, is_on in features.items()),
        *(f"rule {number}: {rule}" for number, rule in enumerate(oauth.rules, 1)),
    ]


def _config_path(options: argparse.Namespace, environment: Mapping[str, str]) -> Path:
    return Path(options.config or environment.get("CONFIG_PATH") or DEFAULT_FILE)


def _log_level(options: argparse.Namespace, environment: Mapping[str, str]) -> str:
    level, place = options.log_level, "--log-level"
    if level is None:
        level, place = environment.get("LOG_LEVEL") or "info", "LOG_LEVEL"
    if level.lower() not in LEVELS:
        raise ConfigInvalid(f'{place}: must be one of {", ".join(LEVELS)}, not "{level}"')
    return str(level).lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oauth-pool-proxy",
        description="Streaming proxy in front of an LLM API that spreads requests over a pool of OAuth accounts.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"configuration file (else CONFIG_PATH, else {DEFAULT_FILE})")
    parser.add_argument("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)} (else LOG_LEVEL, else info)")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('oauth-pool-proxy')}")
    return parser
