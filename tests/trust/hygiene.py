"""Hygiene: everything is done with secrets that can be done, kills and exceptions included, at the most talkative log level.
Then every secret is looked for in every place that somebody may read.
"""

import secrets
import signal
import tempfile
from pathlib import Path

import httpx2

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.every_login import log_in_in_every_way
from tests.support.stack import serve_accounts

from .hygiene_stack import HygieneStack
from .program import Program, Report, Say
from .stumbling import OF_OPERATOR, OF_PROXY

PROMISE = "No token, code, verifier, key or client secret is anywhere but on the state volume, whatever happens."
ALICE, CAROL = "alice@example.com", "carol@example.com"
MESSAGE = {"model": "claude-test", "max_tokens": 16, "messages": [{"role": "user", "content": "a question"}]}


def run(short: bool, say: Say) -> Report:
    with ControlPlane() as plane:
        serve_accounts(plane)
        return run_on(plane, 1 if short else 10, say)


def run_on(plane: ControlPlane, rounds: int, say: Say) -> Report:
    report = Report(("what is looked at", "characters", "secrets", "hits"))
    with tempfile.TemporaryDirectory(prefix="oauth-pool-") as folder:
        stack = HygieneStack(plane, Path(folder))
        try:
            stack.start()
            _Trial(stack, report, say).run(rounds)
        finally:
            stack.close()
    return report


