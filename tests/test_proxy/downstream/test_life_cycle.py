"""Start, drain and stop of the real process, and what it logs."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from oauth_pool_proxy.downstream.service import Service, ServiceState
from tests.support.api_server import api_server
from tests.support.proxy_server import PoolFolder, RawClient, token_of, until
from tests.support.upstream_server import DEADLINE, SSE_HEAD, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

SCRIPT = Path(sys.executable).with_name("oauth-pool-proxy")


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, object]] = []
        self.port = 0

    async def until(self, message: str) -> dict[str, object]:
        """The next log line with this message. Everything that is printed has to be a JSON object."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := await self._process.stdout.readline():
                self.lines.append(json.loads(line))
                if re.fullmatch(message, str(self.lines[-1]["message"])):
                    return self.lines[-1]
        raise AssertionError(f"{message!r} was not logged: {self.lines}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := await self._process.stdout.readline():
                self.lines.append(json.loads(line))
            return await self._process.wait()

    @property
    def messages(self) -> list[object]:
        return [line["message"] for line in self.lines]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[RawClient]:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield client
        finally:
            client.abort()


@asynccontextmanager
async def running(
    folder: Path, upstream: UpstreamServer, more: str = "", *, drain: int = 20, started_by: tuple[str, ...] = ()
) -> AsyncIterator[Process]:
    file = folder / "proxy.toml"
    file.write_text(
        f'[proxy]\nlisten_addr = "127.0.0.1:0"\nupstream_url = "{upstream.url}"\ndrain_timeout_secs = {drain}\n{more}'
    )
    process = await asyncio.create_subprocess_exec(
        *started_by,
        SCRIPT,
        "--config",
        file,
        "--log-level",
        "debug",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "POD_NAME": "proxy-0"},
    )
    try:
        result = Process(process)
        address = (await result.until("state: Running — accepting requests"))["addr"]
        result.port = int(str(address).rpartition(":")[2])
        yield result
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stream_is_waited_for_to_its_end(
    tmp_path: Path, upstream: UpstreamServer, number: signal.Signals
) -> None:
    async with running(tmp_path, upstream) as process, process.connect() as client:
        await client.request("POST", "/v1/messages", "", b"{}")
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD)
        await client.head()
        process.signal(number)
        await process.until(f"received {number.name}, shutting down")
        with pytest.raises(ConnectionError):
            while True:  # until it has stopped listening
                async with process.connect():
                    pass
        await connection.chunk(b"data: still here\n\n")
        assert await client.chunk() == b"data: still here\n\n"
        await connection.send(b"0\r\n\r\n")
        assert await client.chunk() == b""
        assert await process.end() == 0
    assert process.messages == [
        "starting anthropic-oauth-proxy",
        "loading configuration",
        "configuration loaded",
        "state: Starting",
        "state: Running — accepting requests",
        f"received {number.name}, shutting down",
        "request finished",
        "all in-flight requests drained",
        "shutdown complete",
    ]
    for line in process.lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["timestamp"])) and line["level"]


async def test_survivors_of_the_drain_are_told_and_broken_off(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream, drain=0) as process:
        async with process.connect() as streaming, process.connect() as waiting, process.connect() as plain:
            await streaming.request("POST", "/stream", "", b"{}")
            connection = await upstream.accept()
            await connection.request()
            await connection.send(SSE_HEAD)
            await streaming.head()
            await waiting.request("POST", "/waiting", "", b"{}")
            await (await upstream.accept()).request()
            await plain.request("GET", "/plain")
            connection = await upstream.accept()
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            await plain.head()
            process.signal()
            assert b'"message":"The proxy is shutting down"' in await streaming.chunk()
            assert await streaming.rest() == b""
            answer = await waiting.answer()
            assert (answer.status, answer.json()["error"]) == (
                503,
                {"type": "api_error", "message": "The proxy is shutting down"},
            )
            assert await plain.rest() == b"half"
        forced = await process.until("drain timeout exceeded, forcing shutdown")
        assert (forced["remaining"], forced["drain_timeout_secs"]) == (3, 0)
        assert await process.end() == 0
        assert process.messages[-1] == "shutdown complete"


async def test_a_drain_can_be_watched_on_the_metrics_address(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream, 'metrics_addr = "127.0.0.1:0"\n') as process, process.connect() as client:
        started = process.lines[-1]
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        process.signal()
        with pytest.raises(ConnectionError):
            while True:  # until it has stopped listening
                async with process.connect():
                    pass
        process.port = int(str(started["metrics_addr"]).rpartition(":")[2])
        assert await status(process, "/ready") == 503
        assert await status(process, "/metrics") == 200
        await connection.send(json_answer(b"the last one"))
        assert (await client.answer()).body == b"the last one"
        assert await process.end() == 0


