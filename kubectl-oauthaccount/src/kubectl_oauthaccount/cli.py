"""The command line of `kubectl oauthaccount`: its commands, and what its exit codes mean. No logic.

0 done, 1 failed, 2 not called as the help says, 3 what was waited for did not come, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from kubectl_oauthaccount.errors import PluginError

INTERRUPTED = 130

EPILOG = """\
examples:
  kubectl oauthaccount login claude-1    log an account in
  kubectl oauthaccount top               watch the pool

exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out, 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script `kubectl-oauthaccount`; returns the exit code."""
    try:
        options = build_parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except PluginError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except ModuleNotFoundError as error:  # the script is there without the extra, too
        sys.stderr.write(
            f"error: {(error.name or '').partition('.')[0]} is missing: pip install kubectl-oauthaccount\n"
        )
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def complete(arguments: Sequence[str] | None = None) -> int:
    """The console script `kubectl_complete-oauthaccount`, which kubectl runs to complete arguments."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    from kubectl_oauthaccount.completion import answer

    sys.stdout.write(answer(parser, words))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The commands, each from its module."""
    from kubectl_oauthaccount import clear, completion, describe, importing, login, suspend, top
    from kubectl_oauthaccount.options import add_cluster_options

    parser = argparse.ArgumentParser(
        prog="kubectl oauthaccount",
        description="Work with the accounts of an OAuth account pool.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('kubectl-oauthaccount')}")
    add_cluster_options(parser)
    parser.set_defaults(namespace=None, context=None, kubeconfig=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (login, importing, top, describe, clear, suspend, completion):
        module.add_to(commands)
    return parser
