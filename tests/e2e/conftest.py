"""A proxy in each of its modes, for the tests of what official clients see."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anthropic
import pytest

from tests.e2e.gateway import Gateway, Mode, running_gateway

StartGateway = Callable[..., Gateway]
ClientOf = Callable[[Gateway], anthropic.Anthropic]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of the tests that need a cluster, in folders of their own. Without the second, those are left out."""
    group = parser.getgroup("cluster")
    group.addoption("--image-prefix", help="of the images' names")
    group.addoption("--image-tag", help="of the images to test")
    group.addoption("--previous-image-tag", help="of the images to upgrade from")


@pytest.fixture(params=["passthrough", "pool"])
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture(scope="session")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Mode], Gateway]]:
    """One for each mode, and another one when a test left it with an account that is benched."""
    running: dict[Mode, Gateway] = {}
    with ExitStack() as stack:

        def get(mode: Mode) -> Gateway:
            if mode not in running or not running[mode].has_all_accounts():
                running[mode] = stack.enter_context(running_gateway(mode, tmp_path_factory.mktemp(mode)))
            return running[mode]

        yield get


@pytest.fixture
def gateway(mode: Mode, gateways: Callable[[Mode], Gateway]) -> Gateway:
    """One in this mode that tests share, with the simulator as it was at first."""
    gateway = gateways(mode)
    gateway.simulator.switches.reset()
    gateway.simulator.clear_requests()
    return gateway


@pytest.fixture
def start_gateway(mode: Mode, tmp_path: Path) -> Iterator[StartGateway]:
    """Starts one for this test alone; the settings are those of `running_gateway`."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_gateway(mode, tmp_path, **settings))


@pytest.fixture(scope="session")
def client_of() -> Iterator[ClientOf]:
    """The official Python SDK's client for a gateway, without retries, which would hide a failure."""
    # one for all of them: making one loads the trust store
    with anthropic.Anthropic(api_key="unused", max_retries=0, timeout=20) as client:
        yield lambda gateway: client.with_options(base_url=gateway.url, api_key=gateway.key)


@pytest.fixture
def client(gateway: Gateway, client_of: ClientOf) -> anthropic.Anthropic:
    return client_of(gateway)
