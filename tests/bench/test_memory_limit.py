"""Large uploads in a container of the size that the manifests give the proxy: nothing is killed, nothing fails."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.load_program import Generator, Target, Upstream, build, upstream
from tests.bench.variants import IMAGE_ENVIRONMENT, accepts
from tests.support.control_plane.plane import free_port
from tests.support.proxy_server import PoolFolder
from tests.support.tools import leave_out

pytestmark = [
    pytest.mark.skipif(platform.system() != "Linux", reason="the benchmark is for Linux"),
    pytest.mark.timeout(400),
]

LIMIT = 128 * 1024 * 1024
CORES = sorted(os.sched_getaffinity(0))[:1] if hasattr(os, "sched_getaffinity") else [0]
FAR = 4_000_000_000.0


@contextmanager
def memory_group() -> Iterator[Path]:
    """A control group whose processes get no more than the pod does, swap included; version 1 or 2."""
    root = next((path for path in map(Path, ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")) if _has_memory(path)), None)
    if root is None or os.geteuid() != 0:
        leave_out("no memory control group can be made here", "run as root, outside of a container")
    group = root / f"oauth-pool-test-{os.getpid()}"
    group.mkdir()
    try:
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max")
        for name in names:
            if (file := group / name).exists():
                file.write_text("0" if name == "memory.swap.max" else str(LIMIT))
        yield group
    finally:
        group.rmdir()


def _has_memory(path: Path) -> bool:
    controllers = path / "cgroup.controllers"
    is_second = controllers.exists() and "memory" in (path / "cgroup.subtree_control").read_text().split()
    return os.access(path, os.W_OK) and ((path / "memory.limit_in_bytes").exists() or is_second)


@contextmanager
def proxy_in(group: Path, api: Upstream, folder: Path) -> Iterator[tuple[Target, "subprocess.Popen[bytes]"]]:
    """The proxy as it is installed, in pool mode with everything on, with the image's environment."""
    pool, port = PoolFolder(folder), free_port()
    for number in range(10):
        pool.write_token(f"account-{number}", expires=FAR)
        pool.write_entry(f"account-{number}")
    oauth = "".join(f"{key} = {json.dumps(value)}\n" for key, value in pool.oauth().items())
    config = folder / "proxy.toml"
    config.write_text(
        f'[proxy]\nlisten_addr = "127.0.0.1:{port}"\nupstream_url = "https://{api.https}"\n'
        f'upstream_ca_file = "{api.ca_file}"\nmax_body_bytes = 33554432\n[oauth]\n{oauth}'
    )
    command = [str(Path(sys.executable).with_name("oauth-pool-proxy")), "--config", str(config)]
    into = f"echo $$ > {group}/cgroup.procs && exec " + " ".join(command)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["sh", "-c", into], stdout=log, env={**os.environ, **IMAGE_ENVIRONMENT})
    try:
        while not accepts(port):
            assert process.poll() is None, "the proxy did not start"
        yield Target(f"127.0.0.1:{port}"), process
    finally:
        process.terminate()
        process.wait(20)


def test_large_uploads_over_tls_fit_into_the_pod_and_leave_streams_alone(tmp_path: Path) -> None:
    with (
        memory_group() as group,
        upstream(build(tmp_path), tmp_path, CORES) as api,
        proxy_in(group, api, tmp_path) as (target, process),
    ):
        figures = Generator(tmp_path / "load", CORES, target).run("uploads", seconds=25)
        assert figures["failed"] == 0
        assert process.poll() is None