async def test_a_second_signal_does_not_wait(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream, drain=1000) as process, process.connect() as client:
        await client.request()
        await (await upstream.accept()).request()
        process.signal()
        await process.until("received SIGTERM, shutting down")
        process.signal()
        assert (await client.answer()).status == 503
        assert await process.end() == 0


async def test_before_it_drains_it_goes_on_for_a_while_but_is_not_ready(
    tmp_path: Path, upstream: UpstreamServer
) -> None:
    """Those who still send requests here learn only in a moment that it leaves."""
    upstream.answer_all(json_answer(b"served"))
    async with running(tmp_path, upstream, "pre_stop_delay_secs = 1000\n") as process:
        async with process.connect() as kept:
            await kept.request("GET", "/before")
            assert (await kept.answer()).body == b"served"
            assert await status(process, "/ready") == 200
            process.signal()
            await process.until("received SIGTERM, shutting down")
            assert await status(process, "/ready") == 503
            assert await status(process, "/health") == 200
            assert await status(process, "/v1/messages") == 200  # on a new connection
            await kept.request("GET", "/still")
            # so that no connection is closed at the very moment at which a client sends its next request
            assert (await kept.answer()).values(b"connection") == [b"close"]
            assert await kept.rest() == b""
            process.signal()  # does not wait for the end of the delay
        assert await process.end() == 0
    assert process.messages[-2:] == ["all in-flight requests drained", "shutdown complete"]


async def test_idle_connections_are_ended_also_while_it_goes_on_for_a_while(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oauth_pool_proxy.downstream.protocol.KEEP_ALIVE_SECONDS", 0.5)
    monkeypatch.setattr("oauth_pool_proxy.downstream.server.LOOK_SECONDS", 0.05)
    proxy = start(pre_stop_delay_secs=1000)
    async with proxy.connect() as early:
        proxy.signal()
        await until(lambda: proxy.app.service.state is ServiceState.DRAINING, "the signal to be seen")
        async with proxy.connect() as late:  # it still listens
            for client in (early, late):
                assert await client.rest() == b""


async def test_the_delay_ends_by_itself(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream, "pre_stop_delay_secs = 1\n") as process:
        process.signal()
        assert await process.end() == 0


async def test_connections_that_are_kept_are_closed_or_told_to_close(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream) as process:
        async with process.connect() as idle, process.connect() as waiting, process.connect() as streaming:
            await streaming.request("POST", "/stream", "", b"{}")
            stream = await upstream.accept()
            await stream.request()
            await stream.send(SSE_HEAD)
            assert b"connection: close" not in await streaming.head()
            await idle.request("GET", "/health")
            await idle.answer()
            await waiting.request("GET", "/waiting")
            connection = await upstream.accept()
            await connection.request()
            process.signal()
            assert await idle.rest() == b""
            await connection.send(json_answer(b"the last one"))
            answer = await waiting.answer()
            assert (answer.body, answer.values(b"connection")) == (b"the last one", [b"close"])
            assert await waiting.rest() == b""
            await stream.send(b"0\r\n\r\n")  # its head had gone out before
            assert await streaming.chunk() == b""
            assert await streaming.rest() == b""
        assert await process.end() == 0


async def test_the_time_to_drain_has_an_end(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream, drain=1) as process, process.connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        process.signal()
        assert (await client.answer()).status == 503
        await connection.wait_closed()
        assert await process.end() == 0
    assert "drain timeout exceeded, forcing shutdown" in process.messages


async def test_a_client_that_does_not_read_does_not_hold_up_the_exit(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream, drain=0) as process, process.connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        connection.writer.write(SSE_HEAD + b"1000000\r\n" + b"x" * 0x1000000)
        await client.head()
        process.signal()
        assert await process.end() == 0


async def test_an_api_server_that_is_away_does_not_stop_the_proxy(tmp_path: Path, upstream: UpstreamServer) -> None:
    """It starts, says that it is not ready, and serves as soon as there is an index; reports go the other way."""
    folder = PoolFolder(tmp_path)
    folder.write_token("a", 1, 4_000_000_000)
    async with api_server() as api:
        pool = (
            f'[oauth]\nsource = "kubernetes"\ntokens = "volume"\naccess_dir = "{folder.access}"\n'
            f'[oauth.kubernetes]\nserver = "{api.url}"\nnamespace = "pool"\n'
        )
        async with running(tmp_path, upstream, pool) as process:
            await (await api.call()).answer({}, 503)
            assert await status(process, "/ready") == 503
            assert await status(process, "/health") == 200
            assert await status(process, "/v1/messages") == 503
            folder.write_entry("a")
            await (await api.call()).list({"a": (folder.index / "a").read_text()})
            await process.until("access token read")
            assert await status(process, "/ready") == 200
            upstream.answer_all(json_answer(b"{}", 429, ("retry-after", "60")))
            assert await status(process, "/v1/messages") == 429
            watch = await api.call()
            assert watch.is_watch
            report = await api.call()
            assert report.body["status"]["reports"][0]["reporter"] == "proxy-0"  # type: ignore[index]
            process.signal()
            assert await process.end() == 0
    assert token_of("a") not in json.dumps(process.lines)


async def test_what_the_operator_does_not_know_yet_is_reported_before_the_end(
    tmp_path: Path, upstream: UpstreamServer
) -> None:
    folder = PoolFolder(tmp_path)
    folder.write_token("a", 1, 4_000_000_000)
    folder.write_entry("a")
    upstream.answer_all(json_answer(b"{}", 429, ("retry-after", "60")))
    async with api_server() as api:
        pool = (
            f'[oauth]\nsource = "kubernetes"\ntokens = "volume"\naccess_dir = "{folder.access}"\n'
            f'[oauth.kubernetes]\nserver = "{api.url}"\nnamespace = "pool"\n'
        )
        async with running(tmp_path, upstream, pool) as process:
            await (await api.call()).list({"a": (folder.index / "a").read_text()})
            await process.until("access token read")
            assert await status(process, "/v1/messages") == 429
            assert (await api.call()).is_watch
            first = await api.call()  # is not answered: nobody knows whether it has arrived
            process.signal()
            second = await api.call()
            assert (first.method, second.method, first.body) == ("PATCH", "PATCH", second.body)
            await second.answer({})
            assert await process.end() == 0


async def status(process: Process, path: str) -> int:
    async with process.connect() as client:
        await client.request("GET", path)
        return (await client.answer()).status


async def test_a_time_without_a_turn_on_the_cpu_shows_in_the_metrics(tmp_path: Path, upstream: UpstreamServer) -> None:
    async with running(tmp_path, upstream) as process, process.connect() as client:

        async def late(more_than: str) -> float:
            """How many looks came later than that."""
            await client.request("GET", "/metrics")
            name, text = "proxy_event_loop_delay_seconds", (await client.answer()).body.decode()
            looks, soon = (
                float(match[1]) if (match := re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)) else 0
                for series in (f"{name}_count", f'{name}_bucket{{le="{more_than}"}}')
            )
            return looks - soon

        before = await late("0.5")
        process.signal(signal.SIGSTOP)  # as a limit of CPU does, only longer
        await asyncio.sleep(0.7)
        process.signal(signal.SIGCONT)
        async with asyncio.timeout(DEADLINE):
            while await late("0.5") == before:  # noqa: ASYNC110 (the process has no event for it)
                await asyncio.sleep(0.02)


