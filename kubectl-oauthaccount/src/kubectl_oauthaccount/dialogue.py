"""One login, from the request to a working account: the dialogue with operator, person and browser.

The code goes from the prompt, or from the browser, onto the object and nowhere else. If it is surely wrong (it belongs to
another login), this module says so, so that the person can copy from the same page again. The operator judges the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from kubectl_oauthaccount import conditions as c
from kubectl_oauthaccount.errors import PluginError, TimedOut
from kubectl_oauthaccount.loopback import Callback, PortTaken, callback_of, listening, state_of
from kubectl_oauthaccount.names import LOGIN
from kubectl_oauthaccount.pasted import problem_with
from kubectl_oauthaccount.requests import new_value
from kubectl_oauthaccount.verdict import judge, obstacle

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView, Login
    from kubectl_oauthaccount.cluster import Cluster
    from kubectl_oauthaccount.terminal import Terminal

ATTEMPTS = 3
# The operator answers in well under a second, unless it has to ask the provider first: that may take it a minute.
OPEN_SECONDS = 90.0


class Dialogue:
    """`takes_paste`: ask for the code even where the browser could bring it."""

    def __init__(
        self,
        cluster: Cluster,
        terminal: Terminal,
        account: AccountView,
        seconds: float,
        *,
        opens_browser: bool,
        takes_paste: bool,
    ) -> None:
        self._cluster = cluster
        self._terminal = terminal
        self._account = account
        self._opens_browser = opens_browser
        self._takes_paste = takes_paste
        self._deadline = time.monotonic() + seconds
        self._attempts = ATTEMPTS if terminal.is_interactive else 1
        self._shown = ""
        self._refused = ""

    def run(self) -> AccountView:
        """The account, logged in; raises if the login fails."""
        account = self._ask_for_login()
        while True:
            login = account.login
            assert login is not None
            problem = self._get_code(login)
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
        before, name, request = self._account, self._account.name, new_value()
        seconds, told = min(OPEN_SECONDS, self._seconds_left()), ""
        self._cluster.annotate(before, LOGIN.annotation, request)
        with self._terminal.waiting(f"the operator to open a login, for at most {seconds:.0f} s"):
            for account in self._cluster.follow(before, seconds):
                if account.status.get(LOGIN.answer) == request and account.login is not None:
                    return account
                found = obstacle(before, account)
                if found is not None and found.is_final:
                    raise PluginError(f"{name} cannot be logged in: {found.message}")
                if found is not None and found.message != told:
                    told = found.message
                    self._terminal.say(f"the operator says: {told}")
        from kubectl_oauthaccount.operator_pod import why_silent

        why = told or why_silent(self._cluster, before.namespace)
        raise TimedOut(f"the operator opened no login for {name} in {seconds:.0f} s: {why}")

    def _get_code(self, login: Login) -> str:
        """Show the login and get its code onto the object; returns what is wrong with it, if that can be told here."""
        with self._awaited(login) as callback:
            self._present(login)
            if not login.needs_code:
                return ""
            return self._hand_over(login, self._ask(callback))

    @contextmanager
    def _awaited(self, login: Login) -> Iterator[Callback | None]:
        """Listen for the browser before it is sent away, if it will come back to this machine."""
        callback = callback_of(login.url) if login.needs_code and not self._takes_paste else None
        with ExitStack() as stack:
            if callback is not None:
                try:
                    stack.enter_context(listening(callback))
                except PortTaken as error:
                    self._terminal.say(f"({error}: paste the address that the browser ends at)", "dim")
                    callback = None
            yield callback

    def _present(self, login: Login) -> None:
        if login.session_id == self._shown:
            return
        self._shown = login.session_id
        self._terminal.say("Open this URL, log in and approve:")
        self._terminal.say(f"\n  {login.url}\n")
        if login.user_code is not None:
            self._terminal.say(f"and enter the code {login.user_code}", "bold")
        if self._opens_browser and self._terminal.open_browser(login.url):
            self._terminal.say("(it should have opened in your browser)", "dim")

    def _ask(self, callback: Callback | None) -> str:
        if callback is None:
            return self._terminal.ask_secret("What the page shows (not echoed)")
        where = f"http://{callback.where.netloc}"
        with self._terminal.waiting(f"the browser to come back to {where} (is it on another machine? use --paste)"):
            came = callback.wait(self._seconds_left())
        if came is None:
            raise TimedOut(f"the browser did not come back to {where} in time: log in again, perhaps with --paste")
        return came

    def _hand_over(self, login: Login, code: str) -> str:
        if problem := problem_with(code, state_of(login.url)):
            return problem
        if code == self._refused:  # the operator would not answer the same a second time
            return "this is what was refused before: copy everything that the page shows"
        self._cluster.hand_over_code(self._account, code)
        self._refused = code  # if we ever ask again
        return ""

    def _wait_for_verdict(self, before: AccountView) -> tuple[AccountView, str]:
        """The account after the exchange, and why it was refused, if it was."""
        account = before
        with self._terminal.waiting("the account to be ready"):
            for account in self._cluster.follow(before, self._seconds_left()):
                verdict = judge(before, account)
                if verdict is not None:
                    return account, verdict.problem
        said = (
            account.message or account.condition(c.LOGIN_REQUIRED).get("message") or "nothing is known about the code"
        )
        raise TimedOut(f"{before.name} was not logged in in time; it is {account.status_word}: {said}")

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())
