"""A pool with two proxies in which everything happens that the dashboard shows, and a Prometheus that watches it.

Accounts run out and come back, the provider fails, is late, and refuses a token; clients have names, wait in line, leave, and
ask more often than they may.
"""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.plane import free_port
from tests.support.prometheus_server import PrometheusServer, running_prometheus
from tests.support.stack import Stack, running_stack

TIMEOUT = 2
STRANGER = ""
CLIENTS = ("ci", "laptop", "notebook", STRANGER)
HURRIED = "batch"
"""It asks more often than it may, which is not often."""
CONVERSATIONS = 12
"""Of each client. Accounts have other uids in each run, so with a few conversations one account might have none of them."""
MODELS = ("claude-simulated-haiku", "claude-simulated-sonnet", "claude-simulated-opus")
PEOPLE = {"claude-1": "alice@example.com", "claude-2": "bob@example.com", "claude-3": "carol@example.com"}
USED = {"claude-1": (0.22, 0.4), "claude-2": (0.78, 0.66), "claude-3": (0.05, 0.12)}
"""Of the windows 5h and 7d, before the first request."""


@dataclass(frozen=True)
class Watched:
    """`rest_ended` is when the first request was sent, and `ended` when all was well again (Unix time)."""

    stack: Stack
    prometheus: PrometheusServer
    rest_ended: float
    ended: float


@contextmanager
def pool_under_load(
    control_plane: ControlPlane, prometheus: Path, *, seconds: float, scrape_seconds: int = 1
) -> Iterator[Watched]:
    """Handed out after a load of so many seconds. Prometheus goes on until the end."""
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with running_stack(control_plane, proxy_settings=_settings(first), tokens="sealed") as stack:
        urls = [stack.proxy_url, stack.start_second_proxy(_settings(second))]
        operator = stack.metrics_url.removeprefix("http://")
        targets = {"operator-0": operator, "proxy-0": first, "proxy-1": second}
        folder, labels = stack.folder / "prometheus", {"namespace": stack.namespace}
        with running_prometheus(prometheus, folder, targets, labels, scrape_seconds=scrape_seconds) as server:
            _declare_accounts(stack)
            wait_until(lambda: _available(first) == _available(second) == 4, "both proxies to have four accounts")
            time.sleep(3 * scrape_seconds)  # what is at rest is seen at rest
            rest_ended = time.time()
            _load(stack, urls, (first, second), seconds, 2 * scrape_seconds)
            wait_until(lambda: _available(first) == _available(second) == 4, "both proxies to have them back")
            time.sleep(3 * scrape_seconds)
            yield Watched(stack, server, rest_ended, time.time())


def _settings(metrics_addr: str) -> str:
    keys = "".join(
        f'[[clients.keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(_key(name).encode()).hexdigest()}"\n'
        for name in (*filter(None, CLIENTS), HURRIED)
    )
    return f"""timeout_secs = {TIMEOUT}
attempts = 2
max_connections = 4
metrics_addr = "{metrics_addr}"

[clients]
require = false
service_accounts = false
{keys}
[[clients.rules]]
match = ["key:{HURRIED}"]
requests_per_minute = 8
"""


def _key(client: str) -> str:
    return f"oap_key-of-a-test-for-{client}"


def _declare_accounts(stack: Stack) -> None:
    """Three that people logged in and one that needs nobody; one waits for a login, one is suspended."""
    for name, subject in PEOPLE.items():
        stack.apply(stack.account(name))
        stack.log_in(name, subject)
        five_hours, seven_days = USED[name]
        stack.simulator.use_windows(subject, five_hours=(five_hours, 9_000), seven_days=(seven_days, 260_000))
    stack.apply(stack.workload_account("inference"))
    stack.apply(stack.account("claude-4"))
    stack.apply(stack.account("spare", suspend=True))
    stack.wait_for_reason("inference", "Ready", "Available")
    stack.wait_for_reason("claude-4", "Ready", "LoginRequired")
    stack.wait_for_reason("spare", "Ready", "Suspended")


def _available(metrics_addr: str) -> int:
    health = httpx2.get(f"http://{metrics_addr}/health", trust_env=False).json()
    return [account["status"] for account in health["pool"]["accounts"]].count("available")


