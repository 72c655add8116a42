"""`make demo`: the whole system on this machine, doing its main job in front of your eyes.

Control plane, simulator, operator and proxy are separate processes. What they print is shown as one coloured log beside
what the demo does, which is what a person would type.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from tests.support.control_plane import ControlPlane, ControlPlaneError, wait_until
from tests.support.stack import ROOT, Stack, serve_accounts

COLOURS = {"operator": 36, "proxy": 35, "simulator": 33, "demo": 32}
ALICE = "alice@example.com"


class Screen:
    """One log for everybody; colours only for a terminal (and not with NO_COLOR)."""

    def __init__(self) -> None:
        self._has_colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._lock = threading.RLock()

    def log(self, source: str, line: str) -> None:
        """A line of one of the processes, its JSON made readable."""
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "message" in entry:
                rest = {name: value for name, value in entry.items() if name not in _NOISE and value is not None}
                line = " ".join([str(entry["message"]), *(f"{name}={value}" for name, value in rest.items())])
        with self._lock:
            self.write(self._coloured(source, f"{source:>9} | ") + line)

    def undisturbed(self) -> contextlib.AbstractContextManager[object]:
        """While it is held, the log waits: for text that arrives piece by piece."""
        return self._lock

    def stage(self, text: str) -> None:
        self.write("\n" + self._coloured("demo", f"=== {text}"))

    def write(self, text: str, end: str = "\n") -> None:
        sys.stdout.write(text + end)
        sys.stdout.flush()

    def _coloured(self, source: str, text: str) -> str:
        return f"\033[{COLOURS.get(source, 37)}m{text}\033[0m" if self._has_colours else text


_NOISE = ("timestamp", "level", "logger", "message")


class Demo:
    """The stages, in order."""

    def __init__(self, stack: Stack, screen: Screen) -> None:
        self._stack = stack
        self._screen = screen

    def run(self, started: float) -> None:
        self._stack.start()
        self._declare_accounts()
        self._log_in()
        wait_until(self._both_can_be_used, "the proxy to have the tokens of both accounts")
        self._send("Hello")
        self._screen.write(f"(cold start to first answer: {time.monotonic() - started:.1f} s)")
        self._stream("Count to five")
        self._exhaust_first_account()
        self._show_pool()

    def _declare_accounts(self) -> None:
        self._screen.stage("two accounts, one per grant: kubectl apply -f accounts.yaml")
        self._stack.apply(self._stack.account("alice"))
        self._stack.apply(self._stack.workload_account("workload"))
        self._stack.authorization_url("alice")
        self._stack.wait_for_reason("workload", "Ready", "Available")
        self._show_pool()

    def _log_in(self) -> None:
        self._screen.stage("alice logs in: open the URL, approve, hand over what the page shows")
        url = self._stack.authorization_url("alice")
        self._screen.write(f"$ open '{url.partition('?')[0]}?…'")
        pasted = self._stack.simulator.approve(url, ALICE)
        self._screen.write("$ kubectl annotate oauthaccount alice oauthpool.dev/authorization-code='<code>#<state>'")
        self._stack.paste("alice", pasted)
        self._kubectl("wait", "--for=condition=Ready", "oauthaccount/alice", "--timeout=30s")
        self._show_pool()

    def _both_can_be_used(self) -> bool:
        """A proxy that has just started announces its key first, and tokens are sealed to that."""
        pool = httpx2.get(f"{self._stack.proxy_url}/health").json()["pool"]
        return bool(pool["accounts_available"] == 2)

    def _send(self, text: str) -> None:
        self._screen.stage("a JSON request through the proxy, without any credential")
        self._screen.write(f"$ curl {self._stack.proxy_url}/v1/messages -d '{json.dumps(self._body(text))}'")
        self._screen.write(self._ask(text))

    def _stream(self, text: str) -> None:
        self._screen.stage("a streaming request, its text as it arrives")
        self._stack.simulator.set(event_delay=0.15)
        body = self._body(text) | {"stream": True}
        url = f"{self._stack.proxy_url}/v1/messages"
        with self._screen.undisturbed(), httpx2.stream("POST", url, json=body, headers=_VERSION) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: ") and '"content_block_delta"' in line:
                    self._screen.write(json.loads(line.removeprefix("data: "))["delta"]["text"], end="")
            self._screen.write("")
        self._stack.simulator.set(event_delay=None)

    def _exhaust_first_account(self) -> None:
        self._screen.stage("alice's five-hour window is exhausted; the next requests succeed on the other account")
        self._stack.simulator.exhaust(ALICE, reset_in=3600)
        # Which account a conversation begins with is in its words: some of these begin with alice.
        answers = [self._ask(f"Question {number}: are you still there?") for number in range(1, 25)]
        if any(ALICE in answer for answer in answers):
            raise AssertionError(f"an exhausted account answered: {answers}")
        self._screen.write(answers[-1])
        self._stack.wait_for_reason("alice", "Ready", "CoolingDown")

    def _ask(self, text: str) -> str:
        url = f"{self._stack.proxy_url}/v1/messages"
        response = httpx2.post(url, json=self._body(text), headers=_VERSION, timeout=30)
        response.raise_for_status()
        answer: str = response.json()["content"][0]["text"]
        return answer

    @staticmethod
    def _body(text: str) -> dict[str, object]:
        return {"model": "claude-demo", "max_tokens": 64, "messages": [{"role": "user", "content": text}]}

    def _show_pool(self) -> None:
        self._kubectl("get", "oauthaccounts")
        self._kubectl("get", "oacc", "-o", "wide")

    def _kubectl(self, *arguments: str) -> None:
        self._screen.write(f"$ kubectl {shlex.join(arguments)}")
        self._screen.write(self._stack.kubectl(*arguments).rstrip())


_VERSION = {"anthropic-version": "2023-06-01"}


def stay(stack: Stack, kubeconfig: Path, screen: Screen) -> None:
    """Until Ctrl-C."""
    screen.stage("everything stays up until Ctrl-C; what to try next, in another terminal:")
    screen.write(what_to_try_next(stack, kubeconfig))
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def what_to_try_next(stack: Stack, kubeconfig: Path) -> str:
    """What a person can paste: each part works by itself after the first three lines."""
    manifest = json.dumps({**stack.account("bob"), "metadata": {"name": "bob"}})
    return f"""
  cd {ROOT}
  export KUBECONFIG={kubeconfig} PATH="{ROOT}/.venv/bin:$PATH"
  alias kubectl='{stack.control_plane.kubectl_path}'

