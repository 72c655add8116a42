"""What RFC 9110 and RFC 9112 say of requests, byte by byte, on raw sockets. Both modes are the same here.

The cases are those of public suites (Http11Probe, two h1spec) and of RFC texts. Whatever is refused is refused before the
upstream hears of it, in the API's envelope.
"""

from collections.abc import Callable

import pytest

from oauth_pool_proxy.downstream.protocol import MOST_HEAD_BYTES
from tests.support.proxy_server import PoolFolder, RawAnswer, RunningProxy, token_of, until
from tests.support.upstream_server import UpstreamServer, json_answer
from tests.test_proxy.conftest import Start

KIB = 1024
LONG = b"x" * (100 * KIB)
HOST = b"Host: proxy\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NOT_HTTP = "The request is not valid HTTP"
TOO_LONG = f"The head of the request is longer than {MOST_HEAD_BYTES} bytes"
NO_HOST = "The request needs one Host header, and a host in it"
NO_FRAGMENT = "A request target has no fragment"
FOREIGN = "The request is for another host than this proxy"
ONLY_OPTIONS = "The target * is for OPTIONS only"
NO_TARGET = "The request target is none that HTTP has"
UNKNOWN = "The method is not one that this proxy knows"

REFUSED: dict[str, tuple[bytes, int, str]] = {
    # methods
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405, "TRACE is not forwarded"),
    "TRACE of an own path": (b"TRACE /health HTTP/1.1\r\n" + HOST + b"\r\n", 405, "TRACE is not forwarded"),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 405, "CONNECT is not forwarded"),
    "CONNECT with a path": (b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 405, "CONNECT is not forwarded"),
    "CONNECT and what follows": (
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
        405,
        "CONNECT is not forwarded",
    ),
    "a method of RTSP": (b"DESCRIBE / RTSP/1.0\r\n" + HOST + b"\r\n", 501, "DESCRIBE is not a method of HTTP"),
    "an unknown method": (b"FOOBAR / HTTP/1.1\r\n" + HOST + b"\r\n", 501, UNKNOWN),
    "a method in lower case": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501, UNKNOWN),
    "more than a method": (b"GETX / HTTP/1.1\r\n" + HOST + b"\r\n", 501, UNKNOWN),
    "the beginning of an unknown method": (b"FOO", 501, UNKNOWN),
    "an empty line before it": (b"\r\nFOOBAR / HTTP/1.1\r\n" + HOST + b"\r\n", 501, UNKNOWN),
    "words": (b"not http at all\r\n\r\n", 400, NOT_HTTP),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400, NOT_HTTP),
    "a method with a wrong character": (b"FOO@BAR / HTTP/1.1\r\n" + HOST + b"\r\n", 400, NOT_HTTP),
    # versions
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400, "HTTP/2.0 is not served, only HTTP/1.0 and HTTP/1.1"),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 400, "HTTP/0.9 is not served, only HTTP/1.0 and HTTP/1.1"),
    "no version": (b"GET /\r\n" + HOST + b"\r\n", 400, "HTTP/0.9 is not served, only HTTP/1.0 and HTTP/1.1"),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", 400, NOT_HTTP),
    "the beginning of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, NOT_HTTP),
    # Host
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, NO_HOST),
    "no Host, and a body to come": (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400, NO_HOST),
    "no Host for an own path": (b"GET /health HTTP/1.1\r\n\r\n", 400, NO_HOST),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST + b"Host: other\r\n\r\n", 400, NO_HOST),
    "one Host twice": (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, NO_HOST),
    "one Host twice in HTTP/1.0": (b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400, NO_HOST),
    **{
        f"Host {host!r}": (b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 400, NO_HOST)
        for host in (
            *(b"", b" ", b"user@h:80", b"h:80/path", b"h:80, other.example.com", b"bad host", b"h:port", b"h?", b"h#"),
            *(b"h:1:2", b"[::1", b"::1", b"%4", b"caf\xe9", b'"h"', b"h\\"),
        )
    },
    # targets
    "* with GET": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400, ONLY_OPTIONS),
    "more than *": (b"OPTIONS *x HTTP/1.1\r\n" + HOST + b"\r\n", 400, NO_TARGET),
    "a fragment": (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400, NO_FRAGMENT),
    "a fragment of an absolute form": (b"GET http://proxy/#b HTTP/1.1\r\n" + HOST + b"\r\n", 400, NO_FRAGMENT),
    "a foreign absolute form": (b"POST http://telemetry.example/api HTTP/1.1\r\n" + HOST + b"\r\n", 421, FOREIGN),
    "a forward proxy's request": (
        b"POST http://telemetry.example/api HTTP/1.1\r\nhost: telemetry.example\r\n\r\n",
        421,
        FOREIGN,
    ),
    "a forward proxy's request for an address": (
        b"GET http://8.8.8.8/ HTTP/1.1\r\nhost: 8.8.8.8\r\n\r\n",
        421,
        FOREIGN,
    ),
    "another port": (b"GET http://proxy:81/ HTTP/1.1\r\n" + HOST + b"\r\n", 421, FOREIGN),
    "an own path of a foreign host": (b"GET http://other/health HTTP/1.1\r\n" + HOST + b"\r\n", 421, FOREIGN),
    "an absolute form of https": (b"GET https://proxy/ HTTP/1.1\r\n" + HOST + b"\r\n", 421, FOREIGN),
    "an absolute form without Host": (b"GET http://proxy/ HTTP/1.0\r\n\r\n", 421, FOREIGN),
    "an absolute form with a user": (b"GET http://u:p@proxy/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, NO_TARGET),
    "no slash": (b"GET v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 400, NOT_HTTP),
    # framing
    "HTTP/1.0 with chunks": (
        b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n",
        400,
        "HTTP/1.0 has no Transfer-Encoding",
    ),
    "HTTP/1.0 with chunks and keep-alive": (
        b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"Connection: keep-alive\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        400,
        "HTTP/1.0 has no Transfer-Encoding",
    ),
    "a length and chunks": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 3\r\n\r\nabc", 400, NOT_HTTP),
    "two lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, NOT_HTTP),
    "another coding": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, NOT_HTTP),
    "a chunk of no size": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\nx\r\n", 400, NOT_HTTP),
    "a chunk that goes on": (b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n", 400, NOT_HTTP),
    # length, in one write
    "a long value": (b"GET / HTTP/1.1\r\n" + HOST + b"x: " + LONG + b"\r\n\r\n", 400, TOO_LONG),
    "a long name": (b"GET / HTTP/1.1\r\n" + HOST + LONG + b": x\r\n\r\n", 400, TOO_LONG),
    "a long target": (b"GET /" + LONG + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400, TOO_LONG),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 12_000 + b"\r\n", 400, TOO_LONG),
    "a megabyte": (b"GET / HTTP/1.1\r\n" + HOST + b"x: " + LONG * 10 + b"\r\n\r\n", 400, TOO_LONG),
    "a long trailer": (
        b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\nx: " + LONG + b"\r\n\r\n",
        400,
        TOO_LONG,
    ),
    "a long chunk extension": (
        b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3;" + LONG + b"\r\nabc\r\n0\r\n\r\n",
        400,
        TOO_LONG,
    ),
}

