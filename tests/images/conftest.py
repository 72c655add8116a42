"""Tests of the two images, for a machine that has them and a container engine: `make test-images`. `make test` leaves them out."""

from pathlib import Path

import pytest

from tests.images.engine import Engine, Image


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("images")
    group.addoption("--engine", default="docker", help="docker or podman")
    group.addoption("--base-image", help="what both were built on")
    group.addoption("--proxy-image")
    group.addoption("--operator-image")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # The options exist only when this folder was asked for by name.
    return None if config.getoption("--proxy-image", None) else True


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Engine:
    return Engine(pytestconfig.getoption("--engine"))


@pytest.fixture(scope="session")
def base(engine: Engine, pytestconfig: pytest.Config) -> Image:
    return engine.image(pytestconfig.getoption("--base-image"))


@pytest.fixture(scope="session")
def proxy(engine: Engine, pytestconfig: pytest.Config) -> Image:
    return engine.image(pytestconfig.getoption("--proxy-image"))


@pytest.fixture(scope="session")
def operator(engine: Engine, pytestconfig: pytest.Config) -> Image:
    return engine.image(pytestconfig.getoption("--operator-image"))


@pytest.fixture(params=["proxy", "operator"])
def image(request: pytest.FixtureRequest) -> Image:
    found: Image = request.getfixturevalue(request.param)
    return found
