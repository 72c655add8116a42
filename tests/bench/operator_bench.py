"""A benchmark of the operator: the real process, a real API server, a token endpoint that takes 20 ms; and bars.

Many accounts at once, rest, a restart, a proxy that joins, reports of a proxy; then few accounts, whose tokens change. Tokens are
sealed to three proxies. See docs/benchmarks.md.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.bench.operator_figures import Figure, cpu_seconds, memory_mib, table, writes
from tests.bench.operator_load import Load
from tests.bench.operator_proxies import SimulatedProxies
from tests.support.control_plane import ControlPlane, ControlPlaneError
from tests.support.stack import Stack, running_stack, serve_accounts

WAIT_SECONDS = 600.0
PROXIES = 3
# As in the image, where the kubectl plugin's packages are not installed: Kopf imports `kubernetes` when it finds it.
AS_SHIPPED = (
    sys.executable,
    "-c",
    "import sys; sys.modules['kubernetes'] = None; from oauth_pool_operator.cli import main; sys.exit(main())",
)
# After the last write: what was posted with it (Events) is done, and garbage is collected.
CALM_SECONDS = 5.0


def main() -> int:
    """0: every bar is reached. 1: not every one. 2: it could not be measured. 130: Ctrl-C."""
    options = _parser().parse_args()
    try:
        figures = measure(options)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except (ControlPlaneError, httpx2.HTTPError, TimeoutError, AssertionError) as error:
        _say(f"could not measure: {type(error).__name__}: {error}")
        return 2
    sys.stdout.write(table(figures) + "\n")
    if options.json is not None:
        document = {"load_average": os.getloadavg(), "figures": [figure.as_dict() for figure in figures]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(figure.is_reached for figure in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench-operator", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accounts", type=int, default=2000, metavar="N", help="many (default: %(default)s)")
    parser.add_argument(
        "--few", type=int, default=20, metavar="N", help="few (default: %(default)s); 0 leaves this out"
    )
    parser.add_argument("--reports", type=int, default=200, metavar="N", help="of a proxy (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=int, default=200, metavar="N", help="that change, of few accounts (default: %(default)s)"
    )
    parser.add_argument("--idle", type=float, default=60, metavar="S", help="seconds of rest (default: %(default)g)")
    parser.add_argument(
        "--token-delay", type=float, default=0.02, metavar="S", help="of the token endpoint (default: %(default)g)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser


def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures. The machine's load goes to stderr: on a busy one, times say little."""
    _say(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start")
    with ControlPlane() as plane:
        serve_accounts(plane)
        figures = many(plane, options)
        if options.few:
            figures += few(plane, options)
    _say(f"load average {os.getloadavg()[0]:.1f} at the end")
    return figures


def many(plane: ControlPlane, options: argparse.Namespace) -> list[Figure]:
    with started(plane, options) as stack:
        load, count = Load(stack, options.accounts, proxies_of(stack)), options.accounts
        figures = [*log_in(stack, load)]
        figures += rest(stack, options.idle, cpu_bar=2.0, rss_bar=256, label=f"{count} accounts")
        figures += restart(stack, load)
        figures.append(join(load))
        figures += reports(load, options.reports)
        return figures


def proxies_of(stack: Stack) -> SimulatedProxies:
    """As many as there usually are."""
    proxies = SimulatedProxies(stack)
    for _ in range(PROXIES):
        proxies.declare()
    return proxies


def join(load: Load) -> Figure:
    _say("a proxy joins")
    return Figure(
        f"{len(load.names)} accounts: a proxy that joins has all tokens after",
        load.proxies.join_seconds(load.names),
        "s",
        5,
    )


def tokens(load: Load, count: int) -> Iterator[Figure]:
    """From asking for a token until every proxy has it: the request to the token endpoint is part of it."""
    _say(f"{count} new tokens")
    median, most = _quantiles(load.proxies.token_latencies(load.names, count, _say))
    yield Figure(f"{len(load.names)} accounts: new token with {PROXIES} proxies, median", median, "ms")
    yield Figure(f"{len(load.names)} accounts: new token with {PROXIES} proxies, 99 %", most, "ms", 1000)


def reports(load: Load, count: int) -> Iterator[Figure]:
    """The second pair is what the API server takes for such a write by itself: no operator can be faster."""
    _say(f"{count} reports of a proxy")
    median, most = _quantiles(load.report_latencies(count, _say))
    yield Figure("report to index, median", median, "ms")
    yield Figure("report to index, 99 %", most, "ms", 200)
    _say(f"{count} writes of one key without the operator")
    median, most = _quantiles(load.floor_latencies(count))
    yield Figure("the index write alone, median", median, "ms")
    yield Figure("the index write alone, 99 %", most, "ms")


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and 99 %, in milliseconds."""
    quantiles = statistics.quantiles([1000 * each for each in seconds], n=100)
    return quantiles[49], quantiles[98]


def few(plane: ControlPlane, options: argparse.Namespace) -> list[Figure]:
    with started(plane, options) as stack:
        load = Load(stack, options.few, proxies_of(stack))
        list(log_in(stack, load))
        figures = rest(stack, options.idle, cpu_bar=0.5, rss_bar=80, label=f"{options.few} accounts")
        return [*figures, *tokens(load, options.tokens)]


@contextmanager
def started(plane: ControlPlane, options: argparse.Namespace) -> Iterator[Stack]:
    """Operator and token endpoint, in a namespace of their own."""
    with running_stack(plane, with_proxy=False, operator=AS_SHIPPED, tokens="sealed") as stack:
        stack.simulator.set(token_delay=options.token_delay)
        yield stack


def log_in(stack: Stack, load: Load) -> Iterator[Figure]:
    """From the first create until status and index of every account agree, and every proxy can open its token."""
    count, pid = len(load.names), stack.operator.pid
    _say(f"creating {count} accounts")
    began, cpu = time.monotonic(), cpu_seconds(pid)
    load.create()
    yield Figure(f"{count} accounts: created after", time.monotonic() - began, "s")
    _until(load.published, count, "published")
    _until(load.settled, count, "with status")
    yield Figure(f"{count} accounts: logged in and published after", time.monotonic() - began, "s", 90)
    yield Figure(f"{count} accounts: CPU time for that", cpu_seconds(pid) - cpu, "s")


def rest(stack: Stack, seconds: float, *, cpu_bar: float, rss_bar: float, label: str) -> list[Figure]:
    """Nothing is due: what does it cost to wait?"""
    pid, api = stack.operator.pid, stack.control_plane.api
    time.sleep(CALM_SECONDS)
    _say(f"{label}: {seconds:g} s of rest")
    written, cpu, began = writes(api.get("/metrics").text), cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    share = 100 * (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    more = writes(api.get("/metrics").text) - written
    if more:
        _say(f"writes at rest: {dict(more)}")
    return [
        Figure(f"{label}: CPU at rest", share, "% of a core", cpu_bar),
        Figure(f"{label}: RSS", memory_mib(pid), "MiB", rss_bar),
        Figure(f"{label}: RSS, peak", memory_mib(pid, "VmHWM"), "MiB"),
        Figure(f"{label}: writes at rest", more.total(), "", 0),
    ]


def restart(stack: Stack, load: Load) -> Iterator[Figure]:
    """From the start of the process until it has looked at every account again."""
    count, api = len(load.names), stack.control_plane.api
    _say("a restart")
    stack.operator.stop()
    stack.simulator.call("DELETE", "requests")
    written, began = writes(api.get("/metrics").text), time.monotonic()
    stack.start_operator()
    yield Figure("restart: alive after", time.monotonic() - began, "s")
    _until(lambda: reconciled(stack), count, "looked at")
    yield Figure("restart: every account looked at after", time.monotonic() - began, "s", 10)
    yield Figure("restart: CPU time for that", cpu_seconds(stack.operator.pid), "s")
    time.sleep(CALM_SECONDS)
    yield Figure("restart: token requests", len(stack.simulator.requests("/v1/oauth/token")), "", 0)
    yield Figure("restart: tokens sealed", number_of(stack, "pool_tokens_sealed_total"), "", 0)
    yield Figure("restart: writes", (writes(api.get("/metrics").text) - written).total(), "")


def reconciled(stack: Stack) -> int:
    """How many reconciles have succeeded, from the operator's own metrics."""
    return number_of(stack, 'pool_reconciles_total{result="success"}')


def number_of(stack: Stack, series: str) -> int:
    """What one of the operator's own metrics says."""
    text = httpx2.get(f"{stack.metrics_url}/metrics", timeout=30).text
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return int(float(found.group(1))) if found else 0


def _until(number: Callable[[], int], count: int, what: str) -> None:
    """Look twice a second, and say now and then how far it is."""
    deadline, said = time.monotonic() + WAIT_SECONDS, 0.0
    while (now := number()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{now} of {count} accounts {what} after {WAIT_SECONDS:g} s")
        if time.monotonic() - said > 5:
            said = time.monotonic()
            _say(f"{now} of {count} {what}")
        time.sleep(0.5)


def _say(line: str) -> None:
    sys.stderr.write(f"bench-operator: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
