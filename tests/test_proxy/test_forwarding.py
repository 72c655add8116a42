"""One request through the real proxy in passthrough mode, both ends of it on the wire."""

import asyncio
import re
import socket
import time

import pytest

from oauth_pool_proxy.forward import RETRY_PAUSE
from tests.support.proxy_server import PoolFolder, until
from tests.support.upstream_server import RawRequest, UpstreamServer, json_answer
from tests.test_proxy.conftest import Start


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("/v1/messages", b"/v1/messages"),
        ("/v1/messages?beta=true", b"/v1/messages?beta=true"),
        ("/a?", b"/a?"),
        ("/a?b?c=%20&&", b"/a?b?c=%20&&"),
        ("//health", b"//health"),
        ("/health/", b"/health/"),
        ("/x/../health", b"/x/../health"),
        ("/./a//b/", b"/./a//b/"),
        ("/%68ealth", b"/%68ealth"),
        ("/a%2Fb%2f..%00", b"/a%2Fb%2f..%00"),
        ("/it's;p=1,2:@!$&()*+=~", b"/it's;p=1,2:@!$&()*+=~"),
        ("http://proxy/absolute?q", b"/absolute?q"),
        ("http://PROXY:80//absolute", b"//absolute"),
        ("http://proxy", b"/"),
        ("http://proxy?q=/", b"/?q=/"),
    ],
)
async def test_the_target_goes_upstream_byte_for_byte(
    upstream: UpstreamServer, start: Start, sent: str, received: bytes
) -> None:
    upstream.answer_all(json_answer())
    await start().request("OPTIONS", sent)
    assert [request.target for request in upstream.requests] == [received]


async def test_a_path_in_the_upstream_s_url_is_put_in_front(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer())
    await start(upstream_url=f"{upstream.url}/gateway/").request("GET", "//v1?x")
    assert upstream.requests[0].target == b"/gateway//v1?x"


async def test_own_paths_are_answered_here(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer())
    proxy = start()
    answers = [await proxy.request("GET", path) for path in ("/health", "/ready", "/metrics", "/health?verbose")]
    assert [answer.status for answer in answers] == [200] * 4
    assert upstream.requests == []


async def test_the_request_on_the_wire_is_the_client_s_but_for_this_hop(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer())
    lines = [
        "POST /v1/messages HTTP/1.1",
        "Host: proxy",
        "Content-Length: 2",
        "Authorization: Bearer the-client's",
        "x-api-key: the-client's",
        "cookie: a=b",
        "x-multi: one",
        "x-empty:",
        "x-multi: two, three",
        "x-latin: caf\xe9",
        "connection: keep-alive, X-Named",
        "x-named: ends here",
        "keep-alive: timeout=5",
        "te: trailers",
        "trailer: x-after",
        "proxy-connection: keep-alive",
        "proxy-authorization: Basic eA==",
        "expect: 100-continue",
        "accept-encoding: gzip, deflate, br, zstd",
    ]
    async with start().connect() as client:
        await client.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"{}")
        assert (await client.answer()).status == 200
    assert upstream.requests[0].head == (
        b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
        b"authorization: Bearer the-client's\r\nx-api-key: the-client's\r\ncookie: a=b\r\n"
        b"x-multi: one\r\nx-empty: \r\nx-multi: two, three\r\nx-latin: caf\xe9\r\n"
        b"accept-encoding: gzip, deflate, br, zstd\r\ncontent-length: 2\r\n\r\n" % upstream.port
    )
    assert upstream.requests[0].body == b"{}"


async def test_configured_headers_replace_and_beta_values_are_merged(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer())
    headers = [
        {"name": "X-Team", "value": "research"},
        {"name": "anthropic-beta", "value": "oauth-2025-04-20, b"},
        {"name": "Authorization", "value": "Bearer never"},
    ]
    client = "x-team: mine\r\nanthropic-beta: a,b\r\nanthropic-beta: c\r\nauthorization: Bearer client\r\n"
    await start(headers=headers).request("GET", "/", client)
    (request,) = upstream.requests
    assert request.values(b"x-team") == [b"research"]
    assert request.values(b"anthropic-beta") == [b"a,b,c,oauth-2025-04-20"]
    assert request.values(b"authorization") == [b"Bearer client"]
    assert request.values(b"anthropic-version") == []


