"""`login`: asks the operator for a login, takes the person through it, and waits until the account works.

The code goes from the prompt onto the object and nowhere else. What can be told of it here (that it is of another login)
is told here, so that the same page can be copied from again; the rest the operator decides.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.account import AccountView, Login
from kubectl_oauthaccount.errors import PluginError, TimedOut
from kubectl_oauthaccount.instants import rfc3339
from kubectl_oauthaccount.names import LOGIN
from kubectl_oauthaccount.options import Commands, add_command, add_output, add_timeout, session
from kubectl_oauthaccount.pasted import parse_pasted
from kubectl_oauthaccount.table import pool_table, rows
from kubectl_oauthaccount.terminal import Terminal

if TYPE_CHECKING:
    from kubectl_oauthaccount.cluster import Cluster


ATTEMPTS = 3
ANSWER_SECONDS = 20.0  # the operator answers a request in well under one

_HOPELESS = (c.UNKNOWN_PROVIDER, c.INVALID_PROFILE, c.INVALID_SPEC, c.STORAGE_UNAVAILABLE)

EXAMPLE = """\
  kubectl oauthaccount login claude-1
  kubectl oauthaccount login claude-1 --no-browser       # open the URL somewhere else
  read-the-code | kubectl oauthaccount login claude-1    # the code from a program"""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "login", "log an account in", EXAMPLE, run)
    parser.add_argument("name", metavar="NAME", help="the account")
    parser.add_argument("--no-browser", action="store_true", help="only print the URL")
    parser.add_argument("--force", action="store_true", help="log in again although the account works")
    add_timeout(parser, "10m", "how long to wait for the whole login")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    with session(options) as (cluster, terminal):
        account = cluster.account(options.name)
        if account.grant == "WorkloadIdentity":
            return _no_login_needed(account, terminal, options)
        _refuse_what_is_in_vain(account, terminal, force=options.force)
        dialogue = Dialogue(cluster, terminal, options.name, options.timeout, opens_browser=not options.no_browser)
        _show(dialogue.run(), terminal, options)
    return 0


class Dialogue:
    """One login, from the request to the account that works."""

    def __init__(self, cluster: Cluster, terminal: Terminal, name: str, seconds: float, *, opens_browser: bool) -> None:
        self._cluster = cluster
        self._terminal = terminal
        self._name = name
        self._opens_browser = opens_browser
        self._deadline = time.monotonic() + seconds
        self._attempts = ATTEMPTS if terminal.is_interactive else 1
        self._refused = ""

    def run(self) -> AccountView:
        """The account, logged in; raises when that is not to be."""
        account = self._ask_for_login()
        shown = ""
        while True:
            login = account.login
            assert login is not None
            if login.session_id != shown:
                self._present(login)
                shown = login.session_id
            problem = self._hand_over_code(login) if login.needs_code else ""
            if not problem:
                account, problem = self._wait_for_verdict(account)
                if not problem:
                    return account
            self._attempts -= 1
            if self._attempts <= 0 or account.login is None:
                raise PluginError(problem)
            self._terminal.warn(problem)

    def _ask_for_login(self) -> AccountView:
        """The account with the login that answers our request."""
        request = f"{rfc3339(datetime.now(UTC))}-{secrets.token_hex(4)}"
        self._cluster.annotate(self._name, LOGIN.annotation, request)
        with self._terminal.waiting("the operator to open a login"):
            for account in self._cluster.follow(self._name, min(ANSWER_SECONDS, self._seconds_left())):
                stalled = account.condition(c.STALLED)
                if stalled.get("reason") in _HOPELESS:
                    raise PluginError(f"{self._name} cannot be logged in: {stalled.get('message')}")
                if account.status.get(LOGIN.answer) == request and account.login is not None:
                    return account
        from kubectl_oauthaccount.operator_pod import why_silent

        raise TimedOut(f"the operator opened no login for {self._name}: {why_silent(self._cluster)}")

    def _present(self, login: Login) -> None:
        self._terminal.say("Open this URL, log in and approve:")
        self._terminal.say(f"\n  {login.url}\n")
        if login.user_code is not None:
            self._terminal.say(f"and enter the code {login.user_code}", "bold")
        if self._opens_browser and self._terminal.open_browser(login.url):
            self._terminal.say("(it should have opened in your browser)", "dim")

    def _hand_over_code(self, login: Login) -> str:
        """Ask for the code and put it onto the object; returns what is wrong with it, if that can be told here."""
        code = self._terminal.ask_secret("What the page shows (not echoed)")
        if problem := _problem_with(code, login):
            return problem
        if code == self._refused:  # the operator would not answer the same a second time
            return "that is what was refused before: copy all that the page shows"
        self._cluster.hand_over_code(self._name, code)
        self._refused = code  # if we ever ask again
        return ""

    def _wait_for_verdict(self, before: AccountView) -> tuple[AccountView, str]:
        """The account after the exchange, and why it was refused, if it was."""
        account = before
        with self._terminal.waiting("the account to be ready"):
            for account in self._cluster.follow(self._name, self._seconds_left()):
                verdict = judge(before, account)
                if verdict is not None:
                    return account, verdict.problem
        said = account.message or account.condition(c.LOGIN_REQUIRED).get("message") or "nothing is known of the code"
        raise TimedOut(f"{self._name} was not logged in in time; it is {account.status_word}: {said}")

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


