"""The real proxy on a loopback port: uvicorn, uvloop and sockets, in a thread of its own, and a raw client for it."""

import asyncio
import hashlib
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from oauth_pool_proxy.app import App
from oauth_pool_proxy.config import Config, parse_config
from oauth_pool_proxy.downstream.protocol import HttpProtocol
from oauth_pool_proxy.downstream.server import Server, bind
from tests.support.upstream_server import DEADLINE

NOW = 1_800_000_000.0


class Clock:
    """Wall time that passes when the test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def rfc3339(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def proxy_config(upstream_url: str, oauth: dict[str, object] | None = None, **proxy: object) -> Config:
    """A configuration as a file would give it, with short time limits."""
    headers, clients = proxy.pop("headers", []), proxy.pop("clients", None)
    values: dict[str, object] = {
        "proxy": {"listen_addr": "127.0.0.1:0", "upstream_url": upstream_url, "timeout_secs": 15, **proxy},
        "headers": headers,
    }
    if oauth is not None:
        values["oauth"] = oauth
    if clients is not None:
        values["clients"] = clients
    return parse_config(values, {})


@dataclass
class Head:
    """Of a request, where no connection brings one."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    peer: str = ""
    is_from_tailnet: bool = False

    def __post_init__(self) -> None:
        self.fields = dict(self.headers)


class PoolFolder:
    """A pool index and access files on disk, as the operator would have written them."""

    def __init__(self, root: Path) -> None:
        self.index, self.access = root / "index", root / "access"
        self.index.mkdir()
        self.access.mkdir()

    def oauth(self, **settings: object) -> dict[str, object]:
        return {"source": "file", "index_dir": str(self.index), "access_dir": str(self.access), **settings}

    def account(self, name: str, **changes: object) -> None:
        self.write_token(name, int(str(changes.get("generation", 1))))
        self.write_entry(name, **changes)

    def write_entry(self, name: str, **changes: object) -> None:
        entry = index_entry(name, **changes)
        temporary = self.index / f".{name}"
        temporary.write_text(json.dumps(entry))
        temporary.rename(self.index / name)

    def write_token(self, name: str, generation: int = 1, expires: float = NOW + 3600) -> None:
        document = {"generation": generation, "access_token": token_of(name, generation), "expires": rfc3339(expires)}
        (self.access / f"uid-{name}.json").write_text(json.dumps(document))


def token_of(name: str, generation: int = 1) -> str:
    return f"access-token-of-{name}-{generation}"


def index_entry(name: str, **changes: object) -> dict[str, object]:
    """An entry in the wire format; `generation` decides the fingerprint."""
    generation = int(str(changes.get("generation", 1)))
    fingerprint = hashlib.sha256(token_of(name, generation).encode()).hexdigest()[:16]
    return {
        "version": 1,
        "name": name,
        "uid": f"uid-{name}",
        "provider": "anthropic",
        "status": "Available",
        "priority": 0,
        "weight": 1,
        "maxConcurrentRequests": 0,
        "generation": generation,
        "fingerprint": fingerprint if generation else "",
        "expires": rfc3339(NOW + 3600) if generation else None,
        "cooldownUntil": None,
        "cooldownSeconds": 7200,
        **changes,
    }


class RunningProxy:
    def __init__(
        self, app: App, server: "StoppableServer", port: int, metrics_port: int, tailnet_port: int = 0
    ) -> None:
        self.app, self._server, self.port = app, server, port
        self.metrics_port = metrics_port
        """Of `metrics_addr`; without one, `port`."""
        self.tailnet_port = tailnet_port
        """Of `tailscale_listen_addr`; 0 without one."""

    def stop(self) -> None:
        """Ends it, as a signal would, and returns when it has ended. Again does nothing."""
        self._server.stop()

    def signal(self) -> None:
        """What SIGTERM does."""
        self._server.signal()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self.app.admission.waiting

    @property
    def connections(self) -> list[HttpProtocol]:
        """Of clients."""
        return [one for one in self._server.server_state.connections if isinstance(one, HttpProtocol)]

    async def look(self, later: float = 0) -> None:
        """Let it look at its connections now, as it does once a second, and take it that `later` seconds have passed."""
        await asyncio.to_thread(self._server.look_now, later)

    @asynccontextmanager
    async def connect(self, port: int = 0) -> AsyncIterator["RawClient"]:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", port or self.port, limit=1 << 20))
        try:
            yield client
        finally:
            client.abort()

    async def request(
        self, method: str = "GET", target: str = "/v1/models", headers: str = "", body: bytes = b"", *, port: int = 0
    ) -> "RawAnswer":
        """One request on a connection of its own."""
        async with self.connect(port) as client:
            await client.request(method, target, headers, body)
            return await client.answer(is_head=method == "HEAD")

    async def metrics(self) -> dict[str, float]:
        """All samples of `/metrics`, each under its name and labels as they are written."""
        text = (await self.request("GET", "/metrics", port=self.metrics_port)).body.decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}


