"""Where etcd, kube-apiserver and kubectl come from: the quickest way first. No test builds or downloads them: a script
stands for Go, and a server on this machine for the place that envtest is published at.
"""

import hashlib
import http.server
import io
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlaneError, archive, binaries, installed
from tests.support.control_plane.binaries import MODULE, kubernetes_version
from tests.support.control_plane.toolchain import find_go

NAMES = ("etcd", "kube-apiserver", "kubectl")
MINOR = installed.numbers(kubernetes_version())[:2]
ARCHIVE = f"envtest-v{MINOR[0]}.{MINOR[1]}.9-linux-amd64.tar.gz"


@pytest.fixture(autouse=True)
def nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, an empty home, nothing on PATH but the system's own programs, and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(installed, "PLACES", ())
    monkeypatch.setattr(archive, "RELEASES", f"http://127.0.0.1:{_closed_port()}")
    (tmp_path / "bin").mkdir()


# What is installed


def test_what_is_on_path_is_taken_if_its_version_fits(tmp_path: Path) -> None:
    for name in NAMES:
        _program(tmp_path / "bin" / name)
    folder = binaries(say=_quiet)
    assert {name: (folder / name).resolve() for name in NAMES} == {name: tmp_path / "bin" / name for name in NAMES}


def test_setup_envtests_newest_comes_before_path_and_other_minors_are_no_use(tmp_path: Path) -> None:
    store = tmp_path / "data/kubebuilder-envtest/k8s"
    for version in (f"{MINOR[0]}.{MINOR[1]}.0", f"{MINOR[0]}.{MINOR[1]}.10", f"{MINOR[0]}.{MINOR[1] + 1}.0"):
        for name in NAMES:
            _program(store / f"{version}-linux-amd64" / name, version if name != "etcd" else "3.5.24")
    _program(tmp_path / "bin/etcd")
    found = installed.installed(NAMES, kubernetes_version())
    newest = store / f"{MINOR[0]}.{MINOR[1]}.10-linux-amd64"
    assert found["kube-apiserver"] == newest / "kube-apiserver"
    assert found["etcd"] == tmp_path / "bin/etcd"
    assert found["kubectl"].parent.name == f"{MINOR[0]}.{MINOR[1] + 1}.0-linux-amd64"  # one minor away is its own rule


@pytest.mark.parametrize(
    ("name", "version", "fits"),
    [
        ("kube-apiserver", "1.36.0", True),
        ("kube-apiserver", "1.35.9", False),
        ("kubectl", "1.35.0", True),
        ("kubectl", "1.37.2", True),
        ("kubectl", "1.32.4", False),
        ("etcd", "3.6.8", True),
        ("etcd", "3.5.1", False),
        ("etcd", "", False),
    ],
)
def test_which_versions_fit(name: str, version: str, fits: bool) -> None:
    assert installed.fits(name, installed.numbers(version), (1, 36, 3)) is fits


def test_a_program_that_does_not_start_or_says_no_version_does_not_count(tmp_path: Path) -> None:
    _script(tmp_path / "bin/etcd", "echo etcd Version: 3.6.8; exit 1")
    (tmp_path / "bin/kubectl").write_text("of another platform")
    (tmp_path / "bin/kubectl").chmod(0o755)
    assert installed.installed(NAMES, kubernetes_version()) == {}


def test_what_was_linked_and_is_gone_is_looked_for_again(tmp_path: Path) -> None:
    for name in NAMES:
        _program(tmp_path / "bin" / name)
    binaries(say=_quiet)
    (tmp_path / "bin/etcd").rename(tmp_path / "bin/elsewhere")
    _program(tmp_path / "data/kubebuilder-envtest/k8s" / f"{kubernetes_version()[1:]}-linux-amd64" / "etcd")
    assert (binaries(say=_quiet) / "etcd").resolve().is_relative_to(tmp_path / "data")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_where_setup_envtest_keeps_its_downloads(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME")
    expected = {
        "linux": "/home/me/.local/share/kubebuilder-envtest/k8s",
        "darwin": "/home/me/Library/Application Support/io.kubebuilder.envtest/k8s",
    }
    assert str(installed.setup_envtest_folder(Path("/home/me"), platform)) == expected[platform]


# The archive


def test_what_is_missing_comes_from_the_archive_and_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin/etcd")
    with _published(tmp_path, monkeypatch, _archive(NAMES)):
        folder = binaries(say=_quiet)
    assert (folder / "etcd").resolve() == tmp_path / "bin/etcd"
    assert [(folder / name).read_text() for name in NAMES[1:]] == ["kube-apiserver of it", "kubectl of it"]
    assert not list(folder.glob(".*.partial"))


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"not what is pinned", "SHA-512 differs"), (None, "Not Found"), (b"", "SHA-512 differs")],
    ids=["another file", "not there", "nothing"],
)
def test_an_archive_that_is_not_the_pinned_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    with _published(tmp_path, monkeypatch, _archive(NAMES), content), pytest.raises(archive.NoArchive, match=why):
        archive.unpack(NAMES, folder, _quiet)
    assert list(folder.iterdir()) == []


def test_an_archive_without_one_of_the_programs_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        _published(tmp_path, monkeypatch, _archive(NAMES[:2])),
        pytest.raises(archive.NoArchive, match="there is no kubectl in it"),
    ):
        archive.unpack(NAMES, tmp_path, _quiet)


