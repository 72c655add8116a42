"""One operator with everything around it: namespace, volumes, provider, accounts; started, killed, looked at."""

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import TypeVar

import httpx2
import yaml

from tests.support.control_plane import ControlPlane
from tests.support.control_plane.plane import free_port

from .api_link import ApiLink
from .cluster_view import ClusterView, Json
from .evidence import Seen, look
from .faults import Sabotage
from .nursery import Nursery
from .operator_process import OperatorProcess
from .provider import CLIENT_ID, REDIRECT_URI, Provider
from .verdict import Account, at_any_time, is_settled

RBAC = Path(__file__).parents[3] / "k8s/base/rbac.yaml"
LOGIN_SECONDS = 60.0
SETTLE_SECONDS = 60.0

T = TypeVar("T")


class Rig:
    """Use it `running`. Whatever is found wrong on the way is in `complaints`."""

    def __init__(self, plane: ControlPlane, size: int, random: Random) -> None:
        self.random = random
        self.provider = Provider()
        self.accounts = [Account(f"a{index}", f"a{index}@trials.invalid") for index in range(size)]
        self.complaints: list[tuple[Account, str]] = []
        self.lives = self.kills = 0
        self.life_began = 0.0
        self.lines: deque[str] = deque(maxlen=2000)  # what the operator has printed, in all its lives
        self._plane = plane

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From nothing to an operator with all accounts logged in; everything ends with the context."""
        async with AsyncExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-trials-")))
            self.sabotage = Sabotage(self.folder / "sabotage.json")
            self.state, self.access = self.folder / "state", self.folder / "access"
            for folder in (self.state, self.access):
                folder.mkdir()
            stack.enter_context(self.provider.running())
            self.link = ApiLink(httpx2.URL(self._plane.server).port or 443)
            await stack.enter_async_context(self.link.running())
            (self.folder / "process").mkdir()
            self._nursery = Nursery()
            stack.callback(self._nursery.close)
            # for plain HTTP; each client with a TLS context costs as much as a trial
            self.http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, verify=False, timeout=30))
            client = await stack.enter_async_context(self._client())
            self.namespace = await asyncio.to_thread(self._prepare)
            self.view = ClusterView(client, self.namespace, self._on_entry)
            async with asyncio.TaskGroup() as watching:
                tasks = [
                    watching.create_task(self.view.watch_accounts()),
                    watching.create_task(self.view.watch_index()),
                ]
                self.start()
                try:
                    await self._create_accounts()
                    yield
                finally:
                    self.process.kill()
                for task in tasks:
                    task.cancel()

    # --- the operator's process --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.lives += 1
        self.life_began = time.time()
        self.process = OperatorProcess(
            self._nursery,
            self.folder / "process" / f"operator-{self.lives}",
            self.folder / "operator.toml",
            self.folder / "kubeconfig",
            self.sabotage.path,
            lines=self.lines,
        )

    async def kill(self) -> bool:
        """SIGKILL; False when it had ended by itself. Afterwards the API server has done what it was still asked for."""
        was_running = self.process.is_running
        self.kills += was_running
        self.process.kill()
        await asyncio.sleep(0.05)
        return was_running

    async def settle(self) -> bool:
        """Until all accounts have come to rest; an operator that ends by itself is started again, as a kubelet does.

        False, and a complaint of each account, when they do not.
        """
        unsettled, deadline = self.accounts, time.monotonic() + SETTLE_SECONDS
        while True:
            unsettled = [account for account in unsettled if not is_settled(account, self.look(account))]
            if not unsettled and await self._is_up():
                return True
            if time.monotonic() > deadline:
                break
            if not self.process.is_running:
                self.start()
            await asyncio.sleep(0.05)
        for account in unsettled or self.accounts:
            self.complain(account, f"not usable {SETTLE_SECONDS:g} s after the restart: {self.look(account)}")
        return False

    async def _is_up(self) -> bool:
        with suppress(httpx2.TransportError):
            return (await self.http.get(f"{self._health_url}/readyz")).is_success
        return False

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, account: Account) -> Seen:
        """What is there now; what must never be there becomes a complaint."""
        seen = look(
            account.name,
            account.subject,
            account.uid,
            view=self.view,
            provider=self.provider,
            state=self.state,
            access=self.access,
        )
        for wrong in at_any_time(account, seen):
            self.complain(account, wrong)
        return seen

    def complain(self, account: Account, wrong: str) -> None:
        if (account, wrong) not in self.complaints:
            account.note(f"WRONG: {wrong}")
            self.complaints.append((account, wrong))

    def _on_entry(self, name: str, entry: Json | None) -> None:
        """Every single state of the index is looked at, not only those that last."""
        account = next(account for account in self.accounts if account.name == name)
        if entry is None:
            self.complain(account, "the index no longer lists it")
        else:
            account.note(f"index: g{entry['generation']} {entry['status']}")
            self.look(account)

    # --- logging in --------------------------------------------------------------------------------------------------

    async def log_in(self, account: Account) -> None:
        """A person logs in; the operator has to be well."""
        before = self._authorization_url(account)
        if account.logins:
            await self.view.annotate(account.name, "login-requested", str(account.logins))
        url = await until(
            lambda: found if (found := self._authorization_url(account)) != before else None, f"login of {account.name}"
        )
        account.logins += 1
        self.provider.behave(account.subject)
        pasted = self.provider.approve(url, account.subject)
        await self.view.annotate(account.name, "authorization-code", pasted)
        await until(lambda: self.provider.families(account.subject) == account.logins, f"exchange of {account.name}")
        latest = self.provider.latest(account.subject)
        await until(
            lambda: (
                (seen := self.look(account)).state is not None
                and seen.state.number == latest
                and is_settled(account, seen)
            ),
            f"{account.name} to be logged in",
        )
        account.note(f"logged in, {self.look(account)}")

    def _authorization_url(self, account: Account) -> str:
        url: str = self.view.status(account.name).get("login", {}).get("authorizationURL", "")
        return url

    async def _create_accounts(self) -> None:
        async def create(account: Account) -> None:
            account.uid = await self.view.create_account(account.name, "simulator")
            await self.log_in(account)

        await asyncio.gather(*(create(account) for account in self.accounts))

    # --- the cluster -------------------------------------------------------------------------------------------------

    def _client(self) -> httpx2.AsyncClient:
        """As the admin, on a way of its own: what the operator's link does is nothing to us."""
        headers = {"authorization": f"Bearer {self._plane.admin_token}"}
        return httpx2.AsyncClient(
            base_url=self._plane.server, headers=headers, verify=self._plane.tls, trust_env=False, timeout=60
        )

    def _prepare(self) -> str:
        """A namespace with the Roles that are shipped, and the operator's two files."""
        namespace = self._plane.namespace()
        documents = list(yaml.safe_load_all(RBAC.read_text()))
        for document in documents:
            document["metadata"]["namespace"] = namespace
            for subject in document.get("subjects", ()):
                subject["namespace"] = namespace
        self._plane.apply(yaml.safe_dump_all(documents))
        kubeconfig = self._plane.kubeconfig_for(namespace, "oauth-pool-operator").read_text()
        through_link = kubeconfig.replace(self._plane.server, f"https://127.0.0.1:{self.link.port}")
        (self.folder / "kubeconfig").write_text(through_link)
        (self.folder / "operator.toml").write_text(self._config(namespace))
        return namespace

    def _config(self, namespace: str) -> str:
        health = f"127.0.0.1:{free_port()}"
        self._health_url = f"http://{health}"
        return f"""
[operator]
namespace = "{namespace}"
state_dir = "{self.state}"
access_dir = "{self.access}"
health_listen_addr = "{health}"
metrics_listen_addr = "127.0.0.1:{free_port()}"
# all at once: what waits for its turn is not worth a kill
max_concurrent_refreshes = {len(self.accounts)}

[publication]
tokens = "volume"

[providers.simulator.authorization_code]
client_id = "{CLIENT_ID}"
authorization_endpoint = "{self.provider.url}/oauth/authorize"
token_endpoint = "{self.provider.url}/v1/oauth/token"
redirect_uri = "{REDIRECT_URI}"
scopes = ["inference"]
token_body = "json"
"""


async def until(condition: Callable[[], T | None], what: str) -> T:
    """The first true answer."""
    try:
        async with asyncio.timeout(LOGIN_SECONDS):
            while True:
                if answer := condition():
                    return answer
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {LOGIN_SECONDS:g} s: {what}") from None
