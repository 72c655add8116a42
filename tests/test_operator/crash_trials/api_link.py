"""A TCP connection to the API server that can be cut or fall silent: how an API server that is gone looks to one client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

END_SECONDS = 2.0


class ApiLink:
    """Relays bytes between its own port and the API server's."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._forgotten: list[asyncio.Event] = []
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.cut()
            await server.wait_closed()
            if self._relays:  # each ends now that its ends are gone, and not by being cancelled
                await asyncio.wait(self._relays, timeout=END_SECONDS)

    def cut(self) -> None:
        """Break every connection, and each new one at once."""
        self._is_cut = True
        for flows in (self._flows, *self._forgotten):
            flows.set()
        for writer in self._writers:
            writer.transport.abort()

    def fall_silent(self) -> None:
        """Take everything and hand on nothing, as behind a lost route."""
        self._flows.clear()

    def mend(self) -> None:
        self._is_cut = False
        self._flows.set()

    def forget(self) -> None:
        """The connections there are stay silent for ever, as when a gateway has forgotten them; new ones are well."""
        self._flows.clear()
        self._forgotten.append(self._flows)
        self._flows = asyncio.Event()
        self._flows.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except ConnectionRefusedError:  # the API server itself is gone
            writer.transport.abort()
            return
        ends = {writer, upstream_writer}
        self._writers |= ends
        flows = self._flows
        try:
            await asyncio.gather(self._pump(reader, upstream_writer, flows), self._pump(upstream_reader, writer, flows))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        """One direction, until it ends; either end's leaving ends both."""
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
