"""Runs uvicorn with the proxy's own sockets and signal handling, and with a shutdown that waits for streams to end.

The overridden methods are those of uvicorn's pinned minor version. The life cycle tests fail if they move.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from oauth_pool_proxy.config import Address, ProxyConfig
from oauth_pool_proxy.downstream.protocol import HttpProtocol, MonitoringProtocol, TailnetProtocol
from oauth_pool_proxy.downstream.service import FAREWELL_SECONDS, Service
from oauth_pool_proxy.downstream.state import Application, State
from oauth_pool_proxy.errors import ConfigInvalid

log = logging.getLogger(__name__)

BACKLOG = 4096
MOST_FILES = 65_536
TICK_SECONDS = 0.1
"""uvicorn's sleep between two ticks."""
LOOK_SECONDS = 1.0
"""The interval between two checks of all connections."""


def bind(address: Address, setting: str = "[proxy] listen_addr") -> socket.socket:
    """Return a listening socket, or raise `ConfigInvalid` with the reason: the address is a setting."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        is_any_v6 = family == socket.AF_INET6 and address.host == "::"
        return socket.create_server(
            where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=is_any_v6 and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        # create_server() adds the address to its text, which would say it twice. A failed lookup has no other text.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigInvalid(f"{setting}: cannot listen on {address}: {reason}") from None


def allow_open_files() -> None:
    """Raise the soft limit: every connection is an open file, and the usual 1024 is meant for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


class Served(Application, Protocol):
    """The application to serve. Its ASGI interface is used for the lifespan only."""

    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    def loop_was_late(self, seconds: float) -> None: ...


class Server(uvicorn.Server):
    """Serves `app` on the sockets given to `run`, and on the separate `monitoring` and `tailnet` sockets, if any."""

    server_state: State

    def __init__(
        self,
        app: Served,
        config: ProxyConfig,
        monitoring: socket.socket | None = None,
        tailnet: socket.socket | None = None,
    ) -> None:
        super().__init__(_settings(app))
        self.server_state = State(config.max_client_connections, config.idle_timeout, app)
        self._service, self._loop_was_late = app.service, app.loop_was_late
        self._drain_timeout, self._pre_stop_delay = config.drain_timeout, config.pre_stop_delay
        self._leave_at = float("-inf")
        self._next_tick: float | None = None
        self._monitoring, self._tailnet = monitoring, tailnet
        self._monitoring_server: asyncio.Server | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.starting()
        await super().startup(sockets)
        addresses = {"addr": _address_of((sockets or self.servers[0].sockets)[0])}
        if self._monitoring:
            addresses["metrics_addr"] = _address_of(self._monitoring)
            self._monitoring_server = await self._listen(self._monitoring, MonitoringProtocol)
        if self._tailnet:
            addresses["tailscale_listen_addr"] = _address_of(self._tailnet)
            self.servers.append(await self._listen(self._tailnet, TailnetProtocol))
        self._looking = asyncio.create_task(self._look_at_connections())
        # What exists by now stays. The garbage collector need not scan it again and again.
        gc.collect()
        gc.freeze()
        self._service.running(**addresses)

    async def _listen(self, listener: socket.socket, protocol: type[HttpProtocol]) -> asyncio.Server:
        def connected() -> HttpProtocol:
            return protocol(self.config, self.server_state, self.lifespan.state)

        return await asyncio.get_running_loop().create_server(connected, sock=listener, backlog=BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._close_idle()
        await self._service.drain(self._drain_timeout)
        if self._monitoring_server:  # a long drain can be watched to its end
            self._monitoring_server.close()
            self._close_idle()
        await self._flush()
        self._looking.cancel()
        await self.lifespan.shutdown()
        self._service.stopped()

    def _close_idle(self) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()  # closes it if it is idle, else after its answer

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second, or later if the loop was busy. True: it is time to leave.

        Until then everything goes on as before, even after a signal: those that still route requests here learn of it only
        a moment later.
        """
        if self._next_tick is not None:
            self._loop_was_late(max(0.0, time.monotonic() - self._next_tick))
        should_exit = await super().on_tick(counter)
        self._next_tick = time.monotonic() + TICK_SECONDS
        return should_exit and (self._service.is_forced or time.monotonic() >= self._leave_at)

    async def _look_at_connections(self) -> None:
        """Check all of them at once, instead of one timer for each. Runs to the very end."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look(asyncio.get_running_loop().time())
            except Exception:  # a bug; keep checking, as the next round may succeed
                log.exception("cannot look at the connections")

    def look(self, now: float) -> None:
        """End the connections that are idle or make no progress. `now` is the loop's time."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.look(now)

    async def _flush(self) -> None:
        """Wait until every connection has sent its last bytes. A client that does not read them cannot hold up the exit."""
        deadline = time.monotonic() + FAREWELL_SECONDS
        # uvicorn has no event for this.
        while self.server_state.connections and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains, the second ends the wait. The process exits by itself, with code 0."""
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
        self._leave_at = time.monotonic() + self._pre_stop_delay
        self.should_exit = True


def _settings(app: Served) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )


def _address_of(listener: socket.socket) -> str:
    return str(Address(*listener.getsockname()[:2]))
