"""`top`: the pool, live. Drawn again when something changed, and every interval for the countdowns."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from kubectl_oauthaccount.errors import NotFound, UsageError
from kubectl_oauthaccount.options import ClusterOptions, Duration, command, output, scope, session

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions

    from kubectl_oauthaccount.cluster import Cluster
    from kubectl_oauthaccount.pool import Pool
    from kubectl_oauthaccount.terminal import Terminal

SHORTEST_PAUSE = 0.2  # between two drawings, however much changes

EXAMPLES = """\
kubectl oauthaccount top
kubectl oauthaccount top -A -l tier=gold
kubectl oauthaccount top --once -o json
kubectl oauthaccount top --clients      # who uses the pool"""


class _Interval(Duration):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        if not 0.1 <= seconds <= 3600:
            self.fail(f"{value!r} is not from 0.1s to 1h", param, ctx)
        return seconds


@command("top", "show the pool, live; Ctrl-C ends it", EXAMPLES)
@scope
@click.option("--interval", type=_Interval(), default="2s", show_default=True, help="between two drawings")
@click.option("--once", is_flag=True, help="print it once, as without a terminal")
@click.option("--clients", is_flag=True, help="the proxies' clients, and what each has used; printed once")
@output
def top(
    options: ClusterOptions,
    selector: str | None,
    everywhere: bool,
    interval: float,
    once: bool,
    clients: bool,
    output: str | None,
) -> None:
    if output and not (once or clients):
        raise UsageError("-o json needs --once")
    if clients and (selector is not None or everywhere):
        raise UsageError("--clients is about the proxies of one namespace: -l and -A select accounts")
    with session(options) as (cluster, terminal):
        if clients:
            _print_clients(cluster, terminal, as_json=output == "json")
            return
        if once or not terminal.out.file.isatty():  # FORCE_COLOR asks for colors, not for a picture without an end
            _print_once(cluster, terminal, selector, everywhere=everywhere, as_json=output == "json")
            return
        from kubectl_oauthaccount.pool import Pool

        with suppress(KeyboardInterrupt):
            _draw(Pool(cluster, selector=selector, everywhere=everywhere), terminal, interval)


def _print_once(cluster: Cluster, terminal: Terminal, selector: str | None, *, everywhere: bool, as_json: bool) -> None:
    from kubectl_oauthaccount.table import by_urgency, picture, rows

    accounts, now = cluster.accounts(selector=selector, everywhere=everywhere), datetime.now(UTC)
    if as_json:
        terminal.show_json(json.dumps(rows(by_urgency(accounts), now), indent=2))
    else:
        namespace = None if everywhere else cluster.namespace
        terminal.show(picture(accounts, now, namespace=namespace, width=terminal.out.width))


def _print_clients(cluster: Cluster, terminal: Terminal, *, as_json: bool) -> None:
    from kubectl_oauthaccount.client_usage import usage_of, usage_rows, usage_table
    from kubectl_oauthaccount.proxy_pods import metrics_texts

    usage = usage_of(metrics_texts(cluster))
    if as_json:
        terminal.show_json(json.dumps(usage_rows(usage), indent=2))
    elif usage:
        terminal.show(usage_table(usage))
    else:
        raise NotFound("these proxies do not know their clients: their configuration has no [clients]")


def _draw(pool: Pool, terminal: Terminal, interval: float) -> None:
    """Until Ctrl-C, on a screen of its own, as `less` does."""
    from rich.live import Live

    from kubectl_oauthaccount.table import picture

    pool.start()
    with Live(console=terminal.out, screen=True, auto_refresh=False) as live:
        while True:
            pool.changed.clear()
            accounts, trouble = pool.state()
            size = terminal.out.size
            live.update(
                picture(
                    accounts,
                    datetime.now(UTC),
                    namespace=pool.namespace,
                    width=size.width,
                    height=size.height,
                    trouble=trouble,
                ),
                refresh=True,
            )
            _pause(pool, terminal, size, interval)


def _pause(pool: Pool, terminal: Terminal, size: ConsoleDimensions, interval: float) -> None:
    """Until the interval is over, or the pool or the terminal's size has changed. (SIGWINCH would tell of the size, but a
    handler of it may not touch what the thread it interrupts is waiting on.)"""
    end = time.monotonic() + interval
    time.sleep(SHORTEST_PAUSE)
    while time.monotonic() < end and terminal.out.size == size:
        if pool.changed.wait(SHORTEST_PAUSE):
            return