class _Trial:
    def __init__(self, stack: HygieneStack, report: Report, say: Say) -> None:
        self._stack, self._report, self._say = stack, report, say
        self._seen_by_clients: list[str] = []
        self._said_by_clients: list[str] = []
        self._printed_by_commands: list[str] = []

    def run(self, rounds: int) -> None:
        stack = self._stack
        stack.apply(stack.account("alice"))
        stack.apply(stack.workload_account("workload"))
        stack.log_in("alice", ALICE)
        stack.wait_for_reason("workload", "Ready", "Available")
        if rounds > 1:  # once is done by the test of the whole path
            self._say("every way to log in")
            commands = log_in_in_every_way(stack)
            self._printed_by_commands += [ended.stdout + ended.stderr for ended in commands]
        else:
            stack.apply(stack.account("carol"))
            stack.log_in("carol", CAROL)
        stack.wait_for_tokens(3)
        self._ask()
        for number in range(rounds):
            self._say(f"round {number + 1} of {rounds}: refusals, exceptions, kills")
            self._refused()
            self._stumble()
            self._kill()
        self._look()

    # --- what happens --------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Clients with and without proofs, and what is no request."""
        stack = self._stack
        good = [stack.client_key, stack.service_account_token("oauth-pool")]
        foreign = [stack.service_account_token("somebody-else"), f"canary-{secrets.token_urlsafe(32)}"]
        self._said_by_clients += good + foreign
        with httpx2.Client(base_url=stack.proxy_url, timeout=30) as client:
            for credential in (*good, *foreign):
                for headers in ({"authorization": f"Bearer {credential}"}, {"x-api-key": credential}, {}):
                    for is_stream in (False, True):
                        body = {**MESSAGE, "stream": is_stream}
                        self._hear(client.post("/v1/messages", json=body, headers=headers))
                    self._hear(client.request("TRACE", "/v1/models", headers=headers))
                    self._hear(client.get(f"/v1/models?key={credential}", headers=headers))
                    self._hear(client.get("/api/oauth/profile", headers=headers))
                    self._hear(client.post("/v1/messages", content=b"{", headers=headers))

    def _hear(self, answer: httpx2.Response) -> None:
        self._seen_by_clients.append(f"{answer.status_code} {answer.headers.raw} {answer.text}")

    def _refused(self) -> None:
        """Tokens that the API refuses, and that are refreshed; a refresh that fails, and one whose answer is lost."""
        stack = self._stack
        for switches in (
            {"token_failures": 1, "token_failure_status": 500},
            {"token_failures": 1, "token_failure_status": 400, "token_failure_error": "invalid_request"},
            {"token_drops_after_redeem": 1, "rotation_grace": 600},
        ):
            stack.simulator.set(**switches)
            self._refresh("alice", is_awaited=False)
            self._ask_once()
        stack.simulator.call("DELETE", "switches")
        stack.wait_for_reason("alice", "Ready", "Available", seconds=90)
        stack.simulator.revoke_grants(CAROL)
        for _ in range(8):
            self._ask_once()

    def _ask_once(self) -> None:
        text = secrets.token_hex(4)  # another conversation, which may begin with another account
        body = {**MESSAGE, "messages": [{"role": "user", "content": text}]}
        self._hear(httpx2.post(f"{self._stack.proxy_url}/v1/messages", json=body, timeout=30))

    def _refresh(self, name: str, *, is_awaited: bool = True) -> None:
        request = secrets.token_hex(4)
        stack = self._stack
        stack.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/refresh-requested={request}", "--overwrite")
        if is_awaited:
            handled = lambda: stack.get(name)["status"].get("lastHandledRefreshRequest") == request
            wait_until(handled, f"refresh of {name}", 60)

    def _stumble(self) -> None:
        """An exception within, for each function that holds a secret; after it all is well again."""
        stack = self._stack
        for name in OF_OPERATOR:
            before = stack.stumbles(name)
            if name == "exchange_code":
                self._begin_login("carol")
            stack.stumble(name)
            if name == "exchange_code":
                stack.paste("carol", self._pasted)
            elif name == "observe":
                stack.paste("alice", f"canary-{secrets.token_urlsafe(32)}")
            else:
                self._refresh("alice", is_awaited=False)
            self._until(name, before)
            stack.stumble()
        for name in OF_PROXY:
            before = stack.stumbles(name)
            stack.stumble(name)
            if name == "parse_token":
                stack.kill("proxy")  # a new one reads all tokens
            self._until_stumbled(name, before)
            stack.stumble()
        stack.wait_for_reason("alice", "Ready", "Available", seconds=90)

    def _until(self, name: str, before: int) -> None:
        wait_until(lambda: self._stack.stumbles(name) > before, f"{name} to stumble", 60)

    def _until_stumbled(self, name: str, before: int) -> None:
        stack = self._stack

        def look() -> bool:
            key = {"x-api-key": f"canary-{secrets.token_urlsafe(32)}"}  # a new one, or who it is would be known
            self._said_by_clients.append(key["x-api-key"])
            self._hear(httpx2.post(f"{stack.proxy_url}/v1/messages", json=MESSAGE, headers=key, timeout=30))
            return stack.stumbles(name) > before

        wait_until(look, f"{name} to stumble", 60)

    def _begin_login(self, name: str) -> None:
        stack = self._stack
        before = stack.get(name)["status"].get("login", {}).get("authorizationURL")
        request = secrets.token_hex(4)
        stack.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/login-requested={request}", "--overwrite")

        def url() -> str | None:
            found: str | None = stack.get(name)["status"].get("login", {}).get("authorizationURL")
            return found if found != before else None

        self._pasted = stack.simulator.approve(wait_until(url, f"login of {name}"), f"{name}@example.com")

    def _kill(self) -> None:
        """The operator amid a refresh, the proxy amid an answer."""
        stack = self._stack
        stack.simulator.set(token_delay=0.5)
        self._refresh("alice", is_awaited=False)
        wait_until(lambda: stack.is_refreshing, "a refresh to be under way", 30)
        stack.kill("operator")
        stack.simulator.call("DELETE", "switches")
        stack.wait_for_reason("alice", "Ready", "Available", seconds=90)
        stack.kill("proxy")
        stack.wait_for_tokens(2)
        self._ask_once()

    # --- what is looked for --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        stack, report = self._stack, self._report
        self._begin_login("carol")  # an open login, whose verifier is a secret that nobody has sent
        canaries = stack.canaries()
        canaries.add("verifier of an open login", *stack.sessions())
        canaries.add("client's credential", *self._said_by_clients)
        places = stack.places()
        for name, limit in stack.core_limits().items():
            if limit.split()[4:6] != ["0", "0"]:
                report.failures.append(f"{name} may leave a core file: {limit}")
        for name in ("proxy", "operator"):
            process = stack.processes[name]
            process.signal(signal.SIGTERM)
            process.stop()
            places[f"log of the {name}"] = process.output
        places |= {
            "what clients were answered": "\n".join(self._seen_by_clients),
            "what commands printed": "\n".join(self._printed_by_commands),
        }
        if "[redacted]" not in places["logs of the killed"]:
            report.failures.append("no exception was logged that would have quoted a secret: nothing was tried")
        hits = canaries.leaks(places)
        for place, text in places.items():
            report.rows.append((place, len(text), canaries.count, len(hits.get(place, ()))))
        report.failures += [f"{place} holds: {', '.join(sorted(found))}" for place, found in hits.items()]
        stored = "".join(path.read_text() for path in stack.state_dir.rglob("*.json"))
        if not canaries.found_in(stored):
            report.failures.append("the search finds nothing on the state volume either: it finds nothing at all")


PROGRAM = Program("hygiene", PROMISE, run, minutes=20)
