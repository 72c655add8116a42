"""The command line."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.cases import CASES
from tests.bench.variants import OTHER_VERSION, SLOW, VARIANTS
from tests.support.stack import ROOT

EPILOGUE = """\
cases:
{cases}

exit codes: 0 every bar that was measured is reached and nothing failed, 1 not so, 2 nothing could be measured,
130 interrupted. docs/benchmarks.md says how it is measured.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Every option has its value: what was not asked for is filled in."""
    options = _parser().parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.case = options.case or list(CASES)
    wanted = options.variant or [name for name in VARIANTS if name not in SLOW]
    options.variant = [
        name
        for name in VARIANTS
        if (name in wanted and (options.against or name not in OTHER_VERSION))
        or (name == "litellm" and options.litellm)
    ]
    options.output = options.output or ROOT / ".bench" / time.strftime("%Y%m%d-%H%M%S.json")
    return options


def _parser() -> argparse.ArgumentParser:
    cases = "\n".join(f"  {name:<12} {case.title}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog='make bench ARGS="…"',
        usage="%(prog)s",
        description="The proxy beside a direct connection, nginx and, if asked for, LiteLLM.",
        epilog=EPILOGUE.format(cases=cases),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--case", action="append", choices=CASES, metavar="NAME", help="only this case; may be repeated")
    add("--variant", action="append", choices=VARIANTS, metavar="NAME",
        help=f"only this variant ({', '.join(VARIANTS)}); may be repeated")  # fmt: skip
    add("--litellm", action="store_true", help="LiteLLM, too, in the cases that it can take; installs it")
    add("--rounds", type=_positive_int, metavar="N", help="how often everything is measured (3)")
    add("--seconds", type=_positive, metavar="S", help="of load per measurement; some cases take longer (3)")
    add("--quick", action="store_true", help="one round of one second, unless said otherwise: does it work?")
    add("--python", type=Path, metavar="PATH",
        help="an interpreter that has the proxy installed, instead of that of the image")  # fmt: skip
    add("--against", metavar="REVISION",
        help="a commit, or an interpreter that has another version of the proxy, measured in the same run: "
        "pool-other, passthrough-other")  # fmt: skip
    add(
        "--engine",
        default="",
        metavar="PATH",
        help="docker, podman or buildah, to build the image (the first one there is)",
    )
    add("--base", default="python:3.13-slim", metavar="IMAGE", help="what it is built on (%(default)s)")
    add("--priority", action="store_true", help="go before other work on this machine (needs root)")
    add("--output", type=Path, metavar="FILE", help="where to save the run (.bench/DATE-TIME.json)")
    add("--markdown", action="store_true", help="tables in Markdown")
    add("--chart", type=Path, metavar="FILE", help="draw a PNG, too; installs matplotlib")
    add("--show", type=Path, metavar="FILE", help="measure nothing: show (and draw) a saved run")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError("must be more than 0, and no more than 3600")
    return number


def _positive_int(text: str) -> int:
    return int(_positive(str(int(text))))
