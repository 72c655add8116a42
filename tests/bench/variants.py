"""What is measured side by side: each variant is started anew for every measurement, configured as its users would."""

import json
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.bench.environments import python_with
from tests.bench.load_program import Generator, Target, Upstream
from tests.bench.processes import Command, started
from tests.support.control_plane.plane import free_port
from tests.support.proxy_server import PoolFolder
from tests.support.service_account_tokens import claims, configuration, published, rsa_key, token

CLIENTS = 10
FAR = 4_000_000_000.0
"""When the access tokens expire."""

CLIENTS_SETTINGS = """
[clients.kubernetes]
server = "{server}"
[[clients.rules]]
match = ["key:*"]
[[clients.rules]]
match = ["team-*/*"]
models = ["claude-*", "*"]
denied_models = ["never-*"]
paths = ["/v1/"]
denied_paths = ["/v1/files"]
max_concurrent_requests = 1000
requests_per_minute = 100000000
accounts = "tier in (gold, silver)"
priority = 1
"""

IMAGE_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "33554432"}
"""What the proxy's image sets: bodies of up to 4 MiB stay in the heap instead of being mapped and unmapped one by one."""


@dataclass(frozen=True)
class Bench:
    """What all variants have in common."""

    load: Path
    folder: Path
    proxy_cores: Sequence[int]
    other_cores: Sequence[int]
    upstream: Upstream
    python: Path
    """The interpreter that has the proxy installed."""
    other_python: Path | None = None
    """One that has another version of it."""
    accounts: int = 10
    """In the pool."""


Variant = Callable[[Bench, bool], AbstractContextManager[Target]]
"""Given whether the upstream speaks TLS."""


@contextmanager
def direct(bench: Bench, is_tls: bool) -> Iterator[Target]:
    upstream = bench.upstream
    yield Target(upstream.https, ca_file=upstream.ca_file) if is_tls else Target(upstream.http)


@contextmanager
def nginx(bench: Bench, is_tls: bool) -> Iterator[Target]:
    port = free_port()
    config = bench.folder / "nginx.conf"
    config.write_text(_nginx_config(bench, port, is_tls))
    command: Command = [find_nginx() or "nginx", "-e", "stderr", "-p", bench.folder, "-c", config]
    with started(bench.load, "nginx", command, bench.proxy_cores) as process:
        seconds = process.wait_until(lambda: accepts(port), 10)
        yield Target(f"127.0.0.1:{port}", process=process, ready_seconds=seconds)


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def _nginx_config(bench: Bench, port: int, is_tls: bool) -> str:
    """One worker; no buffering of answers; bodies in memory; a JSON log line per request, like the proxy's."""
    folder, upstream = bench.folder, bench.upstream
    tls = f"""
      proxy_ssl_trusted_certificate {upstream.ca_file};
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_ssl_server_name on;
    """
    return f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr warn;
{"user root;" if os.getuid() == 0 else ""}
events {{ worker_connections 8192; }}
http {{
  log_format json escape=json '{{"timestamp":"$time_iso8601","level":"INFO","message":"request finished",'
    '"request_id":"$request_id","method":"$request_method","path":"$uri","status":$status,'
    '"duration":$request_time,"bytes":$body_bytes_sent,"first_byte":"$upstream_header_time"}}';
  access_log /dev/stdout json;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 10m;
  client_body_buffer_size 2m;
  keepalive_requests 1000000;
  upstream api {{
    server {upstream.https if is_tls else upstream.http};
    keepalive 1024;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {"https" if is_tls else "http"}://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;{tls if is_tls else ""}
    }}
  }}
}}
"""


@contextmanager
def passthrough(bench: Bench, is_tls: bool) -> Iterator[Target]:
    with _proxy(bench, is_tls, "passthrough", "") as target:
        yield target


@contextmanager
def pool(bench: Bench, is_tls: bool) -> Iterator[Target]:
    """Everything that is on by default, and the log: what a user runs."""
    with _proxy(bench, is_tls, "pool", _accounts(bench, "pool")) as target:
        yield target


@contextmanager
def clients(bench: Bench, is_tls: bool) -> Iterator[Target]:
    """The same with `[clients]`: ten of them by ServiceAccount tokens, and a rule with everything in it."""
    with _issuer() as server:
        settings = _accounts(bench, "clients") + CLIENTS_SETTINGS.format(server=server)
        with _proxy(bench, is_tls, "clients", settings) as target:
            yield target


def _accounts(bench: Bench, name: str) -> str:
    """A pool of them in a folder of this name, and the table that names it."""
    folder = bench.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pool = PoolFolder(folder)
    for number in range(bench.accounts):
        pool.write_token(f"account-{number}", expires=FAR)
        pool.write_entry(f"account-{number}", labels={"tier": "gold"})
    return "[oauth]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in pool.oauth().items())


@contextmanager
def _issuer() -> Iterator[str]:
    """The URL of what an API server publishes of its keys."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = published(rsa_key("first")) if self.path.endswith("jwks") else configuration()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _proxy(bench: Bench, is_tls: bool, name: str, more: str) -> Iterator[Target]:
    port, upstream = free_port(), bench.upstream
    url = f"https://{upstream.https}" if is_tls else f"http://{upstream.http}"
    trust = f"upstream_ca_file = {json.dumps(str(upstream.ca_file))}\n" if is_tls else ""
    config = bench.folder / f"{name}.toml"
    config.write_text(f'[proxy]\nlisten_addr = "127.0.0.1:{port}"\nupstream_url = "{url}"\n{trust}{more}')
    command: Command = [bench.python, "-m", "oauth_pool_proxy", "--config", config, "--log-level", "info"]
    with started(bench.load, name, command, bench.proxy_cores, IMAGE_ENVIRONMENT) as process:
        seconds = process.wait_until(lambda: _answers(port, "/ready"), 20)
        # The same to every proxy of ours, so that their requests are of one length.
        yield Target(f"127.0.0.1:{port}", bearer=_tokens(), process=process, ready_seconds=seconds)


