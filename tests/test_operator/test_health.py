"""The health endpoints as a kubelet asks them."""

import json
import socket
from http.client import HTTPConnection

import pytest

from oauth_pool_operator.health import STUCK_SECONDS, HealthServer, liveness


def free_port(family: socket.AddressFamily, host: str) -> int:
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("listens", "asked"),
    [
        pytest.param("127.0.0.1", "127.0.0.1", id="IPv4"),
        pytest.param("::1", "::1", id="IPv6"),
    ],
)
def test_it_answers_on_any_kind_of_address(listens: str, asked: str) -> None:
    port = free_port(socket.AF_INET6 if ":" in asked else socket.AF_INET, asked)
    server = HealthServer(
        listens, port, seconds_since_last_turn=lambda: 0, why_deaf=lambda: "", why_not_ready=lambda: "it waits"
    )
    try:
        connection = HTTPConnection(asked, port, timeout=10)
        for page, status, member in (("/healthz", 200, "loop"), ("/readyz", 503, "reason"), ("/other", 404, "pages")):
            connection.request("GET", page)
            answer = connection.getresponse()
            assert answer.status == status
            assert member in json.loads(answer.read())
            connection.close()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("turn", "deaf", "status"),
    [(0, "", 200), (STUCK_SECONDS + 1, "", 500), (0, "the watch has been silent for 300 s", 500)],
    ids=["alive", "stuck", "deaf"],
)
def test_a_stuck_loop_and_a_deaf_watch_are_reasons_to_be_restarted(turn: float, deaf: str, status: int) -> None:
    assert liveness(turn, deaf)[0] == status
    assert deaf in str(liveness(turn, deaf)[1])