async def test_the_usual_limit_of_open_files_does_not_keep_clients_out(
    tmp_path: Path, upstream: UpstreamServer
) -> None:
    shell = ("sh", "-c", 'ulimit -Sn 64; exec "$0" "$@"')
    async with running(tmp_path, upstream, started_by=shell) as process, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(process.connect()) for _ in range(100)]
        for client in clients:
            await client.request("GET", "/ready")
            assert (await client.answer()).status == 200


def test_states_only_move_forward_and_stopped_is_inert() -> None:
    service = Service()
    service.starting()
    service.running(addr="x")
    service.starting()
    assert service.is_running
    service.stopped()
    service.running(addr="x")
    service.starting()
    assert service.state is ServiceState.STOPPED


async def test_a_drain_waits_for_what_survivors_have_to_say() -> None:
    service, said = Service(), list[str]()
    service.starting()
    service.running(addr="x")

    async def survivor() -> None:
        task = service.begin()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for _ in range(10):
                await asyncio.sleep(0)  # the error event takes some turns of the loop
            said.append("farewell")
        finally:
            service.end(task)

    task = asyncio.create_task(survivor())
    await asyncio.sleep(0)
    await service.drain(0)
    assert (said, task.done()) == (["farewell"], True)


async def test_a_survivor_that_does_not_end_does_not_hold_up_the_exit() -> None:
    service = Service()
    service.starting()
    end = asyncio.Event()

    async def survivor() -> None:
        service.begin()
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    task = asyncio.create_task(survivor())
    await asyncio.sleep(0)
    await service.drain(0)
    assert not task.done()
    end.set()
    await task


async def test_draining_what_is_stopped_does_nothing() -> None:
    service = Service()
    service.stopped()
    await service.drain(0)
    assert service.state is ServiceState.STOPPED