def test_who_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, _published(tmp_path, monkeypatch, _archive(NAMES)):
        monkeypatch.setattr(archive, "RELEASES", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(archive.NoArchive, match=r"no answer within 0\.2 s"):
            archive.unpack(NAMES, tmp_path, _quiet)
        assert time.monotonic() - started < 10
        silent.accept()[0].close()


def test_without_a_network_they_are_built(tmp_path: Path) -> None:
    _go_that_runs(tmp_path / "bin", 'echo built > "$6"; chmod +x "$6"')
    said: list[str] = []
    folder = binaries(say=said.append)
    assert [(folder / name).read_text() for name in NAMES] == ["built\n"] * 3
    assert [line for line in said if "not to be had here (" in line], said


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_an_archive_of_the_pinned_minor_version_is_named_for_each_machine(system: str, machine: str) -> None:
    name, checksum = archive.pinned(archive.PINNED.read_text(), system, machine)
    assert name.startswith(f"envtest-v{MINOR[0]}.{MINOR[1]}.")
    assert name.endswith(f"-{system}-{'amd64' if machine == 'x86_64' else 'arm64'}.tar.gz")
    assert len(bytes.fromhex(checksum)) == 64


def test_there_is_none_for_other_machines() -> None:
    with pytest.raises(archive.NoArchive, match="no archive linux-None"):
        archive.pinned(archive.PINNED.read_text(), "linux", "riscv64")


# The build


def test_assets_without_an_api_server_are_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(tmp_path / "etcd", "")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(ControlPlaneError, match=r"no executable kube-apiserver in it: .* or unset it"):
        binaries()


def test_who_needs_the_binaries_while_they_are_built_waits_and_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, built = tmp_path / "waiting", tmp_path / "built"
    until_the_other_waits = f"until [ -e {waiting} ]; do sleep 0.01; done"
    _go_that_runs(tmp_path / "bin", f'{until_the_other_waits}; echo >> {built}; echo > "$6"; chmod +x "$6"')

    def say(line: str) -> None:
        if "waiting for it" in line:
            waiting.touch()

    with ThreadPoolExecutor(2) as two:
        folders = {future.result() for future in [two.submit(binaries, say) for _ in range(2)]}
    assert {"etcd", "kube-apiserver", "kubectl"} <= {path.name for path in folders.pop().iterdir()}
    assert len(built.read_text().splitlines()) == 3


def test_who_needs_go_while_it_is_installed_waits_and_installs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, installed = tmp_path / "waiting", tmp_path / "installed"
    venv = '[ "$2" = venv ] && { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit; }'
    until_the_other_waits = f"for _ in $(seq 1000); do [ -e {waiting} ] && break; sleep 0.01; done"
    pip = f'{until_the_other_waits}; echo >> {installed}; cp {tmp_path}/new-go "${{0%/*}}/go"'
    _script(tmp_path / "python", f"{venv}; {pip}")
    _script(tmp_path / "new-go", "echo go9.9.9")
    _script(tmp_path / "go", "echo go1.0.0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def say(line: str) -> None:
        if "waiting for it" in line:
            waiting.touch()

    cache, pinned = tmp_path / "cache", MODULE / "go-toolchain.txt"
    with ThreadPoolExecutor(2) as two:
        found = {future.result() for future in [two.submit(find_go, "1.2.3", cache, pinned, say) for _ in range(2)]}
    assert "go9.9.9" in found.pop().read_text()
    assert len(installed.read_text().splitlines()) == 1


def test_a_build_that_fails_shows_what_go_said_and_leaves_no_binary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _go_that_runs(tmp_path / "bin", 'echo half > "$6"; echo "no space left on device"; exit 1')
    with pytest.raises(ControlPlaneError, match=r"(?s)`go build \S+` failed.*no space left on device"):
        binaries(say=lambda line: None)
    assert not list(tmp_path.rglob("etcd"))


def _quiet(line: str) -> None:
    """Says nothing."""


def _program(path: Path, version: str = "") -> None:
    """One that says a version as the real one does."""
    version = version or ("3.6.8" if path.name == "etcd" else kubernetes_version()[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"etcd": f"etcd Version: {version}", "kube-apiserver": f"Kubernetes v{version}"}
    _script(path, f"echo '{said.get(path.name) or _KUBECTL.format(version)}'")


_KUBECTL = '{{"clientVersion": {{"gitVersion": "v{}"}}}}'


def _archive(names: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name in names:
            content = f"{name} of it".encode()
            member = tarfile.TarInfo(f"controller-tools/envtest/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


_AS_PINNED = b"as pinned"


@contextmanager
def _published(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, served: bytes | None = _AS_PINNED
) -> Iterator[None]:
    """A server that has the archive which is pinned, or something else in its place, or nothing (None)."""
    pinned = folder / "envtest.sha512"
    pinned.write_text(f"# why\n{hashlib.sha512(content).hexdigest()}  {ARCHIVE}\n")
    body = content if served is _AS_PINNED else served

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if body is None or self.path != f"/{ARCHIVE.removesuffix('-linux-amd64.tar.gz')}/{ARCHIVE}":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(archive, "PINNED", pinned)
        monkeypatch.setattr(archive, "RELEASES", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(archive, "this_machine", lambda: "x86_64")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


def _go_that_runs(folder: Path, build: str) -> None:
    """A `go` new enough for go.mod, first on PATH, that does `build` with the output file as $6."""
    _script(folder / "go", f'[ "$1" = env ] && {{ echo go9.9.9; exit; }}; {build}')


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
