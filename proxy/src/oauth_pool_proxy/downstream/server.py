"""uvicorn, run our way: our socket, our signals, and a shutdown that waits for streams to their end.

The overridden methods are those of uvicorn's pinned minor version; the life cycle tests fail when they move.
"""

import asyncio
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from oauth_pool_proxy.app import App
from oauth_pool_proxy.config import Address
from oauth_pool_proxy.downstream.protocol import HttpProtocol, State
from oauth_pool_proxy.downstream.service import FAREWELL_SECONDS, log
from oauth_pool_proxy.errors import ConfigInvalid

BACKLOG = 4096
KEEP_ALIVE_SECONDS = 75
TICK_SECONDS = 0.1
"""How long uvicorn sleeps between two ticks."""
LOOK_TICKS = 50
"""How many ticks pass between two looks for idle connections."""


def bind(address: Address) -> socket.socket:
    """A listening socket, or `ConfigInvalid` with the reason: the address is a setting."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        is_any_v6 = family == socket.AF_INET6 and address.host == "::"
        return socket.create_server(
            where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=is_any_v6 and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        # create_server() adds the address to the text, which is said already; a failed look-up has no other text.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigInvalid(f"[proxy] listen_addr: cannot listen on {address}: {reason}") from None


class Server(uvicorn.Server):
    def __init__(
        self, app: App, drain_timeout: float, pre_stop_delay: float = 0, http: type[HttpProtocol] = HttpProtocol
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=http,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
            )
        )
        self.server_state: State = State()
        self._service, self._drain_timeout, self._pre_stop_delay = app.service, drain_timeout, pre_stop_delay
        self._metrics = app.metrics
        self._next_tick: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.starting()
        await super().startup(sockets)
        host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
        # What exists by now stays: the garbage collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self._service.running(str(Address(host, port)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._service.linger(self._pre_stop_delay)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # closes it if it is idle, else after its answer
        await self._service.drain(self._drain_timeout)
        await self._flush()
        await self.lifespan.shutdown()
        self._service.stopped()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; later than that when the loop had other things to do."""
        if self._next_tick is not None:
            self._metrics.loop_was_late(max(0.0, time.monotonic() - self._next_tick))
        if counter % LOOK_TICKS == 0:
            since = asyncio.get_running_loop().time() - KEEP_ALIVE_SECONDS
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpProtocol):
                    connection.close_if_idle(since)
        should_exit = await super().on_tick(counter)
        self._next_tick = time.monotonic() + TICK_SECONDS
        return should_exit

    async def _flush(self) -> None:
        """A connection is gone when its last bytes are; a client that does not read them cannot hold up the exit."""
        deadline = time.monotonic() + FAREWELL_SECONDS
        # uvicorn has no event for it.
        while self.server_state.connections and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains, the second does not wait, and the process ends by itself with exit code 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.should_exit:
            self._service.force()
            return
        log.info("received %s, shutting down", number.name)
        self._service.leave()
        self.server_state.is_leaving = True
        self.should_exit = True
