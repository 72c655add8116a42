"""What the trial of hygiene runs on: operator and proxy that can stumble, with every kind of secret that a pool can have."""

import hashlib
import json
import secrets
import signal
import sys
from pathlib import Path

import httpx2
import yaml

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.plane import free_port
from tests.support.stack import CLIENT_ID, WORKLOAD, Stack

from .canaries import Canaries


class HygieneStack(Stack):
    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self.client_secret, self.client_key = (f"canary-{secrets.token_urlsafe(32)}" for _ in range(2))
        self.monitoring_url = f"http://127.0.0.1:{free_port()}"
        super().__init__(
            control_plane, folder, log_level="trace", tokens="sealed", proxy_settings=self._clients(control_plane)
        )
        self.secret_file, self._orders = folder / "client-secret", folder / "stumbles.json"
        self.secret_file.write_text(self.client_secret)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.logs: list[str] = []
        """Of processes that have been killed."""
        self.stumble()

    def _clients(self, control_plane: ControlPlane) -> str:
        return f"""
metrics_addr = "{self.monitoring_url.removeprefix("http://")}"

[clients]
require = false

[clients.kubernetes]
server = "{control_plane.server}"
ca_file = "{control_plane.ca_file}"

[[clients.keys]]
name = "canary"
sha256 = "{hashlib.sha256(self.client_key.encode()).hexdigest()}"
"""

    def stumble(self, *names: str) -> None:
        """From now on these functions of operator and proxy raise, and no others; see `stumbling`."""
        new = self._orders.with_suffix(".new")
        new.write_text(json.dumps(dict.fromkeys(names, True)))
        new.rename(self._orders)

    def stumbles(self, name: str) -> int:
        """How often it has happened."""
        file = Path(f"{self._orders}.{name}")
        return file.stat().st_size if file.exists() else 0

    @property
    def is_refreshing(self) -> bool:
        return any(self.state_dir.rglob("journal.json"))

    def kill(self, name: str) -> None:
        """SIGKILL, and a start anew."""
        self.processes[name].signal(signal.SIGKILL)
        ended = self.processes.pop(name)
        ended.stop()
        self.logs.append(ended.output)
        if name == "operator":
            self.start_operator()
        else:
            self.start_proxy()

    def wait_for_tokens(self, accounts: int) -> None:
        def held() -> int:
            answer = httpx2.get(f"{self.monitoring_url}/health")
            return int(answer.json()["pool"]["accounts_available"])

        wait_until(lambda: held() >= accounts, f"the proxy to have {accounts} accounts", 60)

    # --- what there is to look for, and where --------------------------------------------------------------------------

    def canaries(self) -> Canaries:
        """Everything that went through the provider, and what the provider does not know of."""
        canaries = Canaries()
        by_kind: dict[str, list[str]] = self.simulator.call("GET", "secrets")
        for kind, values in by_kind.items():
            if kind != "state":  # it stands in every authorization URL
                canaries.add(kind, *values)
        canaries.add("client secret", self.client_secret)
        canaries.add("client key", self.client_key)
        canaries.add("proxy's private key", (self.folder / "proxy" / "private-key").read_text().strip())
        operator = yaml.safe_load(Path(self.as_operator()["KUBECONFIG"]).read_text())
        canaries.add("operator's ServiceAccount token", operator["users"][0]["user"]["token"])
        canaries.add("proxy's ServiceAccount token", (self.folder / "proxy" / "token").read_text().strip())
        return canaries

    def sessions(self) -> list[str]:
        """Verifiers and states of logins that are open, from the state volume."""
        documents = [json.loads(path.read_text()) for path in self.state_dir.rglob("login.json")]
        return [document["verifier"] for document in documents if document.get("verifier")]

    def places(self) -> dict[str, str]:
        """Everything that somebody may read, while the processes run."""
        kinds = self.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
        listed = ",".join(kind for kind in kinds if not kind.endswith("metrics.k8s.io"))
        places = {
            "API objects": self.kubectl("get", listed, "-o", "json", "--show-managed-fields"),
            "Events": self.kubectl("get", "events"),
            "logs of the killed": "\n".join(self.logs),
        }
        pages = {
            "operator": [self.metrics_url, f"{self.metrics_url}/metrics", *self._probes()],
            "proxy": [self.monitoring_url, *(f"{self.monitoring_url}/{own}" for own in ("health", "ready", "metrics"))],
            "proxy's port": [f"{self.proxy_url}/{own}" for own in ("health", "ready")],
        }
        for name, urls in pages.items():
            places[f"pages of the {name}"] = "\n".join(httpx2.get(url).text for url in urls)
        for name in ("operator", "proxy"):
            process = Path("/proc") / str(self.processes[name].pid)
            places[f"log of the {name}"] = self.processes[name].output
            for file in ("cmdline", "environ"):
                places[f"{file} of the {name}"] = (process / file).read_bytes().decode(errors="replace")
        return places | self._files()

    def _probes(self) -> list[str]:
        return [f"{self.health_url}/{probe}" for probe in ("healthz", "readyz")]

    def _files(self) -> dict[str, str]:
        """Whatever was written to disk outside of the state volume, without what was put there for the programs to read,
        and without their output, which is looked at as such."""
        given = {self.secret_file, self.folder / "proxy" / "token", self.folder / "proxy" / "private-key"}
        found = [path for path in self.folder.rglob("*") if path.is_file() and path not in given]
        others = [path for path in found if not path.is_relative_to(self.state_dir) and path.suffix != ".log"]
        contents = {path: path.read_bytes().decode(errors="replace") for path in others}
        return {"other files": "\n".join(f"{path}\n{content}" for path, content in contents.items())}

    def core_limits(self) -> dict[str, str]:
        """The limits on core files, soft and hard, by process."""
        limits = {}
        for name in ("operator", "proxy"):
            lines = Path(f"/proc/{self.processes[name].pid}/limits").read_text().splitlines()
            limits[name] = next(line for line in lines if line.startswith("Max core file size"))
        return limits

    # --- how it starts -------------------------------------------------------------------------------------------------

    def service_account_token(self, audience: str) -> str:
        return self.control_plane.service_account_token(self.namespace, WORKLOAD, audience)

    def _start(self, name: str, command: list[str], *, environment: dict[str, str] | None = None) -> None:
        mine = {"TMPDIR": str(self.temporary), "HOME": str(self.temporary), "STUMBLES": str(self._orders)}
        if name == "simulator":
            command = [*command, "--client-secret", self.client_secret]
        else:
            command = [sys.executable, "-m", "tests.trust.stumbling", name, *command[1:]]
        super()._start(name, command, environment={**(environment or {}), **mine})

    def _operator_config(self) -> str:
        client = f'client_id = "{CLIENT_ID}"\n'
        return super()._operator_config().replace(client, f'{client}client_secret_file = "{self.secret_file}"\n')
