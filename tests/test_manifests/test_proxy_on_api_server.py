"""The proxy's own code, with the Role and under the policy that are shipped, and with the token of a pod."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from oauth_pool_proxy.pool.index import IndexEntry
from oauth_pool_proxy.pool.index_watcher import ConfigMapIndex
from oauth_pool_proxy.pool.kube_api import KubeApi
from oauth_pool_proxy.pool.pool import Account, Reason
from oauth_pool_proxy.pool.reports import StatusReporter
from tests.support.control_plane import ControlPlane
from tests.support.proxy_server import index_entry
from tests.test_manifests.manifests import NAMESPACE
from tests.test_manifests.proxies import Caller, get_account, kube_api, make_account, pod_token, report

NOW = 1_795_190_000.0


@pytest.fixture
async def api(cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[KubeApi]:
    api = kube_api(cluster, NAMESPACE, tmp_path, pod_token(cluster, NAMESPACE, "proxy-a"))
    yield api
    api.close()


async def test_its_reports_arrive(cluster: ControlPlane, api: KubeApi) -> None:
    make_account(cluster, NAMESPACE, "alice", {"subject": "alice@example.com", "reports": [report("proxy-b")]})
    uid = get_account(cluster, NAMESPACE)["metadata"]["uid"]
    reporter = StatusReporter(api, "proxy-a")
    account = Account(msgspec.convert(index_entry("alice", uid=uid), IndexEntry))
    reporter.benched(account, Reason.QUOTA_EXHAUSTED, NOW + 3600, 17, (), NOW)
    await reporter.flush(30)
    first, second = get_account(cluster, NAMESPACE)["status"]["reports"]
    assert first == report("proxy-b")
    assert (second["reporter"], second["reason"], second["tokenGeneration"]) == ("proxy-a", "QuotaExhausted", 17)


async def test_it_reads_all_of_the_index(cluster: ControlPlane, api: KubeApi) -> None:
    annotations = {"oauthpool.dev/shards": "10"}
    for number in range(10):
        name = f"oauth-pool-{number}" if number else "oauth-pool"
        metadata = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
        data = {f"account-{number}": "{}"}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    assert sorted(await first_index(api)) == [f"account-{number}" for number in range(10)]


def test_its_role_alone_keeps_it_from_everything_else(cluster: ControlPlane) -> None:
    make_account(cluster, NAMESPACE, "bob", {})
    proxy = Caller(cluster, NAMESPACE, pod_token(cluster, NAMESPACE, "proxy-a"))
    answers = [
        proxy.send("PATCH", {"spec": {"priority": 1000}}, to="/bob"),
        proxy.send("PATCH", {"metadata": {"finalizers": []}}, to="/bob"),
        proxy.send("GET", None, to="/bob"),
        proxy.send("DELETE", {}, to="/bob"),
    ]
    assert [answer.status_code for answer in answers] == [403] * len(answers)
    assert "RBAC" in answers[2].text or "cannot get resource" in answers[2].text


async def first_index(api: KubeApi) -> Mapping[str, str]:
    arrived: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()
    watching = asyncio.create_task(ConfigMapIndex(api, "oauth-pool", arrived.put_nowait).run())
    try:
        async with asyncio.timeout(30):
            return await arrived.get()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
