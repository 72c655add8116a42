"""What the trial of the data plane runs on: a control plane of its own, the operator, a simulated provider, two proxies.

All of them reach the API server by way of a link that can fall silent.
"""

import hashlib
import json
import secrets
import signal

import httpx2

from tests.support.control_plane import ControlPlane
from tests.test_operator.crash_trials.api_link import ApiLink

from .pool_stack import PoolStack, subject_of

WORKLOADS, LOGINS = ("w1", "w2"), ("l1", "l2")
NAMES = (*WORKLOADS, *LOGINS)
MAPS = {"index": "oauth-pool", "tokens": "oauth-tokens"}


class DataPlaneStack(PoolStack):
    """Begin it with `begin`, once `link` runs."""

    link: ApiLink

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.link.port}"

    def begin(self, pause: float) -> None:
        """Until both proxies hold the tokens of all accounts. `pause`, in seconds, is that between two events of a stream."""
        self.start(with_proxy=False)
        self.simulator.set(event_delay=pause)
        for name in NAMES:
            self.apply(self.workload_account(name) if name in WORKLOADS else self.account(name))
        for name in LOGINS:
            self.log_in(name, subject_of(name))
        for name in WORKLOADS:
            self.wait_for_reason(name, "Ready", "Available")
        self.proxies = [self.join(f"proxy-{number}") for number in range(2)]
        for proxy in self.proxies:
            self.wait_until_it_holds(proxy, len(NAMES))

    @property
    def ports(self) -> list[int]:
        return [one.port for one in self.proxies]

    def kill_operator(self) -> None:
        """SIGKILL, and nobody starts another one."""
        self.operator.signal(signal.SIGKILL)
        self.processes.pop("operator").stop()

    # --- what stands in ConfigMaps -------------------------------------------------------------------------------------

    def data(self, which: str) -> dict[str, str]:
        """`index` or `tokens`, as text by account; empty when there is no such ConfigMap."""
        answer = self.control_plane.api.get(self._path(which))
        return dict(answer.json().get("data") or {}) if answer.is_success else {}

    def overwrite(self, which: str, data: dict[str, str | None]) -> None:
        """As somebody with too many rights would; null removes a key."""
        headers = {"content-type": "application/merge-patch+json"}
        answer = self.control_plane.api.patch(
            self._path(which), content=json.dumps({"data": data}), headers=headers, timeout=30
        )
        answer.raise_for_status()

    def delete(self, which: str) -> None:
        self.control_plane.api.delete(self._path(which), timeout=30).raise_for_status()

    def delete_lease(self) -> None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        for item in self.control_plane.api.get(path).raise_for_status().json()["items"]:
            self.control_plane.api.delete(f"{path}/{item['metadata']['name']}").raise_for_status()

    def has_lease(self) -> bool:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        answer = self.control_plane.api.get(path)
        return answer.is_success and any(item["spec"].get("holderIdentity") for item in answer.json()["items"])

    def is_right(self) -> bool:
        """Index and tokens list all accounts and nothing else, usable, and name the same token of each."""
        index, tokens = self.data("index"), self.data("tokens")
        if not set(index) == set(tokens) == set(NAMES):
            return False
        try:
            pairs = [(json.loads(index[name]), json.loads(tokens[name])) for name in NAMES]
        except ValueError:
            return False
        return all(
            one["status"] == "Available"
            and (one["generation"], one["fingerprint"]) == (other["generation"], other["fingerprint"])
            and set(other["sealed"]) == {proxy.name for proxy in self.proxies}
            for one, other in pairs
        )

    # --- which token is used -------------------------------------------------------------------------------------------

    def ask_for_tokens(self, request: str) -> None:
        for name in NAMES:
            self.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/refresh-requested={request}", "--overwrite")

    def in_use(self) -> list[set[str]]:
        """The fingerprints of the tokens that each proxy uses now."""
        mark = secrets.token_hex(8)
        with httpx2.Client(
            timeout=30, trust_env=False, verify=False
        ) as client:  # a TLS context would cost more than all
            for proxy in self.proxies:
                for _ in range(2 * len(NAMES)):
                    client.get(f"{proxy.url}/v1/models", headers={"x-trust": f"{mark}-{proxy.name}"})
        requests = [dict(request["headers"]) for request in self.simulator.requests("/v1/models")]
        return [
            {
                hashlib.sha256(headers["authorization"].removeprefix("Bearer ").encode()).hexdigest()[:16]
                for headers in requests
                if headers.get("x-trust") == f"{mark}-{proxy.name}"
            }
            for proxy in self.proxies
        ]

    def set_life(self, seconds: int | None) -> None:
        """How long tokens are good that the accounts with a login get from now on; None for as long as usual."""
        for name in LOGINS:
            self.simulator.call("PATCH", f"accounts/{subject_of(name)}", {"expires_in": seconds})

    def generations(self) -> dict[str, int]:
        """Of the tokens that the index names, by account."""
        return {name: json.loads(text).get("generation", 0) for name, text in self.data("index").items()}

    def fingerprints(self) -> dict[str, str]:
        """Of the tokens that the index names, by account."""
        return {name: json.loads(text).get("fingerprint", "") for name, text in self.data("index").items()}

    def _path(self, which: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/{MAPS[which]}"


def compact_history(plane: ControlPlane) -> None:
    """Have etcd forget every version that a watch might go on from. The API server is to be away meanwhile."""
    transport = httpx2.HTTPTransport(uds=str(plane.folder / "etcd.sock"))
    with httpx2.Client(transport=transport, base_url="http://etcd", timeout=30) as etcd:
        for _ in range(200):  # so that what was the newest version is an old one
            answer = etcd.post("/v3/kv/put", json={"key": "dHJ1c3Q=", "value": "dHJ1c3Q="})
        revision = answer.raise_for_status().json()["header"]["revision"]
        etcd.post("/v3/kv/compaction", json={"revision": revision}).raise_for_status()