class RawAnswer:
    """An answer as it was on the wire. `is_complete` is false when the connection ended before the answer did."""

    def __init__(self, head: bytes, body: bytes, *, is_complete: bool) -> None:
        line, *rest = head[:-4].split(b"\r\n")
        self.status = int(line.split(b" ")[1])
        self.headers = [(name.lower(), value) for name, _, value in (text.partition(b": ") for text in rest)]
        self.body, self.is_complete = body, is_complete

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def json(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.body)
        return document


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE):
            await self.writer.drain()

    async def request(
        self, method: str = "GET", target: str = "/v1/models", headers: str = "", body: bytes = b""
    ) -> None:
        length = f"content-length: {len(body)}\r\n" if body else ""
        await self.send(f"{method} {target} HTTP/1.1\r\nhost: proxy\r\n{length}{headers}\r\n".encode() + body)

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def read_until(self, text: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readuntil(text)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked answer; empty for the last one."""
        async with asyncio.timeout(DEADLINE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            with suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def answer(self, *, is_head: bool = False) -> RawAnswer:
        head = await self.head()
        answer = RawAnswer(head, b"", is_complete=True)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            if is_head or answer.status in (204, 304):
                return answer
            if answer.values(b"transfer-encoding"):
                while True:
                    chunk = await self.chunk()
                    if not chunk:
                        return answer
                    answer.body += chunk
            async with asyncio.timeout(DEADLINE):
                answer.body = await self.reader.readexactly(int(answer.values(b"content-length")[0]))
            return answer
        answer.is_complete = False
        return answer

    def abort(self) -> None:
        self.writer.transport.abort()


class StoppableServer(Server):
    """Runs in a thread, and ends when it is told to, not up to a tenth of a second later."""

    def start(self, listener: socket.socket) -> None:
        self._thread = threading.Thread(target=self.run, args=([listener],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + DEADLINE
        while not self._service.is_running:
            assert self._thread.is_alive() and time.monotonic() < deadline, "the proxy did not start"
            time.sleep(0.005)

    async def main_loop(self) -> None:
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        for counter in itertools.count():
            if await self.on_tick(counter):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._told.wait()

    def stop(self) -> None:
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the proxy did not stop"

    def _end(self) -> None:
        self._service.force()
        self.should_exit = True
        self._told.set()

    def signal(self) -> None:
        self._loop.call_soon_threadsafe(self._on_signal, signal.SIGTERM)

    def look_now(self, later: float) -> None:
        has_looked = threading.Event()

        def look() -> None:
            self.look(self._loop.time() + later)
            has_looked.set()

        self._loop.call_soon_threadsafe(look)
        assert has_looked.wait(DEADLINE)


@contextmanager
def running_proxy(config: Config, clock: Callable[[], float] = time.time) -> Iterator[RunningProxy]:
    app = App(config, clock)
    listener = bind(config.proxy.listen)
    monitoring = bind(config.proxy.metrics) if config.proxy.metrics else None
    tailscale = config.clients.tailscale if config.clients else None
    tailnet = bind(tailscale) if tailscale else None
    server = StoppableServer(app, replace(config.proxy, drain_timeout=0), monitoring, tailnet)
    port = listener.getsockname()[1]
    proxy = RunningProxy(
        app,
        server,
        port,
        monitoring.getsockname()[1] if monitoring else port,
        tailnet.getsockname()[1] if tailnet else 0,
    )
    server.start(listener)
    try:
        yield proxy
    finally:
        proxy.stop()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"did not happen in time: {what}"
        await asyncio.sleep(0.005)
