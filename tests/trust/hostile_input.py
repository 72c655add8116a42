"""Hostile input: all that is read of others is thrown at whatever reads it, at random and guided by what it makes the code do."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.bench.environments import python_with
from tests.support.control_plane import ControlPlane
from tests.support.stack import ROOT, running_stack, serve_accounts

from . import odd_objects
from .all_targets import TARGETS
from .mutation import inputs
from .program import Program, Report, Say
from .targets import Target

PROMISE = (
    "One bad thing costs one thing, whoever sent it: no input ends a program, blocks another, or is taken for another."
)
EXAMPLES, OBJECTS, SEED = 3000, 400, 20261128
GUIDED_SECONDS = 600
"""Of all targets together."""


def check(target: Target, examples: int, *, is_short: bool) -> None:
    """Its seeds, and so many inputs that are nearly good. Raises, with the smallest input, when a promise is broken.

    The short form is a test of every change, and throws the same inputs each time. The long form looks for new ones.
    """
    for seed in target.seeds:
        target.run(seed)

    @settings(
        max_examples=examples,
        database=None,
        derandomize=is_short,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(inputs(target))
    def throw(data: bytes) -> None:
        target.run(data)

    throw()


def run(short: bool, say: Say) -> Report:
    report = Report(("what is thrown at", "at random", "guided", "s", "broken"))
    examples = 100 if short else EXAMPLES
    logging.disable(logging.CRITICAL)  # what the programs would log of each bad thing
    libraries = None if short else _atheris()
    for target in TARGETS:
        say(target.name)
        began, found = time.monotonic(), []
        try:
            check(target, examples, is_short=short)
        except Exception as error:  # noqa: BLE001 (whatever it is, the target did not keep its promise)
            notes = " ".join(getattr(error, "__notes__", []))
            found.append(f"{target.name}: {target.promise}: {type(error).__name__}: {error} {notes}")
        guided = 0
        if libraries is not None:
            guided, failure = _guided(target, GUIDED_SECONDS // len(TARGETS), libraries)
            found += failure
        report.rows.append((target.name, examples, guided, round(time.monotonic() - began), len(found)))
        report.failures += found
    logging.disable(logging.NOTSET)
    _objects(report, 40 if short else OBJECTS, say)
    return report


def _atheris() -> Path:
    """Where its packages are."""
    (found,) = python_with("atheris").parents[1].glob("lib/python*/site-packages")
    return found


def _guided(target: Target, seconds: int, libraries: Path) -> tuple[int, list[str]]:
    """How many inputs were tried, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.trust.fuzz", target.name, str(seconds), folder]
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(libraries)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 300,
            check=False,
        )
        inputs_kept = [path.read_bytes() for path in Path(folder).glob("*-*") if path.is_file()]
    lines = (ended.stdout + ended.stderr).splitlines()
    tried = next((int(line.split()[-1]) for line in lines if "number_of_executed_units" in line), 0)
    if ended.returncode == 0 and tried:
        return tried, []
    tail = "\n".join(lines[-30:])
    return tried, [f"{target.name}: {target.promise}: exit code {ended.returncode}, inputs {inputs_kept}\n{tail}"]


def _objects(report: Report, count: int, say: Say) -> None:
    say("objects that the API server accepts")
    began = time.monotonic()
    with ControlPlane() as plane:
        serve_accounts(plane)
        with running_stack(plane, with_proxy=False) as stack:
            outcome = odd_objects.make(stack, count, SEED)
    found = [f"{name}: its status says nothing of its spec" for name in outcome.silent]
    if not outcome.is_well:
        found.append("the operator ended")
    what = f"accounts at the API server, {outcome.accepted} accepted"
    report.rows.append((what, outcome.made, 0, round(time.monotonic() - began), len(found)))
    report.failures += found


PROGRAM = Program("hostile-input", PROMISE, run, minutes=40)
