"""The console script as a person or a kubelet runs it."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("oauth-pool-proxy")
GOOD = '[proxy]\nlisten_addr = "127.0.0.1:{port}"\nupstream_url = "http://127.0.0.1:1"\n'


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("CONFIG_PATH", "LOG_LEVEL")}
    return subprocess.run(
        [SCRIPT, *arguments],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_check_says_that_a_file_is_valid_and_what_would_run(tmp_path: Path) -> None:
    (tmp_path / "anthropic-oauth-proxy.toml").write_text(
        GOOD.format(port=0)
        + '[oauth]\nsource = "file"\nindex_dir = "/index"\naccess_dir = "/access"\naffinity = false\n'
        + '[[oauth.rules]]\nstatus = [403, 400]\nwords = ["Not Here"]\nverdict = "forbidden"\ncooldown_secs = 600\n'
    )
    done = run("--check", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "anthropic-oauth-proxy.toml: valid",
        "  listens on 127.0.0.1:0, forwards to http://127.0.0.1:1",
        "  metrics and the detailed health on 127.0.0.1:0",
        "  at most 1000 requests at once, 3 attempts, 60 s until an answer",
        "  bodies of at most 10485760 bytes, 50331648 held at once",
        "  pool of provider anthropic: index from /index, access tokens from /access",
        "  forwards every path but /v1/organizations/, /api/; web pages: none",
        "  accounts by round_robin, at most 8 for a request",
        "  affinity off, usage metrics on, system prefix off",
        "  rule 1: status 400, 403; words not here -> forbidden for 600 s",
    ]


SEALED = '[oauth]\nsource = "kubernetes"\n[oauth.kubernetes]\nserver = "http://127.0.0.1:1"\nnamespace = "pool"\n'


def test_sealed_tokens_can_be_checked_outside_a_pod_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD.format(port=0) + SEALED)
    check = run("--check", "--config", "a.toml", folder=tmp_path)
    assert (check.returncode, check.stderr) == (0, "")
    assert "access tokens sealed to a key in /run/oauth-pool" in check.stdout
    done = run("--config", "a.toml", folder=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: the environment lacks POD_NAME and POD_UID: .*metadata.uid.*\n", done.stderr)


IMPORTS = """
import sys
from tests.support.proxy_server import proxy_config, running_proxy
kubernetes = {"server": "http://127.0.0.1:1", "namespace": "pool"}
oauth = {"source": "kubernetes", "key_dir": sys.argv[2], "kubernetes": kubernetes, "tokens": sys.argv[1]}
with running_proxy(proxy_config("http://127.0.0.1:1", None if sys.argv[1] == "passthrough" else oauth)):
    print("cryptography" in sys.modules)
"""


@pytest.mark.parametrize(("mode", "is_imported"), [("passthrough", False), ("volume", False), ("sealed", True)])
def test_the_library_of_sealed_tokens_is_imported_only_for_them(mode: str, is_imported: bool, tmp_path: Path) -> None:
    """It takes memory that the other ways have no use for."""
    command = [sys.executable, "-c", IMPORTS, mode, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{is_imported}\n"


def test_check_names_the_address_of_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD.format(port=8080) + 'metrics_addr = "127.0.0.1:9090"\n')
    done = run("--check", "--config", "a.toml", folder=tmp_path)
    assert done.stdout.splitlines()[1:3] == [
        "  listens on 127.0.0.1:8080, forwards to http://127.0.0.1:1",
        "  metrics and the detailed health on 127.0.0.1:9090",
    ]


def test_a_metrics_address_in_use_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "a.toml").write_text(GOOD.format(port=0) + f'metrics_addr = "127.0.0.1:{port}"\n')
        done = run("--config", "a.toml", folder=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*metrics_addr: cannot listen on 127.0.0.1:\d+: Address already in use\n", done.stderr)


def test_the_command_line_goes_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD.format(port=0))
    assert run("--check", "--config", "a.toml", folder=tmp_path, CONFIG_PATH="missing.toml").returncode == 0
    assert run("--check", folder=tmp_path, CONFIG_PATH="a.toml").returncode == 0
    done = run("--check", "--config", "missing.toml", folder=tmp_path, CONFIG_PATH="a.toml")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("place", ["--log-level", "LOG_LEVEL"])
def test_a_log_level_that_does_not_exist_is_one_line(place: str, tmp_path: Path) -> None:
    arguments, environment = (["--log-level", "loud"], {}) if place.startswith("-") else ([], {"LOG_LEVEL": "loud"})
    done = run(*arguments, folder=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f'error: {place}: must be one of error, warn, info, debug, trace, not "loud"\n'


def test_a_broken_file_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[proxy]\n")
    done = run("--config", "a.toml", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        'error: a.toml: [proxy] listen_addr: is missing; it is the address to listen on, such as "0.0.0.0:8080"\n'
    )


def test_an_address_in_use_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "a.toml").write_text(GOOD.format(port=taken.getsockname()[1]))
        done = run("--config", "a.toml", folder=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*listen_addr: cannot listen on 127.0.0.1:\d+: Address already in use\n", done.stderr)


def test_version_and_help(tmp_path: Path) -> None:
    assert re.fullmatch(r"oauth-pool-proxy \d+\.\d+\.\d+\n", run("--version", folder=tmp_path).stdout)
    assert "--check" in run("--help", folder=tmp_path).stdout