@cache
def _tokens() -> str:
    """Of ten ServiceAccounts."""
    payloads = [claims(sub=f"system:serviceaccount:team-{number}:runner") for number in range(CLIENTS)]
    return ",".join(token(payload).decode() for payload in payloads)


@contextmanager
def litellm(bench: Bench, is_tls: bool) -> Iterator[Target]:
    """Its pass-through route for this API, with what its documentation asks for in production."""
    assert not is_tls, "no case for slow variants has TLS"
    port, key = free_port(), f"sk-{secrets.token_hex(32)}"
    config = bench.folder / "litellm.yaml"
    config.write_text("litellm_settings: {telemetry: false}\n")
    environment = {
        "ANTHROPIC_API_BASE": f"http://{bench.upstream.http}",
        "ANTHROPIC_API_KEY": "none",
        "LITELLM_MASTER_KEY": key,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    program = python_with("litellm").with_name("litellm")
    command: Command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with started(bench.load, "litellm", command, bench.proxy_cores, environment) as process:
        seconds = process.wait_until(lambda: _answers(port, "/health/liveliness"), 120)
        target = Target(f"127.0.0.1:{port}", "/anthropic/v1/messages", key, None, process, seconds)
        # It imports much of itself when the first requests come.
        Generator(bench.load, bench.other_cores, target).run("requests", connections=4, seconds=3)
        yield target


def of_other_version(variant: Variant) -> Variant:
    """The same with the proxy of `--against`."""

    def other(bench: Bench, is_tls: bool) -> AbstractContextManager[Target]:
        assert bench.other_python
        return variant(replace(bench, python=bench.other_python), is_tls)

    return other


VARIANTS: dict[str, Variant] = {
    "direct": direct,
    "nginx": nginx,
    "litellm": litellm,
    "passthrough": passthrough,
    "pool": pool,
    "clients": clients,
    "passthrough-other": of_other_version(passthrough),
    "pool-other": of_other_version(pool),
}
OTHER_VERSION = frozenset(("passthrough-other", "pool-other"))
"""Those of `--against`."""
SLOW = frozenset(("litellm",))
"""Those that serve about 100 requests a second, and are spared most cases."""


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    with socket.socket() as probe:
        probe.settimeout(5)
        if probe.connect_ex(("127.0.0.1", port)):
            return False
        probe.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
        try:
            return probe.recv(64).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False