SERVED: dict[str, tuple[bytes, bytes]] = {
    "HTTP/1.0 without Host": (b"GET /a HTTP/1.0\r\n\r\n", b"/a"),
    "HTTP/1.0 with an empty body": (b"POST /a HTTP/1.0\r\nContent-Length: 0\r\n\r\n", b"/a"),
    "a host of its own form": (b"GET http://Proxy/a?b HTTP/1.1\r\n" + HOST + b"\r\n", b"/a?b"),
    "a host with the port of http": (b"GET http://proxy:80/a HTTP/1.1\r\n" + HOST + b"\r\n", b"/a"),
    "its name in the cluster": (
        b"GET http://proxy.pool.svc.cluster.local/a HTTP/1.1\r\nhost: proxy.pool.svc.cluster.local\r\n\r\n",
        b"/a",
    ),
    "its address": (b"GET http://127.0.0.1:8080/a HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n\r\n", b"/a"),
    "its IPv6 address": (b"GET http://[::1]:8080/a HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n", b"/a"),
    "an absolute form without a path": (b"GET http://proxy HTTP/1.1\r\n" + HOST + b"\r\n", b"/"),
    "an absolute form with a query alone": (b"GET http://proxy?q=1 HTTP/1.1\r\n" + HOST + b"\r\n", b"/?q=1"),
    "an absolute form with two slashes": (b"GET http://proxy//a HTTP/1.1\r\n" + HOST + b"\r\n", b"//a"),
    **{
        f"Host {host!r}": (b"GET /a HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", b"/a")
        for host in (b"h", b"h:", b"h:8080", b"10.0.0.1", b"[::1]:8080", b"a_b-c.d~", b"%41", b"h.", b" h ")
    },
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"*"),
    "an empty line before it": (b"\r\nGET /a HTTP/1.1\r\n" + HOST + b"\r\n", b"/a"),
    "another method": (b"PROPFIND /a HTTP/1.1\r\n" + HOST + b"\r\n", b"/a"),
    "a long head": (b"GET /a HTTP/1.1\r\n" + HOST + b"x: " + b"x" * (MOST_HEAD_BYTES - 1000) + b"\r\n\r\n", b"/a"),
    "many small chunks": (
        b"POST /a HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n",
        b"/a",
    ),
}

Make = Callable[[], RunningProxy]


