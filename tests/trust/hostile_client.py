"""Somebody who reaches the traffic port, without a key, and with one that is good for nothing but inference."""

import contextlib
import secrets
import socket
from pathlib import Path

import httpx2

from .hostile_stack import HostileStack, Log

HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: pool\r\n"
PATHS = (
    *("/v1/organizations/me", "//v1/organizations/me", "/v1/./organizations/me", "/v1/messages/../organizations/me"),
    *("/v1/%6frganizations/me", "/v1/%256frganizations/me", "/v1%2Forganizations%2Fme", "/v1\\organizations\\me"),
    *("/api/oauth/profile", "/v1/Organizations/me", "/v1/organizations;x/me", "/./api/x"),
)
NOT_HTTP = (
    HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    HEAD + b"host: other\r\n\r\n",
    HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
    HEAD + b"".join(b"x%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    secrets.token_bytes(2000),
)
MOST_GROWTH_KIB = 64 * 1024


def act(stack: HostileStack, log: Log, many: int) -> None:
    """`many` is how often what is a matter of numbers is done."""
    memory, seen = _memory(stack), stack.received()
    key = {"x-api-key": stack.client_key}

    with httpx2.Client(base_url=stack.proxy_url, timeout=30) as client:
        codes = {
            client.get("/v1/models", headers={"authorization": f"Bearer {_bad(number)}"}).status_code
            for number in range(many)
        }
        log.add("bad tokens", many, f"{_said(codes)}", kept=codes == {401})
        forged = {"tailscale-user-login": "boss@example.com", "x-forwarded-user": "boss", "forwarded": "for=127.0.0.1"}
        codes = {client.get("/v1/models", headers={name: value}).status_code for name, value in forged.items()}
        log.add("headers that name somebody else", len(forged), _said(codes), kept=codes == {401})
        codes = {client.request(method, "/v1/models", headers=key).status_code for method in ("TRACE", "DEBUG")}
        log.add("TRACE, to see the access token", 2, _said(codes), kept=codes <= {405, 501})
    codes = {int(_exchange(stack, _get(path, stack.client_key))[9:12] or 0) for path in PATHS}
    log.add("paths that make keys or read profiles", len(PATHS), _said(codes), kept=codes == {404})
    codes = {int(_exchange(stack, data)[9:12] or 0) for data in NOT_HTTP}
    log.add(
        "two requests in one, endless heads, no HTTP",
        len(NOT_HTTP),
        _said(codes),
        kept=codes <= {0, 400, 401, 421, 505},
    )
    arrived = stack.received() - seen
    log.add("all of that, seen from upstream", 1, f"{arrived} requests", kept=arrived == 0)

    with contextlib.ExitStack() as open_connections:
        for number in range(many // 5):
            connection = open_connections.enter_context(_connection(stack))
            connection.sendall(HEAD + (b"x-slow: " if number % 2 else b"content-length: 1000000\r\n\r\nx"))
        served = sum(stack.ask().is_success for _ in range(20))
        came = f"{served} of 20 requests of others were served"
        log.add("connections that never finish their request", many // 5, came, kept=served == 20)
    long = HEAD + b"x-api-key: " + stack.client_key.encode() + b"\r\ncontent-length: 900000000000\r\n\r\n"
    code = _exchange(stack, long)[9:12]
    log.add("a body of 900 GB", 1, f"{code.decode()}", kept=code == b"413")
    grown = _memory(stack) - memory
    log.add("memory", 1, f"{grown / 1024:.0f} MiB more", kept=grown < MOST_GROWTH_KIB)
    log.add("afterwards", 1, "the pool is well", kept=stack.is_well())


def _bad(number: int) -> str:
    """Keys and JWTs of nobody, each a new one."""
    random = secrets.token_urlsafe(32)
    return random if number % 2 else f"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.{random}.{random}"


def _said(codes: set[int]) -> str:
    return " and ".join(str(code) for code in sorted(codes))


def _get(path: str, key: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: pool\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n".encode()


def _connection(stack: HostileStack) -> socket.socket:
    url = httpx2.URL(stack.proxy_url)
    return socket.create_connection((url.host, url.port or 80), timeout=20)


def _exchange(stack: HostileStack, data: bytes) -> bytes:
    """What comes back first; empty when the connection is closed without a word."""
    with _connection(stack) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        return connection.recv(4096)
    return b""


def _memory(stack: HostileStack) -> int:
    """What the proxy has in memory, in KiB."""
    lines = Path(f"/proc/{stack.proxy.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
