"""A small benchmark: JSON requests and event streams, direct and through the proxy in both modes, as ratios.

Variants take turns, so that what else the machine does meets all of them. The proxy has a core of its own where there
are two; upstream and load generator share the others. Figures of two runs are not comparable, their ratios are.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.control_plane.binaries import go_toolchain
from tests.support.proxy_server import PoolFolder

HERE = Path(__file__).parent
SCRIPT = str(Path(sys.executable).with_name("oauth-pool-proxy"))
FAR = 4_000_000_000.0

Figures = dict[str, float]
Variants = dict[str, tuple[str, int]]
"""Name → address, and process to look at."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of requests, and of events, per measurement")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--events", type=int, default=20, help="per stream and second")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))  # inherited by whatever is started
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        load = str(Path(folder, "load"))
        subprocess.run([go_toolchain(), "build", "-o", load, "."], cwd=HERE / "load", check=True)
        measure(load, stack.enter_context(variants(load, Path(folder), cores[0])), options)
    return 0


@contextmanager
def variants(load: str, folder: Path, core: int) -> Iterator[Variants]:
    """One upstream, and a proxy for each mode on this core. All of them end with the block."""
    pool = PoolFolder(folder)
    for name in ("a", "b", "c"):
        pool.write_token(name, 1, FAR)
        pool.write_entry(name)
    modes = {
        "passthrough": "",
        "pool": "[oauth]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in pool.oauth().items()),
    }
    with ExitStack() as stack:
        upstream, _ = stack.enter_context(started([load, "upstream"], folder / "upstream.log", lambda line: line))
        found: Variants = {"direct": (upstream, 0)}
        for name, more in modes.items():
            config = folder / f"{name}.toml"
            config.write_text(f'[proxy]\nlisten_addr = "127.0.0.1:0"\nupstream_url = "http://{upstream}"\n{more}')
            command = [SCRIPT, "--config", str(config)]
            found[name] = stack.enter_context(
                started(command, folder / f"{name}.log", lambda line: json.loads(line).get("addr"))
            )
            os.sched_setaffinity(found[name][1], {core})
        yield found


@contextmanager
def started(command: list[str], log: Path, address_in: Callable[[str], str | None]) -> Iterator[tuple[str, int]]:
    """A process, known by the line that has its address. What it prints goes to a file, as it would in a container."""
    with log.open("w") as output, subprocess.Popen(command, stdout=output) as process:
        try:
            deadline = time.monotonic() + 20
            while not (addresses := [a for line in log.read_text().splitlines() if (a := address_in(line))]):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"bench: {command[0]} did not start")
                time.sleep(0.05)
            yield addresses[0], process.pid
        finally:
            process.terminate()


def measure(load: str, found: Variants, options: argparse.Namespace) -> None:
    kinds = {
        "json": (options.connections, options.seconds),
        "sse": (options.streams, options.seconds * options.events, options.events),
    }
    for kind, arguments in kinds.items():
        runs: dict[str, list[Figures]] = {name: [] for name in found}
        for number in range(1, options.rounds + 1):
            for name, (address, pid) in found.items():
                sys.stderr.write(f"bench: {kind}, round {number} of {options.rounds}, {name}\n")
                before = cpu_seconds(pid)
                command = [load, kind, f"http://{address}/{kind}", *map(str, arguments)]
                done = subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True)
                figures: Figures = json.loads(done.stdout)
                figures["cpu µs"] = (cpu_seconds(pid) - before) * 1e6 / max(1, figures["done"])
                figures["rss MiB"] = rss_mib(pid)
                runs[name].append(figures)
        show(
            kind,
            {
                name: {key: statistics.median(run[key] for run in many) for key in many[0]}
                for name, many in runs.items()
            },
        )


def show(kind: str, medians: dict[str, Figures]) -> None:
    """A table; `of direct` is the ratio to keep."""
    keys = ["done", "failed", "per_second", "p50", "p99", "first_p99", "cpu µs", "rss MiB"]
    lines = ["".join(f"{text:>12}" for text in [kind, "of direct", *keys])]
    for name, figures in medians.items():
        values = [figures["per_second"] / medians["direct"]["per_second"], *(figures[key] for key in keys)]
        lines.append(f"{name:>12}" + "".join(f"{value:12.2f}" for value in values))
    sys.stdout.write("\n".join(lines) + "\n")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if pid else ["0"] * 13
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if pid else 0


if __name__ == "__main__":
    sys.exit(main())
