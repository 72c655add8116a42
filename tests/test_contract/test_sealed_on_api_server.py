"""Real proxies whose tokens are sealed, a real API server, the proxy's own Role, and a stand-in for the operator.

`Upstream` answers every request and remembers with which access token it came.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.plane import free_port
from tests.support.control_plane.processes import Processes
from tests.support.proxy_server import token_of
from tests.support.sealing import SealingOperator
from tests.support.stack import Process, Stack, serve_accounts


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.tokens: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    server: Upstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["authorization"].removeprefix("Bearer "))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the library names it
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Pod:
    """One container with a proxy, that can be started again in its pod: what is in `keys` stays as long as the pod."""

    def __init__(self, processes: Processes, cluster: Stack, folder: Path, name: str, upstream: Upstream) -> None:
        self._processes, self.name = processes, name
        folder /= name
        self.keys = folder / "keys"
        self.keys.mkdir(parents=True)
        plane, token = cluster.control_plane, folder / "token"
        token.write_text(plane.service_account_token(cluster.namespace, "oauth-pool-proxy", seconds=24 * 3600))
        self._address = f"127.0.0.1:{free_port()}"
        self._client = httpx2.Client(base_url=f"http://{self._address}", timeout=30, trust_env=False)
        self._config = folder / "proxy.toml"
        self._config.write_text(
            f"""
[proxy]
listen_addr = "{self._address}"
upstream_url = "{upstream.url}"

[oauth]
source = "kubernetes"
key_dir = "{self.keys}"