def _has_answered(metrics_addr: str, account: str) -> bool:
    """Through this proxy: from then on it counts how often a request left the account, beginning with 0."""
    text = httpx2.get(f"http://{metrics_addr}/metrics", trust_env=False).text
    return f'pool_failovers_total{{from_account="{account}"' in text


def _load(
    stack: Stack, urls: Sequence[str], metrics_addrs: Sequence[str], seconds: float, seconds_to_see: float
) -> None:
    stack.simulator.set(
        headers_delay=0.1, event_delay=0.02, cache_read_tokens=900, cache_creation_tokens=60,
        utilization_per_request=0.3 / (4 * seconds),
    )  # fmt: skip
    over = threading.Event()
    asking = [_Client(urls[number % 2], name) for number, name in enumerate((*CLIENTS, HURRIED) * 2)]
    impatient = [_Client(url, "laptop", patience=0.15) for url in urls]
    with ThreadPoolExecutor(len(asking) + len(impatient)) as threads:
        running = [threads.submit(client.ask_until, over) for client in (*asking, *impatient)]
        try:
            wait_until(
                lambda: all(_has_answered(one, "claude-2") for one in metrics_addrs),
                "the account that will run out to be in use in both proxies",
            )
            time.sleep(seconds_to_see)  # a counter has to be scraped before it counts what is to be seen
            _make_trouble(stack, seconds)
        finally:
            over.set()
        for one in running:
            one.result()


def _make_trouble(stack: Stack, seconds: float) -> None:
    """Each kind has its time, so that it can be told apart in a picture."""
    set_, begun = stack.simulator.set, time.monotonic()
    subject = PEOPLE["claude-2"]
    kinds: list[Callable[[], object]] = [
        lambda: _refresh(stack, "claude-1"),
        lambda: stack.simulator.exhaust(subject, reset_in=1800),
        lambda: set_(api_failures=6, api_failure_status=529),
        lambda: set_(token_failures=1, token_failure_status=500),
        lambda: _refresh(stack, "claude-3"),
        lambda: set_(headers_delay=TIMEOUT * 1.5),
        lambda: set_(headers_delay=0.1),
        lambda: _settle(stack, "claude-2"),
        lambda: _refresh(stack, "inference"),
        lambda: None,
    ]
    for number, kind in enumerate(kinds, 1):
        time.sleep(max(begun + seconds * number / len(kinds) - time.monotonic(), 0))
        kind()


def _refresh(stack: Stack, name: str) -> None:
    """As `kubectl oauthaccount refresh` asks for it."""
    request = f"oauthpool.dev/refresh-requested={time.time()}"
    stack.kubectl("annotate", "oauthaccount", name, request, "--overwrite")


def _settle(stack: Stack, name: str) -> None:
    """Its windows begin anew, and as `kubectl oauthaccount clear` asks, nobody waits for the end of its cooldown."""
    stack.simulator.recover(PEOPLE[name])
    stack.kubectl("annotate", "oauthaccount", name, "oauthpool.dev/cooldown-cleared=settled")


class _Client:
    """One that asks again and again, mostly for streams; with little patience it leaves before the answer's end."""

    def __init__(self, url: str, name: str, patience: float = 30) -> None:
        key = {"authorization": f"Bearer {_key(name)}"} if name else {}
        self._headers = {"anthropic-version": "2023-06-01", **key}
        self._url, self._name, self._patience = f"{url}/v1/messages", name, patience
        self._random = random.Random(f"{url} {name} {patience}")
        self._pause = (1.2, 2.0) if name == HURRIED else (0.05, 0.6)

    def ask_until(self, over: threading.Event) -> None:
        with httpx2.Client(timeout=self._patience, headers=self._headers, trust_env=False) as client:
            while not over.wait(self._random.uniform(*self._pause)):
                with suppress(httpx2.HTTPError):
                    self._ask(client)

    def _ask(self, client: httpx2.Client) -> None:
        words = " ".join(["hello"] * self._random.randint(5, 60))
        body = {
            "model": self._random.choice(MODELS),
            "max_tokens": 256,
            "stream": self._random.random() < 0.7,
            "messages": [{"role": "user", "content": words}],
        }
        conversation = f"{self._name or 'nobody'}-{self._random.randint(1, CONVERSATIONS)}"
        headers = {"x-claude-code-session-id": conversation, "content-type": "application/json"}
        with client.stream("POST", self._url, content=json.dumps(body), headers=headers) as answer:
            answer.read()
