"""What hostile actors act against: a whole pool with the Roles and admission policies that are shipped, and tokens of theirs."""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.errors import NotInTime
from tests.support.stack import Stack
from tests.test_manifests.manifests import cluster_part, of_kind
from tests.test_manifests.proxies import APPLY, Caller, pod_owner, pod_token

from .program import Report

ACCOUNTS = ("alice", "bob")
MESSAGE = {"model": "claude-test", "max_tokens": 16, "messages": [{"role": "user", "content": "a question"}]}
COLUMNS = ("who", "what they tried", "times", "what came of it")


@dataclass
class Log:
    """What was tried, and what should not have come of it."""

    who: str
    report: Report

    def add(self, what: str, times: int, came: str, *, kept: bool) -> None:
        self.report.rows.append((self.who, what, times, came))
        if not kept:
            self.report.failures.append(f"{self.who}: {what}: {came}")


class HostileStack(Stack):
    """The honest proxy is the pod `proxy-0`."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self.client_key = f"key-{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(self.client_key.encode()).hexdigest()
        clients = f'[clients]\nservice_accounts = false\n[[clients.keys]]\nname = "good"\nsha256 = "{digest}"'
        super().__init__(control_plane, folder, tokens="sealed", proxy_settings=clients)

    def prepare_cluster(self) -> None:
        super().prepare_cluster()
        for kind in ("ClusterRole", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
            for document in of_kind(cluster_part(), kind):
                self.control_plane.apply(document)
        self.kubectl("create", "serviceaccount", "author")
        for role in ("oauth-pool-view", "oauth-pool-edit"):
            author = f"--serviceaccount={self.namespace}:author"
            self.kubectl("create", "rolebinding", f"author-{role}", f"--clusterrole={role}", author)

    def begin(self) -> None:
        self.start()
        for name in ACCOUNTS:
            self.apply(self.account(name))
            self.log_in(name, f"{name}@example.com")
        wait_until(lambda: self.ask().is_success, "the honest proxy serves", 60)
        wait_until(lambda: self._policies_hold(), "the policies are in force", 60)

    def _policies_hold(self) -> bool:
        """Of a write that the Role allows: it is refused."""
        return not self.pod("probe").declare("probe-of-nobody", owners=[]).is_success

    # --- who acts ------------------------------------------------------------------------------------------------------

    def author(self) -> Caller:
        """May look at accounts and change them, and nothing else."""
        return Caller(self.control_plane, self.namespace, self._token("author"))

    def pod(self, name: str) -> Caller:
        """The proxy in the pod of that name, with what its Role allows."""
        return Caller(self.control_plane, self.namespace, pod_token(self.control_plane, self.namespace, name))

    def _token(self, service_account: str) -> str:
        return self.control_plane.service_account_token(self.namespace, service_account)

    def request(
        self, caller: Caller, method: str, path: str, body: object = None, kind: str = APPLY
    ) -> httpx2.Response:
        """Any request to the API server, below the namespace unless `path` is absolute."""
        where = path if path.startswith("/") else f"/api/v1/namespaces/{self.namespace}/{path}"
        headers = {"authorization": f"Bearer {caller.token}", "content-type": kind}
        return self.control_plane.api.request(method, where, json=body, headers=headers, timeout=60)

    def received(self) -> int:
        """How many requests have arrived upstream, at whatever path."""
        return len(self.simulator.call("GET", "requests")["requests"])

    # --- whether all is well -------------------------------------------------------------------------------------------

    def ask(self, key: str | None = None) -> httpx2.Response:
        """As an honest client asks."""
        headers = {"x-api-key": self.client_key if key is None else key}
        return httpx2.post(f"{self.proxy_url}/v1/messages", json=MESSAGE, headers=headers, timeout=30)

    def is_well(self) -> bool:
        """Both programs run, an honest client is served, and a new account of somebody else can be logged in."""
        name = f"new-{secrets.token_hex(4)}"
        self.apply(self.account(name))
        self.log_in(name, f"{name}@example.com")
        self.kubectl("delete", "oauthaccount", name, "--timeout=60s")
        return self.operator.is_running and self.proxy.is_running and self.ask().is_success

    def comes_true(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> bool:
        try:
            wait_until(condition, what, seconds)
        except NotInTime:
            return False
        return True

    def has_reason(self, name: str, wanted: str) -> bool:
        """Whether the account's condition Ready gets to this reason, or to this status."""

        def is_so() -> bool:
            ready = self.condition(name, "Ready")
            return wanted in (ready.get("reason"), ready.get("status"))

        return self.comes_true(is_so, f"{name}: {wanted}")

    # --- how it starts -------------------------------------------------------------------------------------------------

    def _start(self, name: str, command: list[str], *, environment: dict[str, str] | None = None) -> None:
        mine = {}
        if name == "proxy":
            token = pod_token(self.control_plane, self.namespace, "proxy-0")
            (self.folder / "proxy" / "token").write_text(token)
            mine = {"POD_UID": pod_owner(self.control_plane, self.namespace, "proxy-0")["uid"]}
        super()._start(name, command, environment={**(environment or {}), **mine})


@contextmanager
def hostile_stack(plane: ControlPlane) -> Iterator[HostileStack]:
    with TemporaryDirectory(prefix="oauth-pool-") as folder:
        stack = HostileStack(plane, Path(folder))
        try:
            stack.begin()
            yield stack
        finally:
            stack.close()