@pytest.fixture(params=["passthrough", "pool"])
def make(request: pytest.FixtureRequest, start: Start, folder: PoolFolder) -> Make:
    """A proxy in either mode."""
    if request.param == "passthrough":
        return lambda: start()
    folder.account("a")
    return lambda: start(oauth=folder.oauth())


async def asked(proxy: RunningProxy, data: bytes) -> tuple[RawAnswer, bytes]:
    """The answer, and what came behind it until the connection ended; a reset fails."""
    async with proxy.connect() as client:
        client.writer.write(data)
        answer = await client.answer()
        return answer, await client.reader.read()


def only(cases: dict[str, tuple[bytes, int, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("data", "status", "message"), cases.values(), ids=cases)


@only(REFUSED)
async def test_what_is_not_served_is_refused_in_the_envelope_and_the_connection_ends(
    upstream: UpstreamServer, make: Make, data: bytes, status: int, message: str
) -> None:
    proxy = make()
    answer, rest = await asked(proxy, data)
    assert (answer.status, rest, answer.values(b"connection")) == (status, b"", [b"close"])
    (request_id,) = answer.values(b"request-id")
    error = {"type": "invalid_request", "message": message}
    assert answer.json() == {"type": "error", "error": error, "request_id": request_id.decode()}
    assert upstream.connections == []
    metrics = await proxy.metrics()
    assert metrics['proxy_upstream_errors_total{error_type="invalid_request"}'] == 1
    (method,) = (name for name in metrics if name.startswith("proxy_requests_total{"))
    assert f'status="{status}"' in method and metrics[method] == 1


@pytest.mark.parametrize(("data", "target"), SERVED.values(), ids=SERVED)
async def test_what_is_unusual_and_allowed_is_served(
    upstream: UpstreamServer, make: Make, data: bytes, target: bytes
) -> None:
    upstream.answer_all(json_answer(b"served"))
    async with make().connect() as client:
        client.writer.write(data)
        assert (await client.answer()).body == b"served"
    assert [request.target for request in upstream.requests] == [target]


async def test_a_method_that_is_not_allowed_says_which_are(make: Make) -> None:
    answer, _ = await asked(make(), REFUSED["TRACE"][0])
    assert answer.values(b"allow") == [b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"]  # RFC 9110 15.5.6: MUST


async def test_a_refusal_waits_for_the_answers_before_it(upstream: UpstreamServer, make: Make) -> None:
    async with make().connect() as client:
        await client.send(b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n")
        connection = await upstream.accept()
        await connection.request()
        await connection.send(json_answer(b"one"))
        assert (await client.answer()).body == b"one"
        assert (await client.answer()).status == 405
        assert await client.reader.read() == b""
    assert len(upstream.connections) == 1


async def test_what_comes_behind_a_refusal_is_not_taken_for_a_request(upstream: UpstreamServer, make: Make) -> None:
    upstream.answer_all(json_answer(b"served"))
    proxy = make()
    async with proxy.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\n\r\nGET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.send(b"GET /more HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer()).status == 400
        await client.send(b"GET /after HTTP/1.1\r\n" + HOST + b"\r\n")
        assert await client.reader.read() == b""
    await proxy.request("GET", "/another")
    assert [request.target for request in upstream.requests] == [b"/another"]


async def test_what_comes_behind_a_refusal_does_not_cost_the_answers_before_it(
    upstream: UpstreamServer, make: Make
) -> None:
    async with make().connect() as client:
        await client.send(b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nCONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
        connection = await upstream.accept()
        await connection.request()
        await client.send(b"\x16\x03\x01 the tunnel that there is not")
        await connection.send(json_answer(b"one"))
        assert (await client.answer()).body == b"one"
        assert (await client.answer()).status == 405


async def test_the_access_token_does_not_come_back_to_whoever_asks_for_an_echo(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    upstream.answer_all(lambda request: json_answer(request.head))
    proxy = start(oauth=folder.oauth())
    answer, _ = await asked(proxy, REFUSED["TRACE"][0])
    assert token_of("a").encode() not in answer.body
    assert token_of("a").encode() in (await proxy.request()).body  # the same with a method that is forwarded
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("target", [b"http://user:secret@proxy/a?b", b"http://other/a#secret", b"user:secret@proxy:1"])
async def test_no_secret_of_a_refused_target_is_logged(
    make: Make, target: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "oauth_pool_proxy.observe.access_log")
    method = b"CONNECT" if target.startswith(b"user") else b"GET"
    answer, _ = await asked(make(), b"%s %s HTTP/1.1\r\n%s\r\n" % (method, target, HOST))
    assert answer.status in (400, 405)
    printed: list[str] = []

    def has_line() -> bool:
        printed.append(capfd.readouterr().out)
        return '"request finished"' in "".join(printed)

    await until(has_line, "the line to be printed")
    assert "secret" not in "".join(printed)
