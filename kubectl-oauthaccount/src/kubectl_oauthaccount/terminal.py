"""The person's terminal: prompts, output, and the browser.

Results go to standard output, everything else to standard error. Without a terminal there are no colours and no spinner.
What is asked for in secret is not echoed, and is read from standard input when that is not a terminal.
"""

import getpass
import os
import sys
import warnings
import webbrowser
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO
from urllib.parse import urlsplit

from rich.console import Console, RenderableType

from kubectl_oauthaccount.errors import PluginError, UsageError

LONGEST_CODE = 16 * 1024
PIPE_WIDTH = 250  # a line in a file is not cut to the width of a terminal that is not there


class Terminal:
    """Standard input, output and error."""

    def __init__(self) -> None:
        self.out, self._err = _console(sys.stdout), _console(sys.stderr)

    @property
    def is_interactive(self) -> bool:
        """True when somebody can be asked again."""
        return sys.stdin.isatty()

    def show(self, result: RenderableType) -> None:
        self.out.print(result, soft_wrap=isinstance(result, str), markup=False, highlight=False)

    def show_json(self, text: str) -> None:
        """As it is, for a program."""
        sys.stdout.write(f"{text}\n")

    def say(self, text: str, style: str = "") -> None:
        """A line for the person; long ones are not broken, so that a URL can be copied."""
        self._err.print(text, style=style, soft_wrap=True, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}", "yellow")

    def waiting(self, for_what: str) -> AbstractContextManager[object]:
        """A spinner while something is waited for."""
        if self._err.is_terminal and not self._err.is_dumb_terminal:
            return self._err.status(f"waiting for {for_what}")
        self.say(f"waiting for {for_what} …")
        return nullcontext()

    def ask_secret(self, prompt: str) -> str:
        """One line that is not shown while it is typed."""
        if not self.is_interactive:
            answer = sys.stdin.readline(LONGEST_CODE)
            if not answer.strip():
                raise PluginError("nothing came on standard input: give the code there, or run this in a terminal")
            return answer.strip()
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            try:
                return getpass.getpass(f"{prompt}: ").strip()
            except getpass.GetPassWarning:
                raise PluginError("this terminal cannot hide what is typed: give the code on standard input") from None
            except EOFError:
                raise PluginError("nothing was typed") from None

    def confirms(self, question: str) -> bool:
        """Whether the person says yes. Where there is nobody to ask, `UsageError`: --yes says it beforehand."""
        if not self.is_interactive:
            raise UsageError("standard input is not a terminal, so nobody can be asked: use --yes")
        self._err.print(f"{question} [y/N] ", end="", soft_wrap=True, markup=False, highlight=False)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def open_browser(self, url: str) -> bool:
        """Open it, if it is a web address and there is a browser that has a window of its own."""
        if urlsplit(url).scheme not in ("https", "http"):
            return False
        try:
            browser = webbrowser.get()
        except webbrowser.Error:
            return False
        # exactly this class: lynx and its like, which would take this terminal
        if type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ:
            return False
        return browser.open(url)


class _Console(Console):
    """Leaves it to the caller what an end of the reader means, where rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(file: TextIO) -> Console:
    width = None if file.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return _Console(file=file, width=width)
