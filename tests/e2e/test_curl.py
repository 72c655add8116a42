"""curl through the proxy, with the options that people and scripts use."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway import Gateway
from tests.e2e.questions import TEXT, asking, served
from tests.simulator.recorder import Outcome
from tests.support.proxy_server import until
from tests.support.tools import program

# exit codes of curl: an answer that ended before its end, and a connection that was reset
PARTIAL_FILE, RECV_ERROR = 18, 56
VERSION = "2023-06-01"


class Curl:
    """Asks one gateway. `-v` writes what was on the wire to `log`."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self._gateway = gateway
        self._folder = folder
        # not what a person has in ~/.curlrc; a limit, so that nothing hangs
        self._command = [program("curl"), "--disable", "--silent", "--show-error", "--max-time", "30"]

    def arguments(self, *options: str, path: str = "/v1/messages", body: Any = None) -> list[str]:
        headers = [f"authorization: Bearer {self._gateway.key}"]
        if self._gateway.mode == "passthrough":
            headers.append(f"anthropic-version: {VERSION}")
        data: list[str] = []
        if body is not None:
            # from a file, because a command line has its limits
            content = self._folder / "body.json"
            content.write_text(json.dumps(body))
            headers.append("content-type: application/json")
            data = ["--data-binary", f"@{content}"]
        with_headers = [argument for header in headers for argument in ("-H", header)]
        return [*self._command, *options, *with_headers, *data, f"{self._gateway.url}{path}"]

    def run(self, *options: str, path: str = "/v1/messages", body: Any = None) -> subprocess.CompletedProcess[bytes]:
        command = self.arguments(*options, path=path, body=body)
        return subprocess.run(command, capture_output=True, timeout=60, check=False)

    def ask(self, *options: str, path: str = "/v1/messages", body: Any = None) -> tuple[dict[str, str], bytes]:
        """Headers (the status among them) and body, of a request that went well."""
        head = self._folder / "head.txt"
        ended = self.run("--fail-with-body", "-D", str(head), *options, path=path, body=body)
        assert ended.returncode == 0, (ended.stderr, ended.stdout)
        return _headers(head.read_text()), ended.stdout

    @contextmanager
    def started(self, *options: str, body: Any) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(self.arguments(*options, body=body), stdout=subprocess.PIPE) as process:
            try:
                yield process
            finally:
                process.kill()


def _headers(text: str) -> dict[str, str]:
    """Of the last head: before it there may be one of a 100."""
    status, *lines = text.strip().replace("\r", "").split("\n\n")[-1].split("\n")
    pairs = (line.partition(": ") for line in lines)
    return {"status": status.split()[1], **{name.lower(): value for name, _, value in pairs}}


@pytest.fixture
def curl(gateway: Gateway, tmp_path: Path) -> Curl:
    return Curl(gateway, tmp_path)


def text_of(body: bytes) -> str:
    text: str = json.loads(body)["content"][0]["text"]
    return text


def text_of_stream(body: bytes) -> str:
    """All of it, from a stream that must be whole."""
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "message_stop"
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--http1.1"], id="http1.1"),
        # offers an upgrade to HTTP/2, which may be declined
        pytest.param(["--http2"], id="http2-offered"),
        pytest.param(["--http1.0"], id="http1.0"),
        pytest.param(["--compressed"], id="compressed"),
        pytest.param(["-H", "transfer-encoding: chunked"], id="chunked-request"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "json-chunked", "stream"])
def test_an_answer_is_whole(gateway: Gateway, curl: Curl, options: list[str], kind: str) -> None:
    gateway.simulator.switches.set(gzip=True, json_chunked=kind == "json-chunked")
    body = asking(TEXT, stream=kind == "stream")
    headers, answer = curl.ask("-N", *options, body=body)
    assert (text_of_stream(answer) if kind == "stream" else text_of(answer)) in served(TEXT)
    assert headers.get("content-encoding") == ("gzip" if options == ["--compressed"] else None)
    request = gateway.request()
    assert headers["request-id"] == request.request_id
    assert request.json() == body
    assert request.header("anthropic-version") == VERSION
    assert {request.header(name) for name in ("upgrade", "http2-settings", "connection")} <= {None, "keep-alive"}


def test_a_client_of_http_1_0_gets_no_chunks(curl: Curl) -> None:
    """RFC 9112 6.1: a server must not send `Transfer-Encoding` to one, which need not understand it."""
    headers, answer = curl.ask("-N", "--http1.0", "--raw", body=asking(TEXT, stream=True))
    assert "transfer-encoding" not in headers
    assert text_of_stream(answer) in served(TEXT)


