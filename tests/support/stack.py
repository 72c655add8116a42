"""The whole system on this machine: control plane, provider simulator, operator and proxy, each a process of its own.

Both the demo and the end-to-end tests use it. Operator and proxy are the real console scripts and act as their
ServiceAccounts, with the Roles that are shipped; what they print can be read while they run.
"""

import contextlib
import itertools
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.simulator.bearer import OAUTH_BETA
from tests.simulator.token_endpoint import FEDERATION_BETA
from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.errors import NotInTime
from tests.support.control_plane.plane import free_port
from tests.support.control_plane.processes import Processes

ROOT = Path(__file__).parents[2]
OPERATOR = (str(Path(sys.executable).with_name("oauth-pool-operator")),)
CLIENT_ID = "simulator-client"
RULE = "fdrl_demo"
ORGANIZATION = "00000000-0000-0000-0000-000000000001"
WORKLOAD = "inference"


def serve_accounts(control_plane: ControlPlane) -> None:
    """Install the CRDs; returns when OAuthAccounts and OAuthProxies can be listed.

    Its condition Established is not enough: kubectl fails when it waits before there are any conditions, and for a
    moment afterwards the API server answers 429, "storage is (re)initializing".
    """
    control_plane.apply(ROOT / "crds")
    kinds = [f"/apis/oauthpool.dev/v1alpha1/{plural}" for plural in ("oauthaccounts", "oauthproxies")]
    wait_until(lambda: all(control_plane.api.get(path).is_success for path in kinds), "both kinds can be listed")


