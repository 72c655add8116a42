"""`make bench`: the proxy beside a direct connection, nginx and, if asked for, LiteLLM.

Variants take turns, so that what else the machine does meets all of them, and each measurement has a process of its
own. Whatever is measured has a core of its own; upstream and load generator share the others. Figures of two runs are
not comparable, their ratios are.
"""

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench import saved
from tests.bench.bars import bars
from tests.bench.cases import CASES, Case, Measurement
from tests.bench.environments import python_with
from tests.bench.figures import Figures, Results
from tests.bench.image import NoImage, image_python
from tests.bench.load_program import Generator, build, upstream
from tests.bench.options import parse
from tests.bench.processes import BenchmarkError
from tests.bench.report import bar_table, case_table
from tests.bench.variants import SLOW, VARIANTS, Bench, find_nginx
from tests.support.stack import ROOT

OTHER_WORK = "other_work"
REACHED, MISSED, NOT_MEASURED, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.show:
            results, about = saved.load(options.show)
        else:
            results, about = measure(options)
        return conclude(results, about, options)
    except BenchmarkError as error:
        say(f"error: {error}")
        return NOT_MEASURED
    except KeyboardInterrupt:
        say("interrupted; everything that was started has ended")
        return INTERRUPTED


def measure(options: argparse.Namespace) -> tuple[Results, dict[str, object]]:
    """Every case, all its rounds. Saved after each case, so that an interrupted run is not lost."""
    if platform.system() != "Linux":
        raise BenchmarkError("it needs Linux: processes are pinned, and measured through /proc")
    cores = sorted(os.sched_getaffinity(0))
    shown = {name: getattr(options, name) for name in ("rounds", "seconds")}
    results, variants = Results(), chosen_variants(options)
    with bench_on(cores, options) as bench:
        about = saved.about(len(cores), bench.python, find_nginx(), shown)
        for name in options.case:
            for number in range(1, options.rounds + 1):
                for variant in takers(CASES[name], variants):
                    figures = measured(bench, CASES[name], variant, options.seconds)
                    results.add(name, variant, figures)
                    say(f"{name}, round {number} of {options.rounds}, {variant}: {summary(figures)}")
            saved.save(options.output, results, about)
            sys.stdout.write(f"\n{case_table(name, results, markdown=options.markdown)}\n\n")
            sys.stdout.flush()
    say(f"saved as {options.output}")
    return results, about


def go_first() -> None:
    """Whatever is started inherits it."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        raise BenchmarkError("--priority needs root, or the right to real-time scheduling") from None


def chosen_variants(options: argparse.Namespace) -> list[str]:
    if "nginx" in options.variant and not find_nginx():
        say("nginx is not installed (Debian: apt-get install nginx-light); going on without it")
    if "litellm" in options.variant:
        say("LiteLLM is installed into .tools/litellm if it is not there yet")
        python_with("litellm")
    return [name for name in options.variant if name != "nginx" or find_nginx()]


def takers(case: Case, variants: Sequence[str]) -> list[str]:
    return [
        name for name in variants if (case.has_direct or name != "direct") and (case.is_for_slow or name not in SLOW)
    ]


@contextmanager
def bench_on(cores: Sequence[int], options: argparse.Namespace) -> Iterator[Bench]:
    """The upstream, and a core for what is measured: whatever else runs here shares the others."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by whatever is started
    proxy, others = cores[:1], cores[1:] or cores
    if proxy == others:
        say("there is one core only: the load generator slows down what it measures")
    with tempfile.TemporaryDirectory(prefix="oauth-pool-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        python = options.python or this_python(options, folder, stack)
        other = other_python(options, folder, stack) if options.against else None
        if options.priority:
            go_first()  # not sooner: a container engine cannot build with real-time priority
        os.sched_setaffinity(0, others)
        load = build(folder)
        addresses = stack.enter_context(upstream(load, folder, others))
        yield Bench(load, folder, proxy, others, addresses, python, other)


def this_python(options: argparse.Namespace, folder: Path, stack: ExitStack) -> Path:
    """The image's, or that of .venv where there cannot be an image."""
    say("building the proxy's image, to measure with the Python that is shipped")
    try:
        return stack.enter_context(image_python(options.engine, options.base, folder))
    except NoImage as reason:
        say(f"measuring with {sys.executable}, because there is no image: {reason}")
        return Path(sys.executable)


def other_python(options: argparse.Namespace, folder: Path, stack: ExitStack) -> Path:
    """An interpreter is taken as it is; a commit gets an image of its own."""
    if os.access(options.against, os.X_OK):
        return Path(options.against)
    say(f"building the proxy's image of {options.against}")
    return stack.enter_context(image_python(options.engine, options.base, folder, options.against))


def measured(bench: Bench, case: Case, variant: str, seconds: float) -> Figures:
    with VARIANTS[variant](replace(bench, accounts=case.accounts), case.is_tls) as target:
        generator = Generator(bench.load, bench.other_cores, target)
        measurement = Measurement(target, generator, bench.upstream.process, seconds * case.length)
        return case.measure(measurement) | {OTHER_WORK: measurement.other_work()}


def summary(figures: Figures) -> str:
    shown = {
        "per_second": "{:,.0f}/s",
        "cpu_us": "{:.1f} µs CPU each",
        "failed": "{:.0f} failed",
        OTHER_WORK: "something else took {:.0f} % of a core",
    }
    return ", ".join(text.format(figures[name]) for name, text in shown.items() if name in figures) or "done"


def conclude(results: Results, about: dict[str, object], options: argparse.Namespace) -> int:
    """The tables that concern all cases, the chart, and the exit code."""
    if options.show:
        for case in results.cases():
            sys.stdout.write(f"{case_table(case, results, markdown=options.markdown)}\n\n")
    sys.stdout.write(f"{bar_table(results, markdown=options.markdown)}\n\n")
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
    for (case, variant), count in results.failures().items():
        say(f"{case}, {variant}: {count:.0f} failed")
    if (most := max(results.all_of(OTHER_WORK), default=0)) > 20:
        say(
            f"the machine was busy with something else, at most with {most:.0f} % of a core: measure again when it is not"
        )
    if options.chart:
        draw(options.show or options.output, options.chart)
    missed = any(bar.is_reached(results) is False for bar in bars())
    return MISSED if missed or results.failures() else REACHED


def draw(run: Path, chart: Path) -> None:
    command: list[str | Path] = [python_with("bench"), "-m", "tests.bench.chart", run.resolve(), chart.resolve()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"the chart failed:\n{done.stderr}")
    say(f"drawn as {chart}")


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} bench: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