[oauth.kubernetes]
server = "{plane.server}"
ca_file = "{plane.ca_file}"
token_file = "{token}"
namespace = "{cluster.namespace}"
"""
        )
        self.start()

    def start(self) -> None:
        self.process = Process(
            self._processes,
            self.name,
            [str(Path(sys.executable).with_name("oauth-pool-proxy")), "--config", str(self._config)],
            environment={"LOG_LEVEL": "trace", "POD_NAME": self.name, "POD_UID": f"uid-of-{self.name}"},
            on_line=None,
        )
        wait_until(lambda: "accepting requests" in self.process.output, f"{self.name} to run")

    def close(self) -> None:
        self._client.close()

    def get(self, path: str) -> httpx2.Response:
        return self._client.get(path)

    @property
    def readiness(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/ready").json()
        return answer

    @property
    def is_ready(self) -> bool:
        return self.get("/ready").status_code == 200

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


class Setting:
    def __init__(self, control_plane: ControlPlane, folder: Path, upstream: Upstream, stack: ExitStack) -> None:
        self.cluster = Stack(control_plane, folder)
        self.cluster.prepare_cluster()
        self.cluster.close()
        self.operator = SealingOperator(control_plane.api, self.cluster.namespace)
        self.operator.publish()
        self._folder, self._upstream = folder, upstream
        self._stack = stack
        self._processes = stack.enter_context(closing(Processes(folder, keep=True)))

    def pod(self, name: str) -> Pod:
        pod = Pod(self._processes, self.cluster, self._folder, name, self._upstream)
        return self._stack.enter_context(closing(pod))

    def is_declared(self, *names: str) -> None:
        wait_until(lambda: set(names) <= self.operator.proxies().keys(), f"{names} to be declared")

    def uses(self, pod: Pod, account: str, generation: int) -> None:
        """Returns when requests go upstream with this token."""

        def answered() -> bool:
            assert pod.get("/v1/models").status_code == 200
            return self._upstream.tokens[-1] == token_of(account, generation)

        wait_until(answered, f"{account}'s token of generation {generation} to be used")


@pytest.fixture
def setting(control_plane: ControlPlane, tmp_path: Path, upstream: Upstream) -> Iterator[Setting]:
    with ExitStack() as stack:
        yield Setting(control_plane, tmp_path, upstream, stack)


def test_a_proxy_declares_itself_has_its_tokens_and_says_how_many(setting: Setting) -> None:
    setting.operator.accounts = {"a": 1, "b": 1}
    setting.operator.publish()
    pod = setting.pod("proxy-0")
    setting.is_declared("proxy-0")
    one = setting.operator.objects()["proxy-0"]
    assert one["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "proxy-0", "uid": "uid-of-proxy-0"}
    ]
    assert one["spec"]["version"]
    wait_until(lambda: "the operator has not sealed" in pod.readiness.get("reason", ""), "the reason")
    assert pod.get("/health").json()["pool"]["waits_for"] == pod.readiness["reason"]
    assert pod.get("/v1/models").status_code == 503

    setting.operator.publish()
    wait_until(lambda: pod.is_ready, "the proxy to be ready")
    assert pod.get("/v1/models").status_code == 200
    wait_until(lambda: setting.operator.objects()["proxy-0"].get("status") == {"tokens": 2}, "the number of tokens")
    assert (pod.metric("pool_access_tokens_held"), pod.metric('pool_sealed_tokens_unopened{reason="missing"}')) == (
        2,
        0,
    )

    setting.operator.accounts = {"a": 1, "b": 2}
    setting.operator.publish()
    setting.uses(pod, "b", 2)
    assert pod.process.stop() == 0
    private = next(pod.keys.iterdir()).read_text().strip()
    for secret in (token_of("a"), token_of("b"), token_of("b", 2), private):
        assert secret not in pod.process.output


def test_without_the_operator_a_container_restarts_and_a_new_pod_is_not_ready(setting: Setting) -> None:
    setting.operator.accounts = {"a": 1}
    pod = setting.pod("proxy-0")
    setting.is_declared("proxy-0")
    setting.operator.publish()
    wait_until(lambda: pod.is_ready, "the proxy to be ready")
    setting.uses(pod, "a", 1)
    # from here on nobody seals anything
    pod.process.stop()
    pod.start()
    wait_until(lambda: pod.is_ready, "the proxy to be ready again")
    setting.uses(pod, "a", 1)
    other = setting.pod("proxy-1")
    setting.is_declared("proxy-0", "proxy-1")
    wait_until(lambda: "not sealed" in other.readiness.get("reason", ""), "the reason")
    assert not other.is_ready

    setting.operator.publish()  # it is back
    wait_until(lambda: other.is_ready, "the new one to be ready")
    setting.uses(other, "a", 1)


@pytest.mark.parametrize("done", ["deleted", "another key"])
def test_what_somebody_did_to_the_object_is_put_right_when_tokens_do_not_come(done: str, setting: Setting) -> None:
    setting.operator.accounts = {"a": 1}
    pod = setting.pod("proxy-0")
    setting.is_declared("proxy-0")
    key = setting.operator.proxies()["proxy-0"]
    setting.operator.publish()
    wait_until(lambda: pod.is_ready, "the proxy to be ready")
    setting.uses(pod, "a", 1)
    if done == "deleted":
        setting.operator.delete("proxy-0")
    else:
        patch = json.dumps({"spec": {"publicKey": "CQ" + "A" * 41 + "="}})
        setting.cluster.kubectl("patch", "oauthproxy", "proxy-0", "--type=merge", "-p", patch)
    setting.operator.accounts = {"a": 2}
    setting.operator.publish()
    assert pod.get("/v1/models").status_code == 200  # with the token of before
    wait_until(lambda: setting.operator.proxies().get("proxy-0") == key, "the object to be put right")
    setting.operator.publish()
    setting.uses(pod, "a", 2)


def test_running_proxies_need_neither_api_server_nor_operator(
    control_plane_binaries: Path, tmp_path: Path, upstream: Upstream
) -> None:
    with ExitStack() as stack:
        control_plane = stack.enter_context(ControlPlane(assets=control_plane_binaries))  # others must not notice
        serve_accounts(control_plane)
        setting = Setting(control_plane, tmp_path, upstream, stack)
        setting.operator.accounts = {"a": 1, "b": 1}
        pods = [setting.pod(f"proxy-{number}") for number in range(2)]
        setting.is_declared(*(pod.name for pod in pods))
        setting.operator.publish()
        for pod in pods:
            wait_until(lambda pod=pod: pod.metric("pool_access_tokens_held") == 2, "all tokens")  # type: ignore[misc]
        with asking(pods) as statuses:
            goes_on(statuses)
            control_plane.kill_api_server()
            goes_on(statuses)
            assert all(pod.is_ready for pod in pods)
            control_plane.start_api_server()
            goes_on(statuses)
            setting.operator.accounts = {"a": 2, "b": 2}
            setting.operator.publish()
            for pod in pods:
                setting.uses(pod, "a", 2)
                setting.uses(pod, "b", 2)
        assert set(statuses) == {200}


@contextmanager
def asking(pods: list[Pod]) -> Iterator[list[int]]:
    """Requests to these proxies for as long as the block lasts, and the statuses of their answers. 0: there was none."""
    statuses: list[int] = []
    ends = threading.Event()

    def ask(pod: Pod) -> None:
        while not ends.is_set():
            try:
                statuses.append(pod.get("/v1/models").status_code)
            except httpx2.HTTPError:
                statuses.append(0)

    threads = [threading.Thread(target=ask, args=(pod,)) for pod in pods for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def goes_on(statuses: list[int]) -> None:
    """Returns when some more requests have been answered."""
    count = len(statuses)
    wait_until(lambda: len(statuses) >= count + 50, "answers")