async def test_a_stream_is_handed_on_as_it_comes(gateway: Gateway, curl: Curl) -> None:
    gateway.simulator.switches.set(stream_stall_after="content_block_delta")
    with curl.started("-N", body=asking(stream=True)) as process:
        assert process.stdout is not None
        # the upstream is silent from here on, so these lines were held back by nobody
        while b"Served " not in (line := process.stdout.readline()):
            assert line, "the stream ended"
        assert gateway.request().outcome is Outcome.PENDING
    await until(lambda: gateway.request().outcome is Outcome.CLIENT_DISCONNECTED, "the upstream request is ended")


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_a_stream_that_is_cut_is_a_failure(gateway: Gateway, curl: Curl, version: str) -> None:
    gateway.simulator.switches.set(stream_cut_after="content_block_delta")
    ended = curl.run("-N", version, body=asking(stream=True))
    assert ended.returncode in (PARTIAL_FILE, RECV_ERROR)
    *_, name, data, end = ended.stdout.decode().split("\n")[:-1]
    assert (name, json.loads(data.removeprefix("data: "))["error"]["type"], end) == ("event: error", "api_error", "")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_json_answer_that_is_cut_is_a_failure(gateway: Gateway, curl: Curl, chunked: bool) -> None:
    gateway.simulator.switches.set(json_cut_after=60, json_chunked=chunked)
    ended = curl.run(body=asking())
    assert (ended.returncode, len(ended.stdout)) == (PARTIAL_FILE, 60)


@pytest.mark.parametrize("path", ["/v1/models", "/health"])
def test_a_head_request_has_a_head_only(curl: Curl, path: str) -> None:
    headers, answer = curl.ask("-I", path=path)
    got, body = curl.ask(path=path)
    assert (headers["status"], headers["content-type"]) == ("200", got["content-type"])
    # what -I writes is the head itself
    assert answer.endswith(b"\r\n\r\n")
    assert b"{" not in answer
    if path == "/v1/models":
        assert int(headers["content-length"]) == len(body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"])
def test_every_method_reaches_the_upstream(gateway: Gateway, curl: Curl, method: str) -> None:
    options = ["-I"] if method == "HEAD" else ["-X", method]
    curl.run(*options, path="/v1/some/where?q=%2F&q=2")
    request = gateway.request("/v1/some/where")
    assert (request.method, request.query, request.body) == (method, "q=%2F&q=2", b"")


def test_a_large_body_waits_for_its_100_continue(gateway: Gateway, curl: Curl) -> None:
    body = asking("x" * 3_000_000)
    ended = curl.run("-v", "-H", "expect: 100-continue", "--expect100-timeout", "25", body=body)
    assert ended.returncode == 0, ended.stderr
    assert b"< HTTP/1.1 100 Continue" in ended.stderr
    assert len(text_of(ended.stdout)) > 3_000_000
    assert gateway.request().json() == body
    assert gateway.request().header("expect") is None


def test_a_body_beyond_the_limit_is_answered_before_it_is_sent(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway(max_body_bytes=1000)
    options = ("-w", "\n%{http_code} %{size_upload}", "-H", "expect: 100-continue", "--expect100-timeout", "25")
    ended = Curl(gateway, tmp_path).run(*options, body=asking("x" * 100_000))
    assert ended.returncode == 0, ended.stderr
    answer, figures = ended.stdout.split(b"\n")
    assert (json.loads(answer)["error"]["type"], figures) == ("request_too_large", b"413 0")
    assert gateway.simulator.requests() == []


def test_a_redirect_is_handed_on_and_not_followed(gateway: Gateway, curl: Curl) -> None:
    gateway.simulator.switches.set(redirect_location=f"{gateway.upstream_url}/elsewhere", redirect_status=307)
    headers, _ = curl.ask(body=asking())
    assert (headers["status"], headers["location"]) == ("307", f"{gateway.upstream_url}/elsewhere")
    assert len(gateway.simulator.requests()) == 1


def test_one_connection_serves_many_requests(gateway: Gateway, curl: Curl) -> None:
    url = f"{gateway.url}/v1/models"
    ended = curl.run("-w", "%{num_connects}\n", "-o", "/dev/null", url, "-o", "/dev/null", path="/v1/models")
    assert ended.stdout.split() == [b"1", b"0"]
    assert len(gateway.simulator.requests("/v1/models")) == 2