@pytest.mark.parametrize(
    "offer",
    [
        "connection: upgrade\r\nupgrade: websocket\r\n",
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n",
    ],
    ids=["websocket", "h2c"],
)
async def test_an_offer_of_an_upgrade_is_declined_and_the_body_kept(
    upstream: UpstreamServer, start: Start, offer: str
) -> None:
    upstream.answer_all(lambda request: json_answer(b"%d" % len(request.body)))
    async with start().connect() as client:
        for size in (200_000, 0, 5):  # on one connection, which carries on
            await client.request("POST", "/", offer, b"x" * size)
            assert (await client.answer()).body == b"%d" % size
    names = {name for request in upstream.requests for name, _ in request.headers}
    assert names == {b"host", b"content-length"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_goes_through(upstream: UpstreamServer, start: Start, method: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-a: b\r\n\r\n"
    upstream.answer_all(head if method == "HEAD" else head + b"abc")
    proxy = start()
    for _ in range(2):  # the second one on a connection that was kept
        answer = await proxy.request(method)
        assert (answer.status, answer.values(b"content-length")) == (200, [b"3"])
    lengths = [request.values(b"content-length") for request in upstream.requests]
    assert lengths == [[b"0"] if method in ("POST", "PUT", "PATCH") else []] * 2
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (json_answer(b"moved", 307, ("location", "http://elsewhere.example/")), 307, b"moved"),
        (json_answer(b'{"type":"error"}', 529), 529, b'{"type":"error"}'),
        (json_answer(b"no", 401), 401, b"no"),
        (json_answer(b"no", 429, ("retry-after", "7")), 429, b"no"),
        (b"HTTP/1.1 204 No\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not\r\ncontent-length: 10\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2;x\r\nbc\r\n0\r\nx: y\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nlink: x\r\n\r\n" + json_answer(b"final"), 200, b"final"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
    ],
    ids=["redirect", "529", "401", "429", "204", "304", "chunked", "interim", "empty"],
)
async def test_an_answer_passes_as_it_is(
    upstream: UpstreamServer, start: Start, answer: bytes, status: int, body: bytes
) -> None:
    upstream.answer_all(answer)
    received = await start().request()
    assert (received.status, received.body, received.is_complete) == (status, body, True)
    assert len(upstream.requests) == 1


async def test_the_answer_s_headers_are_the_upstream_s_but_for_this_hop(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(
        b"HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: theirs\r\nrequest-id: req_1\r\nset-cookie: a\r\nset-cookie: b\r\n"
        b"connection: x-named, keep-alive\r\nx-named: 1\r\nkeep-alive: timeout=5\r\ncontent-encoding: gzip\r\n"
        b"location: http://elsewhere.example/\r\ncontent-length: 2\r\n\r\nok"
    )
    async with start().connect() as client:
        await client.request()
        assert await client.head() == (
            b"HTTP/1.1 200 OK\r\nserver: theirs\r\ndate: theirs\r\nrequest-id: req_1\r\nset-cookie: a\r\nset-cookie: b\r\n"
            b"content-encoding: gzip\r\nlocation: http://elsewhere.example/\r\ncontent-length: 2\r\n\r\n"
        )


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_a_body_over_the_limit_is_refused_as_documented(
    upstream: UpstreamServer, start: Start, framing: str
) -> None:
    body = b"x" * 100_001
    async with start(max_body_bytes=100_000).connect() as client:
        if framing == "chunked":
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            await client.request("POST", "/", "", body)
        answer = await client.answer()
    assert answer.status == 413
    (request_id,) = answer.values(b"request-id")
    assert re.fullmatch(rb"req_[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", request_id)
    error = {"type": "request_too_large", "message": "The request body is longer than 100000 bytes"}
    assert answer.json() == {"type": "error", "error": error, "request_id": request_id.decode()}
    assert upstream.connections == []


async def test_a_body_that_is_announced_too_long_is_not_asked_for(upstream: UpstreamServer, start: Start) -> None:
    async with start(max_body_bytes=100).connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 101\r\n\r\n")
        assert (await client.answer()).status == 413


async def test_a_body_of_exactly_the_limit_passes(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(lambda request: json_answer(b"%d" % len(request.body)))
    answer = await start(max_body_bytes=100_000).request("POST", "/", "", b"x" * 100_000)
    assert answer.body == b"100000"


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n folded\r\n\r\n",
        b"GET /caf\xe9 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"not http at all\r\n\r\n",
    ],
    ids=["both", "two lengths", "chunk size", "coding", "codings", "two lines", "NUL", "folding", "target", "garbage"],
)
async def test_an_ambiguous_request_is_refused_and_the_connection_closed(
    upstream: UpstreamServer, start: Start, head: bytes
) -> None:
    async with start().connect() as client:
        await client.send(head)
        answer = await client.answer()
        assert await client.rest() == b""
    assert (answer.status, answer.json()["error"]) == (
        400,
        {"type": "invalid_request", "message": "The request is not valid HTTP"},
    )
    assert upstream.requests == []


async def test_a_refused_connection_is_tried_again_and_ends_in_502(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        proxy = start(upstream_url=f"http://127.0.0.1:{taken.getsockname()[1]}", attempts=2)
        answer = await proxy.request()
        port = taken.getsockname()[1]
    assert answer.status == 502
    assert answer.json()["error"]["type"] == "connection"  # type: ignore[index]
    assert str(port).encode() not in answer.body
    metrics = (await proxy.request("GET", "/metrics")).body.decode()
    assert 'proxy_upstream_errors_total{error_type="connection"} 1.0' in metrics
    assert 'proxy_requests_total{method="GET",status="502",verdict="upstream"} 1.0' in metrics


async def test_an_answer_that_does_not_come_is_asked_for_again_and_ends_in_504(
    upstream: UpstreamServer, start: Start
) -> None:
    upstream.answer_all(b"")
    answer = await start(timeout_secs=1, attempts=2).request("POST", "/", "", b"paid twice")
    assert answer.status == 504
    assert answer.json()["error"]["type"] == "timeout"  # type: ignore[index]
    assert [request.body for request in upstream.requests] == [b"paid twice"] * 2


@pytest.mark.parametrize(("method", "times"), [("POST", 1), ("PATCH", 1), ("GET", 2), ("DELETE", 2)])
async def test_a_late_head_costs_no_second_generation_where_the_configuration_says_so(
    upstream: UpstreamServer, start: Start, method: str, times: int
) -> None:
    upstream.answer_all(b"")
    proxy = start(timeout_secs=1, attempts=2, retry_late_heads="idempotent")
    assert (await proxy.request(method, "/")).status == 504
    assert len(upstream.requests) == times


async def test_a_post_that_found_no_connection_is_tried_again_whatever_is_said_of_late_heads(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        proxy = start(upstream_url=url, attempts=3, retry_late_heads="idempotent")
        began = time.monotonic()
        assert (await proxy.request("POST", "/", "", b"{}")).status == 502
        took = time.monotonic() - began
    assert (await proxy.metrics())['proxy_upstream_retries_total{reason="connection"}'] == 2
    assert took >= 2 * RETRY_PAUSE == 0.2  # never sooner, however fast the machine is


async def test_attempts_are_counted_over_all_accounts(
    upstream: UpstreamServer, start: Start, folder: PoolFolder
) -> None:
    folder.account("a")
    folder.account("b")
    seen: list[bytes] = []

    def answer(request: RawRequest) -> bytes:
        """Late, late enough to be asked again; then the first account's limit; then late for ever."""
        seen.append(request.values(b"authorization")[0].rpartition(b"-of-")[2])
        return json_answer(b"{}", 429, ("retry-after", "60")) if len(seen) == 2 else b""

    upstream.answer_all(answer)
    proxy = start(timeout_secs=1, attempts=3, oauth=folder.oauth(affinity=False))
    assert (await proxy.request("POST", "/", "", b"{}")).status == 504
    assert seen == [b"a-1", b"a-1", b"b-1", b"b-1"]  # the three that failed are all there may be


async def test_with_one_attempt_nothing_is_sent_twice(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(b"")
    assert (await start(timeout_secs=1, attempts=1).request()).status == 504
    assert len(upstream.requests) == 1


async def test_a_connection_cut_after_the_request_is_not_tried_again(upstream: UpstreamServer, start: Start) -> None:
    task = asyncio.create_task(start().request("POST", "/", "", b"once"))
    connection = await upstream.accept()
    await connection.request()
    connection.abort()
    assert (await task).status == 502
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: a\r\n" % number for number in range(129)) + b"\r\n",
    ],
    ids=["garbage", "both", "two lengths", "coding", "101", "status", "NUL", "long", "many"],
)
async def test_an_answer_that_is_not_http_is_a_502(upstream: UpstreamServer, start: Start, answer: bytes) -> None:
    upstream.answer_all(answer)
    received = await start().request()
    assert (received.status, received.json()["error"]["type"]) == (502, "connection")  # type: ignore[index]
    assert len(upstream.requests) == 1


async def test_requests_beyond_the_limit_wait_their_turn_and_own_paths_do_not(
    upstream: UpstreamServer, start: Start
) -> None:
    proxy = start(max_connections=1)
    async with proxy.connect() as first, proxy.connect() as second, proxy.connect() as third:
        await first.request("GET", "/first")
        connection = await upstream.accept()
        await connection.request()
        await second.request("GET", "/second")
        await until(lambda: proxy.app.service.in_flight == 2, "the second request to wait")
        await third.request("GET", "/third")
        await until(lambda: proxy.app.service.in_flight == 3, "the third request to wait")
        assert (await proxy.request("GET", "/health")).status == 200
        assert b"proxy_requests_queued 2.0" in (await proxy.request("GET", "/metrics")).body
        # the slot is held to the last byte, not to the head
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
        await first.read_until(b"a")
        assert len(upstream.connections) == 1
        second.abort()
        await until(lambda: proxy.app.service.in_flight == 2, "the second client's place to be free")
        await connection.send(b"b")
        assert (await connection.request()).target == b"/third"
        await connection.send(json_answer(b"3"))
        assert (await third.answer()).body == b"3"


async def test_a_finished_request_is_counted_for_health(upstream: UpstreamServer, start: Start) -> None:
    upstream.answer_all(json_answer())
    proxy = start()
    await proxy.request()
    health = (await proxy.request("GET", "/health")).json()
    assert isinstance(health.pop("uptime_seconds"), int)
    assert health == {"status": "healthy", "mode": "passthrough", "requests_served": 1, "errors_total": 0}
