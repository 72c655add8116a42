"""The API server is killed: proxies serve on, tokens are refreshed, and everything catches up when it is back."""

import json
from pathlib import Path

import httpx2

from tests.support.control_plane import ControlPlane, wait_until
from tests.support.stack import Stack, running_stack, serve_accounts


def ask(stack: Stack) -> int:
    body = {"model": "claude-test", "max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"anthropic-version": "2023-06-01"}
    return httpx2.post(f"{stack.proxy_url}/v1/messages", json=body, headers=headers, timeout=30).status_code


def test_without_the_api_server_the_pool_goes_on(control_plane_binaries: Path) -> None:
    with ControlPlane(assets=control_plane_binaries) as control_plane:  # one of its own: others must not notice
        serve_accounts(control_plane)
        with running_stack(control_plane) as stack:
            stack.simulator.set(expires_in=20)
            stack.apply(stack.account("alice"))
            stack.log_in("alice", "alice@example.com")
            wait_until(lambda: ask(stack) == 200, "an answer")
            access = next(stack.access_dir.iterdir())

            control_plane.kill_api_server()
            generation = json.loads(access.read_text())["generation"]
            assert ask(stack) == 200
            # long enough that the token of before has expired: the operator has refreshed it, the proxy has found it
            wait_until(lambda: json.loads(access.read_text())["generation"] >= generation + 2, "refreshes", seconds=60)
            wait_until(lambda: ask(stack) == 200, "an answer with a token that the index never named")
            assert (stack.operator.is_running, stack.proxy.is_running) == (True, True)

            control_plane.start_api_server()
            stack.simulator.set(expires_in=None)
            wait_until(
                lambda: stack.index()["alice"]["generation"] > generation + 1, "the index to catch up", seconds=60
            )
            stack.apply(stack.account("bob"))
            stack.log_in("bob", "bob@example.com")
            wait_until(lambda: accounts_available(stack) == 2, "the proxy to hear of the new account", seconds=60)
            assert ask(stack) == 200
            assert stack.stop() == {"proxy": 0, "operator": 0, "simulator": 0}


def accounts_available(stack: Stack) -> int:
    count: int = httpx2.get(f"{stack.proxy_url}/health").json()["pool"]["accounts_available"]
    return count
