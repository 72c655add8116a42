"""The command line: settings, logging, run Kopf. No logic."""

import argparse
import asyncio
import errno
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx2
from prometheus_client import REGISTRY

from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.cluster.index import IndexPublisher
from oauth_pool_operator.cluster.leadership import Leadership
from oauth_pool_operator.cluster.proxies import Proxies
from oauth_pool_operator.cluster.sealed_tokens import SealedTokens
from oauth_pool_operator.config import DEFAULT_PATH, Config, load_config, split_address
from oauth_pool_operator.controller import Controller
from oauth_pool_operator.delivery import AccessFiles
from oauth_pool_operator.errors import ConfigError, StoreFailed
from oauth_pool_operator.handlers import run
from oauth_pool_operator.handover import commands
from oauth_pool_operator.handover.handover import Handover
from oauth_pool_operator.health import HealthServer
from oauth_pool_operator.logs import LEVELS, set_up_logging, set_up_quiet_logging
from oauth_pool_operator.metrics import PoolCollector
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from oauth_pool_operator.oauth.throttle import Throttle
from oauth_pool_operator.process_limits import forbid_core_dumps
from oauth_pool_operator.reconcile import Reconciler
from oauth_pool_operator.redaction import redacted, redacted_exception
from oauth_pool_operator.status_page import MetricsServer, render
from oauth_pool_operator.storage.lock import VolumeLock
from oauth_pool_operator.storage.store import Store, in_thread
from oauth_pool_operator.storage.volume import VolumeSilent

log = logging.getLogger(__name__)

NO_PROVIDER = "no provider: every account is Stalled (UnknownProvider) until the configuration has a [providers.NAME]"


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code: 0 after SIGTERM or SIGINT, 1 for what a person has to mend."""
    options = _parser().parse_args(arguments)
    forbid_core_dumps()
    try:
        config = load_config(options.config, namespace=options.namespace)
        if options.command is not None:
            commands.check_usage(options)
            return asyncio.run(_hand_over(options, config))
        set_up_logging(options.log_level)
        if options.check:
            return _check(options.config, config)
        asyncio.run(_run(config))
    except (ConfigError, StoreFailed) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 0 if options.command is None else 130
    except Exception as error:  # noqa: BLE001 (whatever it is, a person reads why in the last line, and the exit code is 1)
        return _fail(f"the operator ended: {_what_ended_it(error)}")
    log.info("shutdown complete")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oauth-pool-operator",
        description="Logs OAuthAccount objects in, keeps their tokens fresh and publishes them to the proxies.",
        epilog="The cluster is the pod's own, or what KUBECONFIG names.",
    )
    default = os.environ.get("CONFIG_PATH", DEFAULT_PATH)
    parser.add_argument(
        "--config", type=Path, default=Path(default), help="the TOML file (env CONFIG_PATH; default %(default)s)"
    )
    parser.add_argument(
        "--namespace",
        default=os.environ.get("NAMESPACE"),
        help="the namespace to serve (env NAMESPACE; default: the pod's)",
    )
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default=os.environ.get("LOG_LEVEL", "info").lower(),
        help="env LOG_LEVEL; default info",
    )
    parser.add_argument("--check", action="store_true", help="read the configuration, say what would run, and exit")
    commands.add_to(parser)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('oauth-pool-operator')}")
    return parser


def _check(path: Path, config: Config) -> int:
    """Say what would run and what would not; 1 when there is something to mend."""
    broken = config.broken_providers
    lines = [f"{path}: {'parts of it cannot be used' if broken else 'ok'}"]
    lines.append(f"namespace {config.operator.namespace}, index {config.operator.config_map}")
    lines.append(f"tokens {config.publication.tokens}")
    for name, profile in sorted(config.providers.items()):
        lines.append(f"provider {name}: {', '.join(sorted(profile.grants))}")
    if not (config.providers or broken):
        lines.append(NO_PROVIDER)
    sys.stdout.write("\n".join(lines) + "\n")
    for problem in broken.values():
        _fail(f"{path}: {problem}")
    return 1 if broken else 0


def _what_ended_it(error: Exception) -> str:
    """In one line; where in the code that was goes to the log, without the errors' own texts."""
    causes = list(_unwrapped(error))
    for cause in causes:
        log.error("where the operator failed: %s", "".join(traceback.format_tb(cause.__traceback__)))
    return "; ".join(dict.fromkeys(map(_named, causes)))


