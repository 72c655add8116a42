"""What grows with accounts and with proxies: bytes, writes, memory. The real operator and one real proxy; further proxies are simulated.

See docs/scale.md, which has the last figures. Accounts are of grant WorkloadIdentity, and tokens are sealed.
"""

import argparse
import sys
import time

import httpx2

from tests.bench.operator_bench import AS_SHIPPED, CALM_SECONDS, log_in
from tests.bench.operator_figures import cpu_seconds, memory_mib, writes
from tests.bench.operator_load import Load
from tests.bench.operator_proxies import SimulatedProxies
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack, serve_accounts
from tests.trust.program import Report

ACCOUNTS, PROXIES = (20, 200, 2000), (1, 3, 10, 30)
OF_PROXIES, USUAL_PROXIES = 200, 3
"""Accounts while proxies are added, and proxies while accounts are."""
ROTATIONS = 20


def main() -> int:
    options = _parser().parse_args()
    with ControlPlane() as plane:
        serve_accounts(plane)
        by_accounts = Report(
            (
                "accounts",
                "index KiB",
                "sealed KiB",
                "ConfigMaps",
                "operator MiB",
                "proxy MiB",
                "writes per login",
                "writes per new token",
            )
        )
        for count in options.accounts:
            by_accounts.rows.append(_with_accounts(plane, count))
        by_proxies = Report(
            (
                "proxies",
                "sealed KiB",
                "ConfigMaps",
                "join s",
                "new token ms",
                "KiB to all proxies per new token",
                "operator MiB",
            )
        )
        by_proxies.rows += _with_proxies(plane, options.proxies)
    sys.stdout.write(f"{by_accounts.table}\n\n{by_proxies.table}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench-scale", description=(__doc__ or "").splitlines()[0])
    numbers = {"type": int, "nargs": "+", "metavar": "N"}
    parser.add_argument("--accounts", default=ACCOUNTS, help=f"with {USUAL_PROXIES} proxies", **numbers)  # type: ignore[arg-type]
    parser.add_argument("--proxies", default=PROXIES, help=f"with {OF_PROXIES} accounts", **numbers)  # type: ignore[arg-type]
    return parser


def _with_accounts(plane: ControlPlane, count: int) -> tuple[object, ...]:
    with running_stack(plane, with_proxy=False, operator=AS_SHIPPED, tokens="sealed") as stack:
        before = _written(plane)
        load = _logged_in(stack, count, USUAL_PROXIES)
        per_login = (_written(plane) - before) / count - 1  # without what made the account
        stack.start_proxy()
        proxy = stack.proxy.pid
        wait_until(lambda: _holds(stack, count), "the proxy to have all tokens", 120)
        before = _written(plane)
        list(load.proxies.token_latencies(load.names, ROTATIONS, _say))
        time.sleep(CALM_SECONDS)
        per_token = (_written(plane) - before) / ROTATIONS - 1  # without what asked for it
        index, sealed, maps = _sizes(stack)
        _say(f"{count} accounts: {cpu_seconds(stack.operator.pid):.0f} s of CPU time")
        memory = (f"{memory_mib(stack.operator.pid):.0f}", f"{memory_mib(proxy):.0f}")
        return count, f"{index:.0f}", f"{sealed:.0f}", maps, *memory, f"{per_login:.1f}", f"{per_token:.1f}"


def _with_proxies(plane: ControlPlane, counts: tuple[int, ...]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    with running_stack(plane, with_proxy=False, operator=AS_SHIPPED, tokens="sealed") as stack:
        load = _logged_in(stack, OF_PROXIES, 0)
        for count in counts:
            _say(f"{count} proxies")
            while len(load.proxies.declared) < count - 1:
                load.proxies.declare()
            wait_until(lambda: load.settled() == OF_PROXIES or not load.proxies.declared, "all boxes", 120)
            joined = load.proxies.join_seconds(load.names)
            latencies = sorted(load.proxies.token_latencies(load.names, ROTATIONS, _say))
            _, sealed, maps = _sizes(stack)
            # Each change of a ConfigMap sends all of it to everybody who watches it; so does each change of the index.
            fan_out = count * (_largest(stack, "tokens") + _largest(stack, "index"))
            median = 1000 * latencies[len(latencies) // 2]
            figures = (
                f"{sealed:.0f}",
                maps,
                f"{joined:.1f}",
                f"{median:.0f}",
                f"{fan_out:.0f}",
                f"{memory_mib(stack.operator.pid):.0f}",
            )
            rows.append((count, *figures))
    return rows


def _logged_in(stack: Stack, accounts: int, proxies: int) -> Load:
    simulated = SimulatedProxies(stack)
    for _ in range(proxies):
        simulated.declare()
    load = Load(stack, accounts, simulated)
    if proxies:
        list(log_in(stack, load))
    else:
        load.create()
        wait_until(lambda: load.published() == accounts, "all accounts in the index", 120)
    time.sleep(CALM_SECONDS)
    return load


def _written(plane: ControlPlane) -> int:
    return writes(plane.api.get("/metrics").text).total()


def _maps(stack: Stack, kind: str) -> list[float]:
    """The sizes of the ConfigMaps of the index, or of the tokens, in KiB."""
    path = f"/api/v1/namespaces/{stack.namespace}/configmaps"
    listed = stack.control_plane.api.get(path, params={"labelSelector": f"oauthpool.dev/{kind}=1"}, timeout=60).json()
    return [
        sum(len(key) + len(value) for key, value in (item.get("data") or {}).items()) / 1024 for item in listed["items"]
    ]


def _sizes(stack: Stack) -> tuple[float, float, int]:
    index, tokens = _maps(stack, "index"), _maps(stack, "tokens")
    return sum(index), sum(tokens), len(index) + len(tokens)


def _largest(stack: Stack, kind: str) -> float:
    return max(_maps(stack, kind), default=0.0)


def _holds(stack: Stack, count: int) -> bool:
    return f"pool_access_tokens_held {count}.0" in httpx2.get(f"{stack.proxy_url}/metrics", timeout=30).text


def _say(line: str) -> None:
    sys.stderr.write(f"bench-scale: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
