"""The command line: which programs, progress on stderr, a table of each on stdout."""

import argparse
import signal
import sys
import time
import traceback

from . import data_plane, endurance, hostile_actors, hostile_input, hygiene, streams
from .program import Program

OUTAGE_SECONDS, MINUTES = 240.0, 10.0


def programs(outage: float = OUTAGE_SECONDS, minutes: float = MINUTES) -> tuple[Program, ...]:
    """In the order in which they run. A program is in a module of its own."""
    return (
        data_plane.program(outage),
        streams.PROGRAM,
        endurance.program(minutes),
        hygiene.PROGRAM,
        hostile_input.PROGRAM,
        hostile_actors.PROGRAM,
    )


def main() -> int:
    """0: all promises were kept. 1: one was broken. 2: a program could not be run. 130: Ctrl-C."""
    options = _parser().parse_args()
    signal.signal(signal.SIGALRM, _on_alarm)
    worst = 0
    try:
        for program in programs(options.outage, options.minutes):
            if not options.only or program.name in options.only:
                worst = max(worst, run_one(program, options.short))
    except KeyboardInterrupt:
        return 130
    return worst


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {program.name:14} {program.promise}" for program in programs())
    parser = argparse.ArgumentParser(
        prog="trust",
        description="See for yourself whether the promises of docs/reliability.md hold.",
        epilog=f"programs:\n{lines}\n\nexit codes: 0 kept, 1 broken, 2 could not be run, 130 Ctrl-C",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [program.name for program in programs()]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes each, as in `make test`")
    parser.add_argument(
        "--outage",
        type=float,
        default=OUTAGE_SECONDS,
        metavar="SECONDS",
        help="of data-plane (default: %(default)g)",
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="of endurance, before its clocks jump (default: %(default)g)"
    )
    return parser


def run_one(program: Program, short: bool) -> int:
    """Its exit code. Table and failures go to stdout, progress to stderr."""

    def say(line: str) -> None:
        sys.stderr.write(f"{program.name}: {time.monotonic() - began:.0f} s: {line}\n")

    began = time.monotonic()
    say(program.promise)
    signal.setitimer(signal.ITIMER_REAL, program.minutes * 60)
    try:
        report = program.run(short, say)
    except Exception:  # noqa: BLE001 (whatever it is, no promise was broken)
        traceback.print_exc()
        return 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    verdict = f"{len(report.failures)} times broken" if report.failures else "kept"
    for failure in report.failures:
        sys.stdout.write(f"{failure}\n\n")
    closing = f"{program.name}: {verdict} in {time.monotonic() - began:.0f} s. {program.promise}"
    sys.stdout.write(f"{report.table}\n\n{closing}\n\n")
    sys.stdout.flush()
    return 1 if report.failures else 0


def _on_alarm(*_: object) -> None:
    raise TimeoutError("the program did not end by itself")


if __name__ == "__main__":
    sys.exit(main())
