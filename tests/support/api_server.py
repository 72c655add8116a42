"""A small Kubernetes API server that the test plays: lists and watches of single ConfigMaps, and patches of status.

Every request is given to the test as a `Call`, in the order of arrival; nothing is answered by itself.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from tests.support.upstream_server import (
    DEADLINE,
    RawRequest,
    UpstreamConnection,
    UpstreamServer,
    json_answer,
    upstream_server,
)


class Call:
    def __init__(self, request: RawRequest, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.method = request.line.split(b" ")[0].decode()
        url = urlsplit(request.target.decode())
        self.path = url.path
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.token = next(iter(request.values(b"authorization")), b"").decode().removeprefix("Bearer ")
        self.content_type = next(iter(request.values(b"content-type")), b"").decode()
        self.body = json.loads(request.body) if request.body else None
        self.name = self.query.get("fieldSelector", "").removeprefix("metadata.name=")
        """Of the ConfigMap that a list or a watch is about."""

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "1"

    async def answer(self, document: object, status: int = 200) -> None:
        await self.connection.send(json_answer(json.dumps(document).encode(), status))

    async def list(self, data: Mapping[str, str] | None, version: int = 1, shards: str | None = None) -> None:
        """Answer a list: the ConfigMap with this data, or none."""
        items = [] if data is None else [config_map(data, version, shards)]
        await self.answer({"kind": "ConfigMapList", "metadata": {"resourceVersion": str(version)}, "items": items})

    async def begin_watch(self) -> None:
        await self.connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    async def event(self, kind: str, document: object) -> None:
        await self.connection.chunk(json.dumps({"type": kind, "object": document}).encode() + b"\n")

    async def end_watch(self) -> None:
        await self.connection.send(b"0\r\n\r\n")


class ApiServer:
    def __init__(self, server: UpstreamServer) -> None:
        self.url = server.url
        self._calls: list[Call] = []
        self._arrived = asyncio.Condition()
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, name: str | None = None) -> Call:
        """The next one, or the next one about this ConfigMap."""

        def first() -> Call | None:
            return next((call for call in self._calls if name in (None, call.name)), None)

        async with asyncio.timeout(DEADLINE), self._arrived:
            found = await self._arrived.wait_for(first)
            assert found
            self._calls.remove(found)
            return found

    async def run(self) -> None:
        while True:
            connection = await asyncio.wait_for(self._server.accept(), None)
            self._tasks.append(asyncio.create_task(self._read(connection)))

    async def _read(self, connection: UpstreamConnection) -> None:
        while True:
            try:
                call = Call(await connection.request(), connection)
                async with self._arrived:
                    self._calls.append(call)
                    self._arrived.notify_all()
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                return


def config_map(data: Mapping[str, str] | None, version: int = 1, shards: str | None = None) -> dict[str, object]:
    metadata: dict[str, object] = {"name": "oauth-pool", "resourceVersion": str(version)}
    if shards is not None:
        metadata["annotations"] = {"oauthpool.dev/shards": shards}
    return {"metadata": metadata, "data": data}


@asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    async with upstream_server() as server:
        api = ApiServer(server)
        task = asyncio.create_task(api.run())
        try:
            yield api
        finally:
            task.cancel()
            for reader in api._tasks:
                reader.cancel()
