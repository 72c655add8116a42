"""The proxy between an official client and the simulator, in either of its modes: all of them on sockets.

What a client needs to know of the mode is its key: an access token of the simulator's in passthrough, and in pool mode
any text at all.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

from tests.simulator.bearer import OAUTH_BETA
from tests.simulator.clock import Clock as SimulatorClock
from tests.simulator.recorder import RecordedRequest
from tests.simulator.server import SimulatorServer
from tests.simulator.simulator import Simulator
from tests.support.proxy_server import Clock, PoolFolder, proxy_config, rfc3339, running_proxy

Mode = Literal["passthrough", "pool"]
ALICE, BOB = SUBJECTS = ("alice@example.com", "bob@example.com")
MODEL = "claude-simulated-sonnet"
DUMMY_KEY = "means-nothing-to-the-pool"


@dataclass(frozen=True)
class Gateway:
    mode: Mode
    url: str
    upstream_url: str
    key: str = field(repr=False)
    simulator: Simulator = field(repr=False)
    stop_upstream: Callable[[], None] = field(repr=False)

    def has_all_accounts(self) -> bool:
        # not with a client library, which loads the trust store for every call
        with urlopen(f"{self.url}/health") as answer:
            document = json.load(answer)
        return bool(document["status"] == "healthy")

    def last_of(self, count: int) -> RecordedRequest:
        """The last of so many requests that reached the upstream, each with another account."""
        requests = self.simulator.requests("/v1/messages")
        assert len({request.subject for request in requests}) == len(requests) == count
        return requests[-1]

    def request(self, path: str = "/v1/messages") -> RecordedRequest:
        """The one request that reached the upstream."""
        (request,) = self.simulator.requests(path)
        return request


@contextmanager
def running_gateway(
    mode: Mode, folder: Path, *, status: str = "Available", clock: Callable[[], float] | None = None, **proxy: object
) -> Iterator[Gateway]:
    """A simulator, and a proxy in front of it; in pool mode Alice's and Bob's accounts have this status in the index."""
    clock = clock or Clock()  # time stands still: what is said about it is exact, and nothing expires
    with SimulatorServer(clock=SimulatorClock(clock)) as server:
        key, oauth = DUMMY_KEY, None
        if mode == "pool":
            oauth = _pool(folder, server.simulator, status, clock() + 3600)
        else:
            # what makes the API take access tokens, and no client sends by itself
            proxy["headers"] = [{"name": "anthropic-beta", "value": OAUTH_BETA}]
            key = server.simulator.issue_access_token(ALICE)
        with running_proxy(proxy_config(server.url, oauth, **proxy), clock) as running:
            yield Gateway(mode, f"http://127.0.0.1:{running.port}", server.url, key, server.simulator, server.stop)


def _pool(folder: Path, simulator: Simulator, status: str, expires: float) -> dict[str, object]:
    pool = PoolFolder(folder)
    for subject in SUBJECTS:
        name, token = subject.partition("@")[0], simulator.issue_access_token(subject)
        access = {"generation": 1, "access_token": token, "expires": rfc3339(expires)}
        (pool.access / f"uid-{name}.json").write_text(json.dumps(access))
        fingerprint = hashlib.sha256(token.encode()).hexdigest()[:16]
        pool.write_entry(name, status=status, fingerprint=fingerprint, expires=rfc3339(expires))
    return pool.oauth()
