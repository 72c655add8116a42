"""Whoever follows RUNBOOK.md: types the commands of a section as they stand there, and looks at what they print."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx2

from tests.support.cluster.kubectl import Kubectl
from tests.support.cluster.plugin import environment
from tests.support.cluster.runbook import Command, Runbook
from tests.support.cluster.shell import Shell
from tests.support.control_plane import wait_until

PROXY_PORT = 18080
FORWARDS = {PROXY_PORT: "/health", 18090: "/health", 19090: "/metrics"}  # those of the runbook's first commands
PATIENCE = 60.0  # seconds for which a command that only looks is typed again
_LOOKS = re.compile(r"(kubectl (get|auth|logs|describe|exec \S+ -- (find|grep))|curl|ask)\b")

Word = str | Callable[[], str]


class OnCall:
    """In the folder of the user's repository, with a kubeconfig of their own and the plugin on the PATH."""

    def __init__(self, kubectl: Kubectl, repository: Path, folder: Path, words: Mapping[str, Word]) -> None:
        kubeconfig, self._editor = folder / "kubeconfig", folder / "editor"
        kubeconfig.touch(0o600)
        kubeconfig.write_text(kubectl("config", "view", "--raw", "--flatten"))
        path = f"{kubectl.program.parent}:{environment()['PATH']}"
        variables = {"PATH": path, "KUBECONFIG": str(kubeconfig), "EDITOR": str(self._editor)}
        self._runbook = Runbook.read()
        self._words = dict(words)
        self._kubectl = kubectl
        self._forwarded = ""  # the pods that there were when the forwards were started
        self._shell = Shell(folder, environment() | variables)
        self.type(f"cd {repository}")
        for command in self._runbook.prelude():
            self.type(self._with_words(command.text, self._words))

    def close(self) -> None:
        self._shell.close()

    def run(
        self,
        heading: str,
        words: Mapping[str, Word] | None = None,
        *,
        editor: str = "true",
        before: Mapping[str, Callable[[], object]] | None = None,
    ) -> str:
        """All commands of a section that are not marked, in order; returns what they printed.

        `words` are filled in for what is the reader's to fill in. `editor` is what a person would do to the file, `$1`. `before`
        is what happens in the world just before the first command with that text in it. Fails when a command does, or when it
        does not print what is shown.
        """
        self._editor.write_text(f"#!/bin/sh -e\n{editor}\n")
        self._editor.chmod(0o755)
        known = self._words | dict(words or {})
        to_happen = dict(before or {})
        printed = []
        for command in self._runbook.commands(heading):
            for text in [text for text in to_happen if text in command.text]:
                to_happen.pop(text)()
            printed.append(self._follow(heading, command, known))
        assert printed and not to_happen, f"{heading}: {to_happen.keys()} is in no command"
        return "".join(printed)

    def type(self, text: str) -> str:
        """One command that has to succeed."""
        code, output = self._shell.run(text)
        assert code == 0, f"{text}\n{output}"
        return output

    def asks(self) -> int:
        """The status of the answer to a request through the pool, complete or not."""
        self._see_to_forwards("ask")
        _, output = self._shell.run("ask")
        return int(output.split()[1])

    def _follow(self, heading: str, command: Command, words: Mapping[str, Word]) -> str:
        text = self._with_words(command.text, words)
        assert not re.search(r"<[a-z][a-z ]*>", text), f"{heading}: nobody says what to fill in: {text}"
        shown = Command(text, tuple(self._with_words(line, words) for line in command.shown))
        self._see_to_forwards(text)
        give_up = time.monotonic() + (PATIENCE if _LOOKS.match(text) else 0)
        while True:
            code, output = self._shell.run(text)
            # what is shown may be a failure
            if shown.prints(output) if shown.shown else code == 0:
                return output
            if time.monotonic() > give_up:
                expected = "\n".join(shown.shown) or "exit code 0"
                raise AssertionError(f"{heading}\n$ {text}\n{output}\n(exit code {code}) shown there:\n{expected}")
            time.sleep(0.5)

    @staticmethod
    def _with_words(text: str, words: Mapping[str, Word]) -> str:
        for name, word in words.items():
            if name in text:
                text = text.replace(name, word if isinstance(word, str) else word())
        return text

    def _see_to_forwards(self, text: str) -> None:
        """Those that a command needs are started again when a pod was replaced, as the runbook says."""
        needed = [port for port in FORWARDS if f":{port}" in text or (port == PROXY_PORT and re.match(r"ask\b", text))]
        if not needed or (self._pods() == self._forwarded and all(answers(port) for port in needed)):
            return
        wait_until(lambda: not self._are_leaving(), "old pods are gone", seconds=90, every=0.5)
        self._shell.run("kill $(jobs -p); wait")
        self._forwarded = self._pods()
        for command in self._runbook.prelude():
            if "port-forward" in command.text:
                self.type(command.text)
        for port in needed:
            wait_until(partial(answers, port), f"the forward at {port}", every=0.2)

    def _pods(self) -> str:
        return self._kubectl("get", "pods", "-o", "name")

    def _are_leaving(self) -> bool:
        return bool(self._kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}"))


def answers(port: int) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"http://127.0.0.1:{port}{FORWARDS[port]}", timeout=5).status_code == 200
    return False


def state_folder(kubectl: Kubectl, account: str) -> str:
    """Where the operator keeps what it has of that account."""
    uid = kubectl("get", "oauthaccount", account, "-o", "jsonpath={.metadata.uid}")
    return f"/var/lib/oauth-pool/state/{uid}"