class Process:
    """A process whose lines are kept, and handed to `on_line` as they come. It cannot outlive this one."""

    def __init__(
        self,
        processes: Processes,
        name: str,
        command: list[str],
        *,
        environment: dict[str, str],
        on_line: Callable[[str, str], None] | None,
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._processes = processes
        self._on_line = on_line
        self._has_ended = False
        # each start has a log of its own: a restart does not repeat the lines of before
        self._key = f"{name}-{next(_numbers)}"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # for `-m tests.simulator`
        self.pid = processes.start(
            self._key, *command, environment={"PYTHONUNBUFFERED": "1", "PYTHONPATH": path} | environment
        )
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        return self._processes.is_running(self._key)

    def signal(self, number: int) -> None:
        """To the process itself, by its id."""
        os.kill(self.pid, number)

    def stop(self, *, seconds: float = 60) -> int | None:
        """SIGTERM, and what it ended with; killed when it does not end in time."""
        code = self._processes.stop(self._key, seconds)
        self._has_ended = True
        self._reader.join(5)
        return code

    def _follow(self) -> None:
        with self._processes.log_file(self._key).open() as log:
            rest = ""
            while True:
                is_last_look = self._has_ended
                *lines, rest = (rest + log.read()).split("\n")
                for line in lines:
                    self.lines.append(line)
                    if self._on_line is not None:
                        self._on_line(self.name, line)
                if is_last_look:
                    return
                time.sleep(0.02)


_numbers = itertools.count(1)


class SimulatorClient:
    """The simulator's own API, over HTTP."""

    def __init__(self, url: str, *, verify: ssl.SSLContext | bool = True) -> None:
        self.url = url
        self._verify = verify

    def call(self, method: str, path: str, body: object = None) -> Any:
        url = f"{self.url}/_simulator/{path}"
        response = httpx2.request(method, url, json=body, timeout=30, verify=self._verify)
        assert response.status_code < 400, response.text
        return response.json()

    def approve(self, authorization_url: str, subject: str) -> str:
        """Log in as `subject` and approve; returns `code#state`, what the provider's page shows."""
        pasted: str = self._approved(authorization_url, subject)["pasted"]
        return pasted

    def redirect_of(self, authorization_url: str, subject: str) -> str:
        """Log in as `subject` and approve; returns where the browser is sent then."""
        url: str = self._approved(authorization_url, subject)["redirect_url"]
        return url

    def _approved(self, authorization_url: str, subject: str) -> dict[str, Any]:
        given = {"authorization_url": authorization_url, "subject": subject}
        answer: dict[str, Any] = self.call("POST", "approve", given)
        return answer

    def approve_device(self, user_code: str, subject: str) -> None:
        """Enter the code on the provider's page as `subject`, and approve."""
        self.call("POST", "device/approve", {"user_code": user_code, "subject": subject})

    def deny_device(self, user_code: str) -> None:
        self.call("POST", "device/deny", {"user_code": user_code})

    def issue_tokens(self, subject: str, *, expires_in: int = 28_800) -> dict[str, Any]:
        """A pair of tokens, as after a login that somebody else's program made."""
        tokens: dict[str, Any] = self.call("POST", f"accounts/{subject}/issue-tokens", {"expires_in": expires_in})
        return tokens

    def exhaust(self, subject: str, *, window: str = "5h", reset_in: int) -> None:
        """The account's window is used up for that many seconds."""
        self.call("POST", f"accounts/{subject}/exhaust", {"window": window, "reset_in": reset_in})

    def use_windows(self, subject: str, **used: tuple[float, int]) -> None:
        """So much of a window is used (1 is all), and it begins anew in so many seconds: `five_hours=(0.8, 600)`."""
        for name, (utilization, reset_in) in used.items():
            window = {"five_hours": "5h", "seven_days": "7d"}[name]
            how_much = {"utilization": utilization, "window": window, "reset_in": reset_in}
            self.call("POST", f"accounts/{subject}/utilization", how_much)

    def recover(self, subject: str) -> None:
        self.call("POST", f"accounts/{subject}/recover")

    def revoke_grants(self, subject: str) -> None:
        """The account's grants are withdrawn: a refresh is answered with `invalid_grant`."""
        self.call("POST", f"accounts/{subject}/revoke-grants")

    def set(self, **switches: object) -> None:
        self.call("PATCH", "switches", switches)

    def reset(self) -> None:
        """Switches as they were, and nothing recorded."""
        self.call("DELETE", "switches")
        self.call("DELETE", "requests")

    def subjects(self) -> list[str]:
        return [account["subject"] for account in self.call("GET", "accounts")["accounts"]]

    def requests(self, path: str) -> list[dict[str, Any]]:
        """What was received at `path`, the oldest first."""
        found: list[dict[str, Any]] = self.call("GET", f"requests?path={path}")["requests"]
        return found

    def secrets(self) -> list[str]:
        """Every token, code, verifier, state and assertion that was ever issued or received."""
        by_kind: dict[str, list[str]] = self.call("GET", "secrets")
        return [secret for secrets in by_kind.values() for secret in secrets]


class Stack:
    """Everything, in one namespace of a control plane."""

    def __init__(
        self,
        control_plane: ControlPlane,
        folder: Path,
        *,
        operator: Sequence[str] = OPERATOR,
        log_level: str = "info",
        on_line: Callable[[str, str], None] | None = None,
        proxy_settings: str = "",
        tokens: str = "volume",
        host: str = "127.0.0.1",
    ) -> None:
        """`tokens` is how they reach the proxies: by a volume, or sealed. Operator and proxy listen on `host`."""
        self.control_plane = control_plane
        self._proxy_settings = proxy_settings
        self.tokens = tokens
        self._operator = operator
        self.folder = folder
        self.namespace = control_plane.namespace()
        self.proxy_url = f"http://{host}:{free_port()}"
        self.metrics_url = f"http://{host}:{free_port()}"
        self.health_url = f"http://{host}:{free_port()}"
        self.loopback_uri = f"http://localhost:{free_port()}/callback"
        self.state_dir, self.access_dir = folder / "state", folder / "access"
        self._log_level = log_level
        self._on_line = on_line
        self.processes: dict[str, Process] = {}
        self._guard = Processes(folder, keep=True)
        for path in (self.state_dir, self.access_dir):
            path.mkdir()

    # --- the cluster -------------------------------------------------------------------------------------------------

    def prepare_cluster(self) -> None:
        """ServiceAccounts and Roles as shipped, the workload's ServiceAccount, and leave to ask for its tokens."""
        shipped = list(yaml.safe_load_all((ROOT / "k8s/base/rbac.yaml").read_text()))
        for document in shipped:
            document["metadata"]["namespace"] = self.namespace
            for subject in document.get("subjects", ()):
                subject["namespace"] = self.namespace
        self.control_plane.apply(yaml.safe_dump_all([*shipped, *self._workload()]))

    def _workload(self) -> list[dict[str, Any]]:
        named, group = {"name": "inference-token", "namespace": self.namespace}, "rbac.authorization.k8s.io"
        rule = {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "resourceNames": [WORKLOAD],
            "verbs": ["create"],
        }
        operator = {"kind": "ServiceAccount", "name": "oauth-pool-operator", "namespace": self.namespace}
        of_role = {"apiGroup": group, "kind": "Role", "name": named["name"]}
        return [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named | {"name": WORKLOAD}},
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": named, "rules": [rule]},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": named,
                "roleRef": of_role,
                "subjects": [operator],
            },
        ]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.control_plane.kubectl("-n", self.namespace, *arguments, input=stdin)

    def get(self, name: str) -> dict[str, Any]:
        account: dict[str, Any] = json.loads(self.kubectl("get", "oauthaccount", name, "-o", "json"))
        return account

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        conditions = self.get(name).get("status", {}).get("conditions", [])
        return next((entry for entry in conditions if entry["type"] == kind), {})

    def wait_for_reason(self, name: str, kind: str, reason: str, *, seconds: float = 30) -> dict[str, Any]:
        """The condition, once it has that reason."""
        try:
            return wait_until(
                lambda: found if (found := self.condition(name, kind)).get("reason") == reason else None,
                f"{name}: {kind}/{reason}",
                seconds=seconds,
            )
        except NotInTime as error:
            status = self.get(name).get("status")
            operator = self.processes["operator"].output if "operator" in self.processes else ""
            raise AssertionError(f"{error}\nstatus: {json.dumps(status, indent=1)}\noperator:\n{operator}") from None

    def index(self) -> dict[str, Any]:
        """The pool index, decoded."""
        data = json.loads(self.kubectl("get", "configmap", "oauth-pool", "-o", "json")).get("data", {})
        return {name: json.loads(value) for name, value in data.items()}

    # --- accounts ----------------------------------------------------------------------------------------------------

    def account(self, name: str, **spec: object) -> dict[str, Any]:
        """A manifest; with no more said, an AuthorizationCode account."""
        return {
            "apiVersion": "oauthpool.dev/v1alpha1",
            "kind": "OAuthAccount",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"provider": "simulator", "grant": "AuthorizationCode", **spec},
        }

    def workload_account(self, name: str, **spec: object) -> dict[str, Any]:
        workload = {"serviceAccountName": WORKLOAD, "federationRuleID": RULE, "organizationID": ORGANIZATION}
        return self.account(name, grant="WorkloadIdentity", workloadIdentity=workload, **spec)

    def apply(self, manifest: dict[str, Any]) -> None:
        self.control_plane.apply(manifest)

    def authorization_url(self, name: str) -> str:
        """The login URL, once it is there; read as a person reads it."""
        path = "jsonpath={.status.login.authorizationURL}"
        return wait_until(lambda: self.kubectl("get", "oauthaccount", name, "-o", path), f"login URL of {name}")

    def user_code(self, name: str) -> str:
        """The code of a device's login, once it is there."""
        path = "jsonpath={.status.login.userCode}"
        return wait_until(lambda: self.kubectl("get", "oauthaccount", name, "-o", path), f"user code of {name}")

    def paste(self, name: str, pasted: str) -> None:
        """Hand the code over as a person does."""
        self.kubectl("annotate", "oauthaccount", name, f"oauthpool.dev/authorization-code={pasted}", "--overwrite")

    def log_in(self, name: str, subject: str) -> None:
        """The whole login; returns when the account is Available."""
        self.paste(name, self.simulator.approve(self.authorization_url(name), subject))
        self.wait_for_reason(name, "Ready", "Available")

    def report(
        self,
        name: str,
        reason: str | None,
        *,
        generation: int = 1,
        reporter: str = "proxy-9",
        age: timedelta = timedelta(0),
        until: timedelta | None = None,
    ) -> None:
        """What a proxy writes, the way it writes it; no reason while the account works."""
        entry = {
            "reporter": reporter,
            "observedTime": instant(-age),
            "tokenGeneration": generation,
            **({"reason": reason} if reason else {}),
            **({"untilTime": instant(until)} if until else {}),
        }
        manifest = self.account(name) | {"status": {"reports": [entry]}}
        del manifest["spec"]
        manager = f"--field-manager=oauth-pool-proxy-{reporter}"
        arguments = ("apply", "--server-side", "--subresource=status", manager, "-f", "-")
        self.kubectl(*arguments, stdin=json.dumps(manifest))

    # --- processes ---------------------------------------------------------------------------------------------------

    @property
    def simulator(self) -> SimulatorClient:
        return SimulatorClient(self._simulator_url)

    @property
    def operator(self) -> Process:
        return self.processes["operator"]

    @property
    def proxy(self) -> Process:
        return self.processes["proxy"]

    def start_simulator(self) -> None:
        port = free_port()
        self._simulator_url = f"http://127.0.0.1:{port}"
        subject = f"system:serviceaccount:{self.namespace}:{WORKLOAD}"
        self._start(
            "simulator",
            [
                *(sys.executable, "-m", "tests.simulator", "--port", str(port)),
                *("--client-id", CLIENT_ID, "--redirect-uri", f"{self._simulator_url}/oauth/callback"),
                *("--redirect-uri", self.loopback_uri),
                *("--issuer", self.control_plane.server, "--issuer-ca-file", str(self.control_plane.ca_file)),
                *("--scope", "inference", "--audience", self._simulator_url),
                *("--federation-rule", f"id={RULE},organization={ORGANIZATION},subject={subject}"),
            ],
        )
        self._wait_for_http("simulator", f"{self._simulator_url}/_simulator/health")

    def start_operator(self, *, wait: bool = True) -> None:
        self._start_operator("operator", self._operator_config())
        if wait:
            self.wait_for_operator()

    def start_second_operator(self, state_dir: Path | None = None) -> str:
        """One more, as it should not be, with the same state volume unless another is named; returns where its health is."""
        health, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
        config = self._operator_config()
        config = config.replace(self.health_url.removeprefix("http://"), health)
        config = config.replace(self.metrics_url.removeprefix("http://"), metrics)
        config = config.replace(f'"{self.state_dir}"', f'"{state_dir or self.state_dir}"')
        self._start_operator("second-operator", config)
        self._wait_for_http("second-operator", f"http://{health}/healthz")
        return f"http://{health}"

    @property
    def operator_command(self) -> list[str]:
        """The operator's program, with the configuration that it runs with."""
        return [*self._operator, "--config", str(self.folder / "operator.toml")]

    def as_operator(self) -> dict[str, str]:
        """The environment that makes a process act as the operator."""
        return {"KUBECONFIG": str(self.control_plane.kubeconfig_for(self.namespace, "oauth-pool-operator"))}

    def _start_operator(self, name: str, content: str) -> None:
        config = self.folder / f"{name}.toml"
        config.write_text(content)
        environment = self.as_operator() | {"LOG_LEVEL": self._log_level}
        self._start(name, [*self._operator, "--config", str(config)], environment=environment)

    def command(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """One of the operator's other commands, as it is run in its pod: with its configuration and its rights."""
        ended = subprocess.run(
            [*self.operator_command, *arguments],
            input=stdin,
            capture_output=True,
            env=os.environ | self.as_operator(),
            timeout=90,
            check=False,
        )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def wait_for_operator(self) -> None:
        self._wait_for_http("operator", f"{self.health_url}/readyz")

    def start_proxy(self) -> None:
        self._start_proxy("proxy", "proxy-0", self.proxy_url, self._proxy_settings)

    def start_second_proxy(self, settings: str) -> str:
        """One more, called proxy-1, with settings of its own (addresses can be taken once); returns its URL."""
        url = f"http://127.0.0.1:{free_port()}"
        self._start_proxy("second-proxy", "proxy-1", url, settings)
        return url

    def _start_proxy(self, name: str, pod: str, url: str, settings: str) -> None:
        folder = self.folder / name  # of its own, for the key that tokens are sealed to
        folder.mkdir(exist_ok=True)
        config = folder / "proxy.toml"
        config.write_text(self._proxy_config(folder, url, settings))
        self._start(
            name,
            [str(Path(sys.executable).with_name("oauth-pool-proxy")), "--config", str(config)],
            environment={"LOG_LEVEL": self._log_level, "POD_NAME": pod, "POD_UID": str(uuid.uuid4())},
        )
        self._wait_for_http(name, f"{url}/health")

    def start(self, *, with_proxy: bool = True) -> None:
        self.prepare_cluster()
        self.start_simulator()
        self.start_operator()
        if with_proxy:
            self.start_proxy()

    def stop(self) -> dict[str, int | None]:
        """Stop what runs, the proxy first; returns the exit codes."""
        codes: dict[str, int | None] = {}
        for name in ("second-proxy", "proxy", "second-operator", "operator", "simulator"):
            if (process := self.processes.pop(name, None)) is not None:
                codes[name] = process.stop()
        return codes

    def close(self) -> None:
        """Stop what runs, kindly, and then for certain."""
        try:
            self.stop()
        finally:
            self._guard.close()

    def _start(self, name: str, command: list[str], *, environment: dict[str, str] | None = None) -> None:
        self.processes[name] = Process(self._guard, name, command, environment=environment or {}, on_line=self._on_line)

    def _wait_for_http(self, name: str, url: str) -> None:
        process = self.processes[name]

        def answers() -> bool:
            if not process.is_running:
                raise AssertionError(f"{name} ended with exit code {process.stop()}:\n{process.output}")
            with contextlib.suppress(httpx2.TransportError):
                return httpx2.get(url, timeout=2).status_code == 200
            return False

        wait_until(answers, f"{name} at {url}")

    def _operator_config(self) -> str:
        url = self._simulator_url
        return f"""
[operator]
namespace = "{self.namespace}"
state_dir = "{self.state_dir}"
access_dir = "{self.access_dir}"
health_listen_addr = "{self.health_url.removeprefix("http://")}"
metrics_listen_addr = "{self.metrics_url.removeprefix("http://")}"

[publication]
tokens = "{self.tokens}"

{grants_of_simulator(url)}
# one whose page sends the browser back to the person's machine
[providers.loopback.authorization_code]
client_id = "{CLIENT_ID}"
authorization_endpoint = "{url}/oauth/authorize"
token_endpoint = "{url}/v1/oauth/token"
redirect_uri = "{self.loopback_uri}"
scopes = ["inference"]
token_body = "json"
send_state = true

# one that an operator has to live with
[providers.broken.authorization_code]
client_id = "{CLIENT_ID}"
authorization_endpoint = "{url}/oauth/authorize"
token_endpoint = "http://provider.example/v1/oauth/token"
redirect_uri = "{url}/oauth/callback"
"""

    def _proxy_config(self, folder: Path, url: str, settings: str) -> str:
        token = folder / "token"
        token.write_text(
            self.control_plane.service_account_token(self.namespace, "oauth-pool-proxy", seconds=24 * 3600)
        )
        return f"""
[proxy]
listen_addr = "{url.removeprefix("http://")}"
upstream_url = "{self._simulator_url}"
{settings}

[oauth]
source = "kubernetes"
provider = "simulator"
tokens = "{self.tokens}"
{f'access_dir = "{self.access_dir}"' if self.tokens == "volume" else f'key_dir = "{folder}"'}

[oauth.kubernetes]
server = "{self.control_plane.server}"
ca_file = "{self.control_plane.ca_file}"
token_file = "{token}"
namespace = "{self.namespace}"
"""


def grants_of_simulator(url: str) -> str:
    """Tables of operator.toml: how each grant works at a simulator with that URL."""
    return f"""\
[providers.simulator.authorization_code]
client_id = "{CLIENT_ID}"
authorization_endpoint = "{url}/oauth/authorize"
token_endpoint = "{url}/v1/oauth/token"
revocation_endpoint = "{url}/v1/oauth/revoke"
redirect_uri = "{url}/oauth/callback"
scopes = ["inference"]
subject_claim = "account.email_address"
token_body = "json"
send_state = true

[providers.simulator.device_code]
client_id = "{CLIENT_ID}"
device_authorization_endpoint = "{url}/v1/oauth/device_authorization"
token_endpoint = "{url}/v1/oauth/token"
revocation_endpoint = "{url}/v1/oauth/revoke"
scopes = ["inference"]
subject_claim = "account.email_address"
token_body = "json"

[providers.simulator.workload_identity]
token_endpoint = "{url}/v1/oauth/token"
audience = "{url}"
token_headers = {{ anthropic-beta = "{OAUTH_BETA},{FEDERATION_BETA}" }}
"""


def instant(since_now: timedelta) -> str:
    return (datetime.now(UTC) + since_now).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def running_stack(control_plane: ControlPlane, *, with_proxy: bool = True, **settings: Any) -> Iterator[Stack]:
    """A started stack in a folder of its own; everything ends with the context."""
    with tempfile.TemporaryDirectory(prefix="oauth-pool-") as folder:
        stack = Stack(control_plane, Path(folder), **settings)
        try:
            stack.start(with_proxy=with_proxy)
            yield stack
        finally:
            stack.close()
