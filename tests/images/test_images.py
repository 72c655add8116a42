"""What is in the images, what is not, and that they run the way the manifests run them."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.images.engine import Engine, Image
from tests.support.control_plane import wait_until

MIB = 1 << 20
PACKAGES = "/opt/oauth-pool/lib/python3*/site-packages/"
ROOT = Path(__file__).parents[2]


def test_neither_adds_much_to_its_base(base: Image, proxy: Image, operator: Image) -> None:
    sizes = {image.name: (image.description["Size"] - base.description["Size"]) / MIB for image in (proxy, operator)}
    assert sizes[proxy.name] <= 35
    assert sizes[operator.name] <= 60


def test_both_are_made_of_the_base_and_little_else(base: Image, image: Image) -> None:
    layers, of_base = image.description["RootFS"]["Layers"], base.description["RootFS"]["Layers"]
    assert layers[: len(of_base)] == of_base
    assert len(layers) <= len(of_base) + 2


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("*/bin/pip*", id="pip's commands"),
        pytest.param("*/site-packages/pip/*", id="pip"),
        pytest.param("*/dist-packages/pip/*", id="Debian's pip"),
        pytest.param("*/ensurepip/*", id="a pip to unpack"),
        pytest.param("*/bin/uv", id="uv"),
        pytest.param("*/bin/gcc*", id="compiler"),
        pytest.param("/opt/*/include/*.h", id="headers"),
        pytest.param(PACKAGES + "*.pyx", id="Cython"),
        pytest.param(PACKAGES + "*.c", id="C"),
        pytest.param(PACKAGES + "*.h", id="headers of packages"),
        pytest.param(PACKAGES + "kubernetes/*", id="the client that doubles Kopf's memory"),
        pytest.param(PACKAGES + "pytest*", id="pytest"),
        pytest.param("/opt/*/tests/*", id="tests"),
        pytest.param("/tmp/*", id="leftovers of the build"),
        pytest.param("*/.git/*", id="the repository"),
        pytest.param("/root/.cache/*", id="caches"),
    ],
)
def test_what_nobody_needs_at_run_time_is_not_there(image: Image, pattern: str) -> None:
    assert not [path for path in image.files if fnmatch(path, pattern)]


def test_the_two_have_nothing_of_each_other(proxy: Image, operator: Image) -> None:
    assert not [path for path in proxy.files if "oauth_pool_operator" in path]
    assert not [path for path in operator.files if "oauth_pool_proxy" in path]


def test_certificates_of_public_authorities_are_there(image: Image) -> None:
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(image.output("-c", code, entrypoint="python")) > 50


def test_it_runs_as_a_user_that_owns_nothing(image: Image) -> None:
    assert image.config["User"] == "1000:1000"
    assert (
        image.output("-c", "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name)", entrypoint="python")
        == "oauth-pool\n"
    )
    assert not [path for path, member in image.files.items() if member.uid == 1000 or member.gid == 1000]


def test_nothing_is_compiled_when_it_starts(image: Image) -> None:
    """Each module that the program has loaded came with bytecode, those of the standard library included."""
    module = image.config["Entrypoint"][0].replace("-", "_")
    extra = ", oauth_pool_proxy.app, oauth_pool_proxy.downstream.server" if module == "oauth_pool_proxy" else ""
    code = (
        f"import {module}.cli{extra}, os, sys\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    cached = getattr(module, '__cached__', None)\n"
        "    if cached and not os.path.exists(cached): print(name)\n"
    )
    assert image.output("-c", code, entrypoint="python") == ""


def test_what_it_says_about_itself(image: Image) -> None:
    labels = {key.rpartition(".")[2]: value for key, value in image.config["Labels"].items() if "opencontainers" in key}
    program = image.config["Entrypoint"][0]
    assert (labels["title"], labels["licenses"]) == (program, "MIT")
    assert {"description", "source", "revision"} <= set(labels)
    # Docker leaves the default out of what it shows.
    assert image.config.get("StopSignal", "SIGTERM") == "SIGTERM"
    assert re.fullmatch(rf"{program} \d+\.\d+\.\d+\n", image.output("--version"))


def test_each_listens_on_the_ports_it_declares(proxy: Image, operator: Image) -> None:
    assert set(proxy.config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    assert set(operator.config["ExposedPorts"]) == {"8081/tcp", "9090/tcp"}


def test_large_bodies_do_not_cost_the_proxy_a_map_and_an_unmap_each(proxy: Image) -> None:
    assert proxy.environment["MALLOC_MMAP_THRESHOLD_"] == "4194304"
    assert proxy.environment["MALLOC_TRIM_THRESHOLD_"] == "33554432"


def test_the_proxy_serves_and_ends_in_peace(engine: Engine, proxy: Image) -> None:
    with proxy.running(ROOT / "k8s" / "overlays" / "passthrough" / "config.toml") as container:
        ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/health').read().decode())"

        def health() -> str:
            try:
                return engine.run("exec", container, "python", "-c", ask).decode()
            except AssertionError:
                return ""

        assert json.loads(wait_until(health, "the proxy answers"))["status"] == "healthy"
        engine.run("stop", "--time=30", container)
        assert exit_code(engine, container) == 0


def test_the_operator_starts_and_says_what_it_lacks(engine: Engine, operator: Image) -> None:
    """Outside a cluster that is a cluster, and volumes. Nothing before that fails on a read-only disk."""
    with operator.running(ROOT / "k8s" / "overlays" / "default" / "operator.toml") as container:
        wait_until(lambda: exit_code(engine, container) is not None, "the operator has ended")
        assert exit_code(engine, container) == 1
        assert "operator.namespace: is missing" in engine.logs(container)


def exit_code(engine: Engine, container: str) -> int | None:
    state = json.loads(engine.run("inspect", container))[0]["State"]
    return None if state["Running"] else int(state["ExitCode"])