Log in a second account. The page is the simulator's; approve, and paste the code that it shows:

  echo '{manifest}' | kubectl apply -f -
  kubectl oauthaccount login bob

Watch the pool, live:

  kubectl oauthaccount top

or in a browser: {stack.metrics_url}/

Ask something, from any client of the API:

  curl {stack.proxy_url}/v1/messages -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \\
    -d '{json.dumps(Demo._body("Hello"))}'

Look behind it:

  kubectl get oauthaccounts -o wide --watch
  kubectl get oauthproxies
  kubectl explain oauthaccount.spec
  kubectl get events
  curl {stack.proxy_url}/health
  curl {stack.proxy_url}/metrics
  curl {stack.metrics_url}/metrics
  curl {stack.simulator.url}/_simulator/accounts       # the provider

On a cluster: README.md, "On a cluster". From Git, with ArgoCD: docs/gitops.md. With a real provider: docs/providers/.
"""


@contextlib.contextmanager
def demo_stack(screen: Screen) -> Iterator[tuple[Stack, Path]]:
    screen.stage("starting etcd and kube-apiserver")
    with ControlPlane() as control_plane, tempfile.TemporaryDirectory(prefix="oauth-pool-demo-") as folder:
        serve_accounts(control_plane)
        stack = Stack(control_plane, Path(folder), on_line=screen.log, tokens="sealed")
        control_plane.kubectl("config", "set-context", "--current", f"--namespace={stack.namespace}")
        try:
            yield stack, control_plane.kubeconfig
        finally:
            screen.stage("stopping")
            codes = stack.stop()
            stack.close()
        if any(codes.values()):
            raise AssertionError(f"exit codes {codes}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the last stage instead of staying up")
    options = parser.parse_args()
    screen = Screen()
    # SIGTERM unwinds like Ctrl-C, so that nothing is left running
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        with demo_stack(screen) as (stack, kubeconfig):
            Demo(stack, screen).run(started)
            if not options.once:
                stay(stack, kubeconfig, screen)
    except KeyboardInterrupt:
        return 130
    except (AssertionError, ControlPlaneError, httpx2.HTTPError, OSError) as error:
        screen.write(f"\ndemo failed: {error}")
        return 1
    screen.stage("done" + ("; without --once it stays up, and says what to try next" if options.once else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
