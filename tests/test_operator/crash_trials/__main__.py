"""The command line: options, a control plane, progress on stderr, the table on stdout."""

import argparse
import asyncio
import secrets
import sys
import traceback
from pathlib import Path

from tests.support.control_plane import ControlPlane, wait_until

from .faults import VARIANTS
from .report import Outcome
from .run import run

CRDS = Path(__file__).parents[3] / "crds"


def main() -> int:
    """0: nothing was wrong. 1: something was. 2: the trials could not be run. 130: Ctrl-C."""
    options = _parser().parse_args()
    try:
        outcome = _run(options)
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 (whatever it is, it is not a lost account)
        traceback.print_exc()
        return 2
    for failure in outcome.failures:
        sys.stdout.write(f"{failure}\n\n")
    sys.stdout.write(f"{outcome.summary}\n")
    return 1 if outcome.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crash-trials",
        description="Kill the real operator around token rotations, and see whether anything is lost.",
    )
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("-n", "--trials", type=int, default=200, help="how many, at least (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of what is drawn; instants depend on the machine, too")
    parser.add_argument("--rigs", type=int, default=3, help="operators at the same time (default: %(default)s)")
    parser.add_argument("--accounts", type=int, default=24, help="of each operator (default: %(default)s)")
    parser.add_argument("--variant", action="append", choices=names, help="only this one; may be repeated")
    return parser


def _run(options: argparse.Namespace) -> Outcome:
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    _say(f"seed {seed}")
    with ControlPlane() as plane:
        plane.apply(CRDS)
        served = "/apis/oauthpool.dev/v1alpha1/oauthaccounts"
        wait_until(lambda: plane.api.get(served).is_success, "OAuthAccounts can be listed")
        chosen = tuple(variant for variant in VARIANTS if not options.variant or variant.name in options.variant)
        return asyncio.run(
            run(
                plane,
                trials=options.trials,
                seed=seed,
                rigs=options.rigs,
                accounts=options.accounts,
                variants=chosen,
                say=_say,
            )
        )


def _say(line: str) -> None:
    sys.stderr.write(f"crash-trials: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
