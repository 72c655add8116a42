"""`make bench`: the proxy beside a direct connection, nginx and, if asked for, LiteLLM. `--help` lists the cases.

Variants take turns, so that what else the machine does meets all of them, and each measurement has a process of its
own. Whatever is measured has a core of its own; upstream and load generator share the others. Figures of two runs are
not comparable, their ratios are.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.cases import CASES, Case, Measurement
from tests.bench.load_program import Figures, Generator, build, upstream
from tests.bench.processes import BenchmarkError
from tests.bench.report import table
from tests.bench.results import Results
from tests.bench.variants import VARIANTS, Bench, Variant, find_nginx

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(options)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    cases = "\n".join(f"  {name:<12} {case.title}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog="make bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(__doc__ or "").splitlines()[0].replace("%", "%%"),
        epilog=f"cases:\n{cases}",
    )
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="only this one; may be repeated")
    parser.add_argument(
        "--variant", action="append", choices=VARIANTS, metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    parser.add_argument(
        "--seconds", type=float, default=3, help="of load in each measurement; some cases take longer (3)"
    )
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="an interpreter that has the proxy installed"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = sorted(os.sched_getaffinity(0))
    proxy_cores, other_cores = cores[:1], cores[1:] or cores
    if proxy_cores == other_cores:
        say("there is one core only: the load generator slows the proxies down")
    os.sched_setaffinity(0, other_cores)
    cases = {name: CASES[name] for name in options.case or CASES}
    variants = chosen_variants(options)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="oauth-pool-bench-") as temporary:
        folder = Path(temporary)
        load = build(folder)
        with upstream(load, folder, other_cores) as addresses:
            bench = Bench(load, folder, proxy_cores, addresses, options.python)
            for name, case in cases.items():
                for round_number in range(1, options.rounds + 1):
                    for variant_name, variant in variants.items():
                        figures = measured(bench, case, variant, other_cores, options.seconds)
                        results.add(name, variant_name, figures)
                        say(f"{name}, round {round_number} of {options.rounds}, {variant_name}")
                sys.stdout.write(table(name, results) + "\n")
                sys.stdout.flush()
    return 0


def chosen_variants(options: argparse.Namespace) -> dict[str, Variant]:
    chosen = {name: VARIANTS[name] for name in options.variant or VARIANTS}
    if "nginx" in chosen and not find_nginx():
        say("nginx is not installed (Debian: apt-get install nginx-light); going on without it")
        del chosen["nginx"]
    return chosen


def measured(bench: Bench, case: Case, variant: Variant, cores: Sequence[int], seconds: float) -> Figures:
    with variant(bench, case.is_tls) as target:
        return case.measure(Measurement(target, Generator(bench.load, cores, target), seconds * case.length))


def say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
