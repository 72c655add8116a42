"""The simulator on a socket: uvicorn in a thread, on a free loopback port unless told otherwise."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from .app import create_app
from .clock import Clock
from .exchange import Protocol
from .settings import Settings
from .simulator import Simulator

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 30.0


class SimulatorServer:
    """A running simulator: `with SimulatorServer() as server: …` with `server.url` and `server.simulator`.

    It accepts connections when `start` returns. `stop` cuts what is still open, streams that stall included, and
    returns when the thread has ended; both are done by the `with` statement. With a certificate, it speaks TLS.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate_file: Path | None = None,
        key_file: Path | None = None,
    ) -> None:
        self.simulator = Simulator(settings, clock=clock)
        self._address = (host, port)
        self._tls = (certificate_file, key_file)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end; once it was started."""
        assert self._url, "the simulator was not started"
        return self._url

    def start(self) -> Self:
        """Raises OSError when the address cannot be had."""
        certificate_file, key_file = self._tls
        listener = _listen(*self._address)
        config = uvicorn.Config(
            create_app(self.simulator),
            http=Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            ssl_certfile=certificate_file,
            ssl_keyfile=key_file,
        )
        is_ready = threading.Event()
        self._server = _Server(config, listener, is_ready.set)
        self._thread = threading.Thread(target=self._server.run_in_thread, name="simulator", daemon=True)
        self._thread.start()
        if not is_ready.wait(_START_TIMEOUT) or not self._server.started:
            listener.close()
            raise RuntimeError("the simulator did not start")
        host, port = listener.getsockname()[:2]
        self._url = f"{'http' if certificate_file is None else 'https'}://{host}:{port}"
        return self

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.request_stop()
        self._thread.join(_STOP_TIMEOUT)
        if self._thread.is_alive():
            raise RuntimeError("the simulator did not stop")
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Server(uvicorn.Server):
    """uvicorn's server, which starts and stops as fast as it can and waits for no client."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._listener = listener
        self._ready = ready
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_in_thread(self) -> None:
        """The thread's function. Whoever waits for the start is woken when there will be none, too."""
        try:
            self.run(sockets=[self._listener])
        finally:
            self._listener.close()
            self._ready()

    def request_stop(self) -> None:
        """From any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready()

    async def main_loop(self) -> None:
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Hang up on everybody: the end of a connection ends the request on it."""
        for server in self.servers:
            server.close()
        while self.server_state.connections or self.server_state.tasks:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0.001)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. It names its protocol so that asyncio turns Nagle's algorithm off for its connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
