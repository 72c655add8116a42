"""The operator itself, with the configuration and the Role that are shipped: it comes up and says what a person has to do."""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.control_plane.plane import free_port
from tests.support.control_plane.processes import Processes
from tests.test_manifests.manifests import NAMESPACE, OPERATOR, container, overlay, pod_templates, toml_of
from tests.test_manifests.proxies import get_account, make_account


@pytest.fixture
def health_url(cluster: ControlPlane, tmp_path: Path) -> Iterator[str]:
    """Where the operator answers probes; volumes and ports are this machine's."""
    for folder in ("state", "access"):
        (tmp_path / folder).mkdir()
    health, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    local = {
        "state_dir": f"{tmp_path}/state",
        "access_dir": f"{tmp_path}/access",
        "health_listen_addr": health,
        "metrics_listen_addr": metrics,
    }
    config = toml_of(overlay("default"), OPERATOR) + "\n[operator]\n"
    (tmp_path / "config.toml").write_text(config + "".join(f'{key} = "{value}"\n' for key, value in local.items()))
    processes = Processes(tmp_path, keep=True)
    environment = {
        "KUBECONFIG": str(cluster.kubeconfig_for(NAMESPACE, "oauth-pool-operator")),
        "CONFIG_PATH": str(tmp_path / "config.toml"),
        "NAMESPACE": NAMESPACE,
        "POD_NAME": "oauth-pool-operator-0",
    }
    try:
        processes.start("operator", Path(sys.executable).parent / "oauth-pool-operator", environment=environment)
        yield f"http://{health}"
        assert processes.stop("operator", seconds=60) == 0, processes.log_file("operator").read_text()
        assert "no provider" in processes.log_file("operator").read_text()
    finally:
        processes.close()


def test_without_a_provider_the_account_says_so(cluster: ControlPlane, health_url: str) -> None:
    make_account(cluster, NAMESPACE, "waiting", {})
    wait_until(lambda: "UnknownProvider" in str(get_account(cluster, NAMESPACE, "waiting").get("status")), "the reason")
    assert "it knows none" in str(get_account(cluster, NAMESPACE, "waiting")["status"])
    ready = container(pod_templates(overlay("default"))[OPERATOR])["readinessProbe"]["httpGet"]["path"]
    assert httpx2.get(health_url + ready).status_code == 200
    # while there is an operator that takes its finalizer off
    cluster.kubectl("delete", "oauthaccount", "waiting", "-n", NAMESPACE, "--timeout=30s")
