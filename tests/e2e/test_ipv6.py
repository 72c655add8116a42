"""A cluster without IPv4: the API server is on ::1 only, and so is whatever listens there."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import pytest

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack, serve_accounts


@pytest.fixture(scope="module")
def stack(control_plane_binaries: Path) -> Iterator[Stack]:
    with ControlPlane(assets=control_plane_binaries, is_ipv6=True) as control_plane:
        serve_accounts(control_plane)
        with running_stack(control_plane, tokens="sealed", host="[::1]") as stack:
            yield stack


def test_operator_and_proxy_work_as_anywhere(stack: Stack) -> None:
    stack.apply(stack.workload_account("workload"))
    stack.wait_for_reason("workload", "Ready", "Available")
    wait_until(lambda: httpx2.get(f"{stack.proxy_url}/ready").is_success, "the proxy to have the token")
    with anthropic.Anthropic(base_url=stack.proxy_url, api_key="unused", max_retries=0) as client:
        answer = client.messages.create(
            model="claude-test", max_tokens=64, messages=[{"role": "user", "content": "hello"}]
        )
    assert answer.content


def test_probes_and_metrics_are_there(stack: Stack) -> None:
    for url in (f"{stack.health_url}/healthz", f"{stack.health_url}/readyz", f"{stack.metrics_url}/metrics"):
        assert httpx2.get(url).status_code == 200, url