def _unwrapped(error: Exception) -> Iterator[Exception]:
    """The errors themselves: a task that fails wraps them into a group, and groups into groups."""
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _unwrapped(inner)
    else:
        yield error


def _named(error: Exception) -> str:
    if isinstance(error, httpx2.HTTPError):
        return describe(error)  # not the text of an answer of the API server: it may quote an object
    return redacted_exception(f"{type(error).__name__}: {error}")


def _fail(message: str) -> int:
    sys.stderr.write(f"oauth-pool-operator: {redacted(message)}\n")
    return 1


async def _hand_over(options: argparse.Namespace, config: Config) -> int:
    """A command beside the running operator: quiet, and with the operator's own access to volume and cluster."""
    set_up_quiet_logging()
    cluster = Cluster(config.operator.namespace, config.operator.config_map)
    try:
        store = Store(config.operator.state_dir, config.operator.access_dir)
        return await commands.run(options, Handover(store, cluster, config, options.timeout))
    finally:
        await cluster.close()


async def _run(config: Config) -> None:
    settings = config.operator
    log.info("starting oauth-pool-operator in namespace %s", settings.namespace)
    for name, problem in config.broken_providers.items():
        log.error("provider %s cannot be used, and its accounts are Stalled until this is fixed: %s", name, problem)
    if not (config.providers or config.broken_providers):
        log.warning(NO_PROVIDER)
    store = Store(settings.state_dir, settings.access_dir)
    await _look_at_volumes(store, with_access=not config.publication.are_sealed)
    _must_be_free("operator.health_listen_addr", settings.health_listen_addr)
    _must_be_free("operator.metrics_listen_addr", settings.metrics_listen_addr)
    host, port = split_address(settings.metrics_listen_addr)
    server = MetricsServer(host, port, REGISTRY)
    cluster = Cluster(settings.namespace, settings.config_map)
    agent = f"oauth-pool-operator/{version('oauth-pool-operator')}"
    endpoints = {name: TokenEndpoint(profile, user_agent=agent) for name, profile in config.providers.items()}
    index = IndexPublisher(cluster)
    tokens = _sealed_tokens(cluster) if config.publication.are_sealed else None
    leadership = Leadership(VolumeLock(settings.state_dir), cluster)
    throttle = Throttle(settings.max_concurrent_refreshes, clock=now, may_spend=lambda: leadership.leads)
    reconciler = Reconciler(
        store=store,
        profiles=config.providers,
        broken_profiles=config.broken_providers,
        endpoints=endpoints,
        delivery=tokens or AccessFiles(store),
        index=index,
        cluster=cluster,
        throttle=throttle,
        clock=now,
    )
    controller = Controller(
        reconciler, cluster=cluster, index=index, tokens=tokens, store=store, leadership=leadership, clock=now
    )
    REGISTRY.register(PoolCollector(controller.counts))
    server.render_page = lambda reloads: render(controller.accounts(), controller.figures(), now(), reloads=reloads)
    health = HealthServer(
        *split_address(settings.health_listen_addr),
        seconds_since_last_turn=controller.seconds_since_last_turn,
        why_deaf=controller.why_deaf,
        why_not_ready=controller.why_not_ready,
    )
    try:
        await run(controller, leadership, namespace=settings.namespace)
    finally:
        health.close()
        server.close()
        for endpoint in endpoints.values():
            await endpoint.close()
        await cluster.close()


def _sealed_tokens(cluster: Cluster) -> SealedTokens:
    from oauth_pool_operator.cluster import hpke  # only here: `cryptography` takes memory

    return SealedTokens(cluster, Proxies(hpke.is_usable), hpke.seal)


async def _look_at_volumes(store: Store, *, with_access: bool) -> None:
    """Raises `StoreFailed` when one is not there; one that refuses or hangs is said, and may come round."""
    for check in (store.check_state, *((store.check_access,) if with_access else ())):
        with suppress(VolumeSilent):  # the probe says so
            await in_thread(check)
    for probe in (store.probe_state, *((store.probe_access,) if with_access else ())):
        try:
            await in_thread(probe)
        except StoreFailed as error:
            log.error("%s; going on without it: no token is spent before the next one can be stored", error)


def now() -> datetime:
    """The wall clock: what is stored and published is compared with other machines' clocks."""
    return datetime.now(UTC)


def _must_be_free(setting: str, address: str) -> None:
    """Kopf would log a traceback and the metrics server an OSError without the setting's name."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
        raise ConfigError(f"{setting}: {address} {what}") from error
