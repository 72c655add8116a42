"""The one line that is left of a request: what became of it, and nothing that is nobody's business."""

import asyncio
import contextlib
import json
import logging
import os
import re
from typing import Any

import pytest

from oauth_pool_proxy.observe.access_log import AccessLog, RequestLine
from oauth_pool_proxy.pool.pool import Pool
from tests.support.proxy_server import PoolFolder, proxy_config, running_proxy, until
from tests.support.upstream_server import DEADLINE, SSE_HEAD, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start
from tests.test_proxy.pool.test_failover import LIMIT, answers

Line = dict[str, Any]


class Printed:
    """The lines of finished requests on standard output."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    async def line(self) -> Line:
        """The next one."""
        await until(self._has_one, "a line to be printed")
        first, self._text = self._text.split("\n", 1)
        line: Line = json.loads(first)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
        fixed = (line.pop("level"), line.pop("logger"), line.pop("message"))
        assert fixed == ("INFO", "oauth_pool_proxy.observe.access_log", "request finished")
        return line

    def rest(self) -> str:
        self._text += self._capture.readouterr().out
        return self._text

    def _has_one(self) -> bool:
        return "\n" in self.rest()


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Printed:
    caplog.set_level(logging.INFO, "oauth_pool_proxy.observe.access_log")
    return Printed(capfd)


def outcome(line: Line) -> tuple[object, ...]:
    return line["outcome"], line["status"], line.get("error")


REQUEST = b'{"model":"claude-x","stream":true,"messages":[{"role":"user","content":"hello"}]}'


async def test_a_request_that_went_well(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, printed: Printed
) -> None:
    folder.account("a")
    folder.account("b")
    good = SSE_HEAD[:-2] + b"request-id: req_theirs\r\n\r\n5\r\ndata:\r\n0\r\n\r\n"
    answers(upstream, {"a": json_answer(LIMIT, 429)}, otherwise=good)
    proxy = start(oauth=folder.oauth())
    await proxy.request("POST", "/v1/messages?beta=true", "", REQUEST)
    line = await printed.line()
    assert re.fullmatch(r"req_[0-9a-f-]{36}", line.pop("request_id"))
    assert 0 < line.pop("first_byte_ms") <= line.pop("duration_ms")
    assert line == {
        "method": "POST",
        "path": "/v1/messages",
        "status": 200,
        "outcome": "ok",
        "verdict": "ok",
        "attempts": 2,
        "bytes_in": len(REQUEST),
        "bytes_out": 5,
        "stream": True,
        "account": "b",
        "model": "claude-x",
        "upstream_request_id": "req_theirs",
    }


async def test_what_is_not_known_is_left_out(upstream: UpstreamServer, start: Start, printed: Printed) -> None:
    upstream.answer_all(json_answer(b"abc", 404))
    await start().request("DELETE", "/x")
    line = await printed.line()
    assert sorted(line) == sorted(
        [
            "request_id",
            "method",
            "path",
            "status",
            "outcome",
            "verdict",
            "attempts",
            "duration_ms",
            "bytes_in",
            "bytes_out",
            "stream",
            "first_byte_ms",
        ]
    )
    assert (line["outcome"], line["status"], line["bytes_in"], line["bytes_out"]) == ("ok", 404, 0, 3)


async def test_an_own_path_has_no_line(start: Start, printed: Printed) -> None:
    proxy = start()
    for path in ("/health", "/ready", "/metrics"):
        await proxy.request("GET", path)
    assert printed.rest() == ""


@pytest.mark.parametrize("when", ["before the head", "in the answer"])
async def test_a_client_that_left(upstream: UpstreamServer, start: Start, printed: Printed, when: str) -> None:
    async with start().connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        if when == "in the answer":
            await connection.send(SSE_HEAD + b"5\r\ndata:\r\n")
            await client.read_until(b"data:")
        client.abort()
        line = await printed.line()
    expected = ("client_gone", 200, "ClientGone") if when == "in the answer" else ("client_gone", 499, "ClientGone")
    assert outcome(line) == expected


async def test_an_answer_that_was_cut(upstream: UpstreamServer, start: Start, printed: Printed) -> None:
    async with start().connect() as client:
        await client.request()
        connection = await upstream.accept()
        await connection.request()
        await connection.send(SSE_HEAD + b"5\r\ndata:\r\n")
        await client.read_until(b"data:")
        connection.abort()
        line = await printed.line()
    assert outcome(line) == ("truncated", 200, "The upstream closed the connection in mid-answer")
    assert (line["bytes_out"], line["stream"]) == (5, True)


@pytest.mark.parametrize("beginning", [b"", SSE_HEAD + b"5\r\ndata:\r\n"], ids=["before the head", "in the answer"])
async def test_an_upstream_that_fell_silent(
    upstream: UpstreamServer, start: Start, printed: Printed, beginning: bytes
) -> None:
    upstream.answer_all(beginning)
    await start(timeout_secs=1, idle_timeout_secs=1, attempts=1).request()
    line = await printed.line()
    assert outcome(line)[:2] == ("timeout", 200 if beginning else 504)
    assert line["attempts"] == 1


async def test_an_upstream_out_of_reach(start: Start, printed: Printed) -> None:
    await start(upstream_url="http://127.0.0.1:1", attempts=2).request("POST", "/a", "", b"{}")
    line = await printed.line()
    assert outcome(line) == ("unreachable", 502, "The upstream could not be connected to (ConnectionRefusedError)")
    assert (line["attempts"], "first_byte_ms" in line) == (2, False)


async def test_a_pool_that_cools_down(
    upstream: UpstreamServer, start: Start, folder: PoolFolder, printed: Printed
) -> None:
    folder.account("a")
    answers(upstream, {"a": json_answer(LIMIT, 429, ("retry-after", "20"))})
    await start(oauth=folder.oauth()).request("POST", "/", "", REQUEST)
    line = await printed.line()
    assert outcome(line)[:2] == ("cooling_down", 429)
    assert (line["account"], line["model"], line["attempts"]) == ("a", "claude-x", 1)


async def test_a_pool_with_nobody_usable(start: Start, folder: PoolFolder, printed: Printed) -> None:
    await start(oauth=folder.oauth()).request()
    line = await printed.line()
    assert outcome(line)[:2] == ("pool_exhausted", 503)
    assert (line["attempts"], "account" in line) == (0, False)


async def test_a_body_that_is_too_long(start: Start, printed: Printed) -> None:
    await start(max_body_bytes=3).request("POST", "/", "", b"long")
    assert outcome(await printed.line()) == ("invalid_request", 413, "The request body is longer than 3 bytes")


async def test_what_is_not_http(start: Start, printed: Printed) -> None:
    proxy = start()
    async with proxy.connect() as client:
        await client.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await client.answer()
    line = await printed.line()
    assert answer.values(b"request-id") == [line["request_id"].encode()]
    assert outcome(line) == ("invalid_request", 400, "The request is not valid HTTP")
    assert (line["method"], line["path"], line["attempts"]) == ("", "", 0)
    metrics = await proxy.metrics()
    assert metrics['proxy_requests_total{method="",status="400",verdict="request"}'] == 1
    assert metrics['proxy_upstream_errors_total{error_type="invalid_request"}'] == 1


@pytest.mark.parametrize("beginning", [b"", SSE_HEAD + b"5\r\ndata:\r\n"], ids=["before the head", "in the answer"])
async def test_a_proxy_that_ends(upstream: UpstreamServer, printed: Printed, beginning: bytes) -> None:
    upstream.answer_all(beginning)
    with running_proxy(proxy_config(upstream.url)) as proxy:
        async with proxy.connect() as client:
            await client.request()
            if beginning:
                await client.head()
            await until(lambda: upstream.requests, "the request to be under way")
            await asyncio.to_thread(proxy.stop)
            line = await printed.line()
    assert outcome(line) == ("shutting_down", 200 if beginning else 503, "The proxy is shutting down")


async def test_a_bug(start: Start, folder: PoolFolder, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.account("a")
    proxy = start(oauth=folder.oauth())

    def broken(*_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(Pool, "pick", broken)
    answer = await proxy.request()
    assert (answer.status, answer.json()["error"]) == (
        500,
        {"type": "api_error", "message": "Internal error of the proxy"},
    )
    assert outcome(await printed.line()) == ("error", 500, "RuntimeError")  # its words may quote a token
    monkeypatch.undo()
    assert (await proxy.metrics())['pool_account_in_flight{account_id="a"}'] == 0


async def test_lines_of_one_turn_are_written_at_once_and_in_order() -> None:
    reading, writing = os.pipe()
    log = AccessLog(writing)
    for number in range(3):
        log.write(RequestLine(str(number), "GET", '/é\n"', 200, "ok", "ok", 1, 1.0, 0, 0, False))
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    await asyncio.sleep(0)
    lines = [json.loads(line) for line in os.read(reading, 65536).splitlines()]
    assert [(line["request_id"], line["path"]) for line in lines] == [(str(number), '/é\n"') for number in range(3)]
    os.close(reading)
    log.write(RequestLine("late", "GET", "/", 200, "ok", "ok", 1, 1.0, 0, 0, False))
    log.flush()  # nobody reads any more
    os.close(writing)


def named(number: int) -> RequestLine:
    return RequestLine(str(number), "GET", "/" + "x" * 1000, 200, "ok", "ok", 1, 1.0, 0, 0, False)


async def test_lines_stay_whole_when_only_a_part_of_them_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    log, write = AccessLog(writing), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:700]))
    for number in range(10):
        log.write(named(number))
    log.flush()
    os.close(writing)
    lines = os.read(reading, 65_536).splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == [str(number) for number in range(10)]
    os.close(reading)


async def test_lines_stay_whole_when_nobody_reads_a_pipe_that_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    log = AccessLog(writing)
    most = 200  # three times what the pipe takes
    for number in range(most):
        log.write(named(number))
        await asyncio.sleep(0)
    os.set_blocking(reading, False)
    received = b""
    async with asyncio.timeout(DEADLINE):
        while received.count(b"\n") < most:
            with contextlib.suppress(BlockingIOError):
                received += os.read(reading, 100_000)
            await asyncio.sleep(0.001)
    ids = [json.loads(line)["request_id"] for line in received.splitlines()]
    assert ids == [str(number) for number in range(most)]
    os.close(reading)
    os.close(writing)


async def test_what_is_held_for_a_pipe_that_nobody_reads_is_bounded_by_whole_lines() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    log = AccessLog(writing)
    for number in range(3000):  # three megabytes
        log.write(named(number))
        log.flush()
    os.set_blocking(reading, False)
    received = b""
    async with asyncio.timeout(DEADLINE):
        while b'"request_id":"late"' not in received:
            with contextlib.suppress(BlockingIOError):
                received += os.read(reading, 1_000_000)
            if len(received) > 500_000:
                log.write(RequestLine("late", "GET", "/", 200, "ok", "ok", 1, 1.0, 0, 0, False))
            await asyncio.sleep(0.001)
    ids = [json.loads(line)["request_id"] for line in received.splitlines()]
    assert 500 < ids.index("late") < 1500
    os.close(reading)
    os.close(writing)
