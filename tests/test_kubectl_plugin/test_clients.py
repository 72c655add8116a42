"""`key create` and `top --clients`: keys for clients of the proxies, and what each client has used."""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kubectl_oauthaccount.client_usage import by_use, usage_of, usage_rows
from oauth_pool_proxy.config.clients import keys_of
from oauth_pool_proxy.config.table import Table
from tests.support.api_relay import ApiRelay, answer
from tests.support.control_plane import ControlPlane
from tests.test_kubectl_plugin.conftest import Plugin

METRICS = """\
# HELP proxy_client_requests_total Finished requests of each client
# TYPE proxy_client_requests_total counter
proxy_client_requests_total{client="team-a/runner",status="200"} 400.0
proxy_client_requests_total{client="team-a/runner",status="504"} 2.0
proxy_client_requests_total{client="key:ci",status="429"} 7.0
proxy_client_requests_total{client="stranger",status="401"} 3.0
proxy_client_queue_wait_seconds_sum{client="team-a/runner"} 12.25
proxy_client_queue_wait_seconds_bucket{client="team-a/runner",le="+Inf"} 4.0
pool_tokens_total{account_id="a",model="m",client="team-a/runner",type="input"} 90000.0
pool_tokens_total{account_id="a",model="m",client="team-a/runner",type="cache_read"} 1000.0
pool_tokens_total{account_id="b",model="m",client="team-a/runner",type="output"} 9000.0
pool_tokens_total{account_id="a",model="m",client="key:ci",type="input"} 1.0e+5
pool_account_in_flight{account_id="a"} 1.0
"""


# Keys


def key_in(lines: str) -> Any:
    """As the proxy reads it."""
    tables = tomllib.loads(lines)["clients"]["keys"]
    return keys_of([Table("", "", table) for table in tables])[0]


def test_a_key_goes_to_standard_output_and_its_digest_into_lines_that_the_proxy_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = Plugin(tmp_path / "no-kubeconfig", "pool", capsys)("key", "create", "ci")
    assert done.code == 0
    assert re.fullmatch(r"oap_[A-Za-z0-9_-]{43}\n", done.out)
    assert done.out.strip() not in done.err
    key = key_in(done.err.partition("\n\n")[2])
    assert (key.name, key.digest, key.expires_at) == ("ci", hashlib.sha256(done.out.strip().encode()).digest(), None)


def test_a_key_may_expire(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plugin = Plugin(tmp_path / "no-kubeconfig", "pool", capsys)
    done = plugin("key", "create", "ci", "--days", "30")
    key = key_in("[[clients.keys]]" + done.err.partition("[[clients.keys]]")[2])
    assert 29 < (key.expires_at - datetime.now(UTC).timestamp()) / 86400 <= 30
    assert plugin("key", "create", "ci", "-o", "json").json.keys() == {"name", "key", "sha256", "expires"}


@pytest.mark.parametrize("arguments", [("no/name",), ("",), ("x" * 64,), ("ci", "--days", "0"), ()])
def test_what_is_no_name_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = Plugin(tmp_path / "no-kubeconfig", "pool", capsys)("key", "create", *arguments)
    assert (done.code, done.out) == (2, "")


def test_no_two_keys_are_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plugin = Plugin(tmp_path / "no-kubeconfig", "pool", capsys)
    assert plugin("key", "create", "ci").out != plugin("key", "create", "ci").out


# Usage


def test_usage_is_the_sum_over_the_proxies_and_whoever_used_most_comes_first() -> None:
    usage = usage_of([METRICS, METRICS])
    assert [client for client, _ in by_use(usage)] == ["team-a/runner", "key:ci", "stranger"]
    runner = usage["team-a/runner"]
    assert (runner.requests, runner.failed, runner.refused) == (804, 4, 0)
    assert (runner.input, runner.output, runner.waited) == (182_000, 18_000, 24.5)
    assert [(row["client"], row["share"]) for row in usage_rows(usage)] == [
        ("team-a/runner", 0.5),
        ("key:ci", 0.5),
        ("stranger", 0),
    ]


def test_in_passthrough_mode_shares_are_of_requests() -> None:
    rows = usage_rows(usage_of(["\n".join(line for line in METRICS.splitlines() if "tokens" not in line)]))
    assert rows[0]["client"] == "team-a/runner" and rows[0]["share"] == round(402 / 412, 4)


def test_names_are_read_as_prometheus_writes_them() -> None:
    assert list(usage_of(['proxy_client_requests_total{client="a\\"}b",status="200"} 1.0'])) == ['a\\"}b']


@pytest.fixture
def relay(control_plane: ControlPlane) -> Iterator[ApiRelay]:
    with ApiRelay(control_plane.server, control_plane.tls).running() as relay:
        yield relay


@pytest.fixture
def proxies(
    control_plane: ControlPlane,
    relay: ApiRelay,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Plugin:
    return Plugin(relay.kubeconfig(control_plane.kubeconfig, tmp_path / "kubeconfig"), namespace, capsys)


def add_proxy(plane: ControlPlane, namespace: str, name: str, phase: str = "Running") -> None:
    ports = [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9191}]
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app.kubernetes.io/name": "oauth-pool-proxy"},
            },
            "spec": {"containers": [{"name": "proxy", "image": "proxy", "ports": ports}]},
        }
    )
    answered = plane.api.patch(
        f"/api/v1/namespaces/{namespace}/pods/{name}/status",
        json={"status": {"phase": phase}},
        headers={"content-type": "application/merge-patch+json"},
    )
    assert answered.is_success


def test_the_metrics_of_every_proxy_that_runs_are_read_through_the_api_server(
    control_plane: ControlPlane, relay: ApiRelay, proxies: Plugin, namespace: str
) -> None:
    for name, phase in (("a", "Running"), ("b", "Running"), ("c", "Pending")):
        add_proxy(control_plane, namespace, name, phase)
    text = answer(200, METRICS.encode(), "text/plain; version=0.0.4; charset=utf-8")
    with relay.fault(lambda request: request.target.endswith("/proxy/metrics"), answers=text) as asked:
        done = proxies("top", "--clients")
        as_json = proxies("top", "--clients", "-o", "json")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["CLIENT", "SHARE", "INPUT", "OUTPUT", "REQUESTS", "REFUSED", "FAILED", "IN", "LINE"]
    assert lines[1] == ["team-a/runner", "50%", "182k", "18k", "804", "0", "4", "24s"]
    assert [row["client"] for row in as_json.json] == ["team-a/runner", "key:ci", "stranger"]
    assert {request.target.rsplit("/", 3)[1].replace("%3A", ":") for request in asked.met} == {"a:9191", "b:9191"}


def test_what_cannot_be_shown_is_told(
    control_plane: ControlPlane, relay: ApiRelay, proxies: Plugin, namespace: str
) -> None:
    none_runs = proxies("top", "--clients")
    assert none_runs.code == 1 and f"no proxy runs in namespace {namespace}" in none_runs.err
    add_proxy(control_plane, namespace, "a")
    with relay.fault(lambda request: request.target.endswith("/proxy/metrics"), answers=answer(200, b"x 1\n")):
        assert "no [clients]" in proxies("top", "--clients").err
    with relay.fault(lambda request: request.target.endswith("/proxy/metrics"), answers=answer(503)):
        assert proxies("top", "--clients").code == 1
    assert proxies("top", "--clients", "-A").code == 2
