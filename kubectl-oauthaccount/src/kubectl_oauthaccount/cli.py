"""The command line of `kubectl oauthaccount`: its commands, and what its exit codes mean. No logic.

0 done, 1 failed, 2 wrong usage, 3 timed out, 130 Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence

import click

from kubectl_oauthaccount.clear import clear
from kubectl_oauthaccount.completion import COMPLETE_VARIABLE, PROGRAM, completion, for_kubectl
from kubectl_oauthaccount.describe import describe
from kubectl_oauthaccount.errors import PluginError
from kubectl_oauthaccount.handover import adopt, import_, orphans
from kubectl_oauthaccount.key import key
from kubectl_oauthaccount.login import login
from kubectl_oauthaccount.logout import logout
from kubectl_oauthaccount.options import Plugin
from kubectl_oauthaccount.refresh import refresh
from kubectl_oauthaccount.suspend import resume, suspend
from kubectl_oauthaccount.top import top

WRONG_USAGE = 2
INTERRUPTED = 130

EXAMPLES = """\
kubectl oauthaccount login claude-1    log an account in
kubectl oauthaccount top               watch the pool"""

cli = Plugin(
    help="Work with the accounts of an OAuth account pool.",
    examples=EXAMPLES,
    commands=[
        *(login, logout, import_, adopt, orphans, top, describe, refresh, clear, suspend, resume),
        *(key, completion),
    ],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script `kubectl-oauthaccount`; returns the exit code."""
    # the scripts for the shells ask by a variable, and are about the program by its own name
    name = PROGRAM if COMPLETE_VARIABLE in os.environ else "kubectl oauthaccount"
    try:
        code: int | None = cli.main(arguments, name, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return WRONG_USAGE
    except click.ClickException as error:
        return _fail(_told(error), error.exit_code)
    except PluginError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:  # half an installation
        missing = (error.name or "").partition(".")[0]
        return _fail(
            f"the package {missing} is missing: reinstall this program (uv tool install --reinstall {PROGRAM})"
        )
    except click.Abort:
        return INTERRUPTED
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def complete(arguments: Sequence[str] | None = None) -> int:
    """The console script `kubectl_complete-oauthaccount`, which kubectl runs to complete arguments."""
    sys.stdout.write(for_kubectl(cli, sys.argv[1:] if arguments is None else arguments))
    return 0


def _told(error: click.ClickException) -> str:
    """On one line: what is wrong, in which command, and where it is explained."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text}: see {context.command_path} --help" if context is not None else text


def _fail(text: str, code: int = 1) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code