@dataclass(frozen=True)
class Verdict:
    """How a login ended: well, or with a problem."""

    problem: str = ""


def judge(before: AccountView, after: AccountView) -> Verdict | None:
    """How the login that was open in `before` has ended, if it has.

    A login that ended well is gone, and there is a token that was not there before. A code that was refused leaves a
    fresh login, or a problem in the condition LoginRequired that was not there before.
    """
    was, now = before.condition(c.LOGIN_REQUIRED), after.condition(c.LOGIN_REQUIRED)
    if after.login is None and after.token_generation > before.token_generation:
        return Verdict() if after.status_word != c.REFRESHING else None
    message = str(now.get("message") or "the login was refused")
    is_another = after.login is None or before.login is None or after.login.session_id != before.login.session_id
    if is_another and not after.is_true(c.STALLED) and not after.is_true(c.RECONCILING):
        return Verdict(message)
    return Verdict(message) if _is_problem(now) and _said(now) != _said(was) else None


def _is_problem(login_required: dict[str, Any]) -> bool:
    """A reason other than that the person is awaited (for a code, at a device) or that nobody is."""
    reason = str(login_required.get("reason", c.NOT_REQUIRED))
    return reason != c.NOT_REQUIRED and not reason.startswith("Awaiting")


def _said(condition: dict[str, Any]) -> tuple[object, object]:
    return condition.get("reason"), condition.get("message")


def _problem_with(code: str, login: Login) -> str:
    pasted = parse_pasted(code)
    if pasted.refused:
        return "the page refused the login: open the URL again and approve"
    if not pasted.code:
        return "that is not what the page shows, nor the URL that the browser ended at"
    expected = parse_qs(urlsplit(login.url).query).get("state")
    # a code without its state is for the operator to judge: there are providers whose page shows no more
    if expected and pasted.state and pasted.state != expected[0]:
        return "that code is of another login: open the URL above, and copy what its page shows"
    return ""


def _refuse_what_is_in_vain(account: AccountView, terminal: Terminal, *, force: bool) -> None:
    if account.is_suspended:
        raise PluginError(f"{account.name} is suspended: kubectl oauthaccount resume {account.name}")
    works = account.is_true(c.READY) or account.status_word == c.COOLING_DOWN
    if works and not force and not account.is_true(c.LOGIN_REQUIRED):
        terminal.show(pool_table([account], datetime.now(UTC), terminal.out.width))
        raise PluginError(f"{account.name} is logged in already: --force logs in again")


def _no_login_needed(account: AccountView, terminal: Terminal, options: argparse.Namespace) -> int:
    ready = account.condition(c.READY)
    terminal.say(f"{account.name} needs no login: with grant WorkloadIdentity the operator gets its tokens by itself")
    terminal.say(f"Ready is {ready.get('status', 'Unknown')} ({account.status_word}): {ready.get('message', '')}")
    _show(account, terminal, options)
    return 0


def _show(account: AccountView, terminal: Terminal, options: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    if options.output == "json":
        terminal.show_json(json.dumps(rows([account], now)[0], indent=2))
    else:
        terminal.show(pool_table([account], now, terminal.out.width))
