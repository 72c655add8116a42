"""The way to the upstream through an HTTP proxy, which the test plays or runs."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from oauth_pool_proxy.config import UpstreamProxy, UpstreamUrl
from oauth_pool_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.proxy_server import until
from tests.support.upstream_server import UpstreamServer, json_answer, upstream_server
from tests.test_proxy.conftest import Start
from tests.test_proxy.upstream.test_upstream import ask, read_all
from tests.test_proxy.upstream.test_upstream_tls import certificate, pass_on, server_context

OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECRET = "user:p\N{LATIN SMALL LETTER A WITH DIAERESIS}ss"


@contextmanager
def client_through(
    proxy: int,
    url: UpstreamUrl,
    credentials: str | None = None,
    connect_timeout: float = 5,
    ca_file: Path | None = None,
) -> Iterator[Upstream]:
    way = UpstreamProxy("127.0.0.1", proxy, credentials)
    client = Upstream(url, timeout=60, connect_timeout=connect_timeout, ca_file=ca_file, proxy=way)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def http_proxy(upstream: UpstreamServer) -> AsyncIterator[UpstreamServer]:
    """Opens a tunnel to this upstream, whatever it is asked for; what it was asked is in `requests`."""

    async def serve(server: UpstreamServer) -> None:
        connection = await server.accept()
        server.requests.append(await connection.request())
        await connection.send(OPEN)
        await pass_on(connection.reader, connection.writer, upstream.port)

    async with upstream_server() as server:
        tasks = [asyncio.create_task(serve(server)) for _ in range(3)]
        yield server
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
async def test_an_upstream_is_reached_through_a_proxy(tmp_path: Path, is_tls: bool) -> None:
    pair = certificate(tmp_path, "upstream.example")
    async with upstream_server(server_context(*pair) if is_tls else None) as upstream, http_proxy(upstream) as proxy:
        upstream.answer_all(lambda request: json_answer(request.body))
        url = UpstreamUrl(is_tls, "upstream.example", 8443, b"")
        with client_through(proxy.port, url, SECRET, ca_file=pair[0]) as client:
            for body in (b"first", bytes(1_000_000)):
                assert await read_all(await ask(client, b"POST", body)) == body
            assert client.open_connections == client.idle_connections == 1
        (asked,) = proxy.requests  # the connection was kept
        assert asked.line == b"CONNECT upstream.example:8443 HTTP/1.1"
        assert asked.headers == [
            (b"host", b"upstream.example:8443"),
            (b"proxy-authorization", b"Basic " + base64.b64encode(SECRET.encode())),
        ]
        assert not any(name.startswith(b"proxy-") for name, _ in upstream.requests[0].headers)


async def test_without_a_user_no_credentials_are_sent_and_an_ipv6_address_stands_in_brackets() -> None:
    async with upstream_server() as proxy:
        with client_through(proxy.port, UpstreamUrl(False, "::1", 80, b"")) as client:
            task = asyncio.create_task(ask(client))
            request = await (await proxy.accept()).request()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert request.head == b"CONNECT [::1]:80 HTTP/1.1\r\nhost: [::1]:80\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 3\r\n\r\nno!", "answered 407"),
        (b"HTTP/1.1 503 No\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\n\r\n", "answered 403"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "did not answer in HTTP"),
        (b"x" * 20_000, "did not answer in HTTP"),
        (OPEN + b"more", "cannot have sent"),
        (b"HTTP/1.1 200", "closed the connection"),
        (b"", "closed the connection"),
    ],
    ids=["407", "503", "403 after 100", "no HTTP", "no end", "more than an answer", "cut", "nothing"],
)
async def test_a_proxy_that_opens_no_way_is_told_of_without_its_credentials(answer: bytes, words: str) -> None:
    async with upstream_server() as proxy:
        with client_through(proxy.port, UpstreamUrl(True, "upstream.example", 443, b""), SECRET) as client:
            task = asyncio.create_task(ask(client))
            connection = await proxy.accept()
            await connection.request()
            await connection.send(answer)
            if "closed" in words:
                connection.close()
            with pytest.raises(UpstreamUnreachable, match="proxy on the way to the upstream") as caught:
                await task
            message = str(caught.value)
            assert words in message
            assert not caught.value.was_sent
            assert not any(part in message for part in ("user:", "127.0.0.1", "upstream.example"))
            await connection.wait_closed()
            assert client.open_connections == 0


async def test_a_proxy_that_does_not_answer_is_a_timeout() -> None:
    async with upstream_server() as proxy:
        url = UpstreamUrl(True, "upstream.example", 443, b"")
        with client_through(proxy.port, url, connect_timeout=0.05) as client:
            with pytest.raises(UpstreamTimeout, match="proxy on the way") as caught:
                await ask(client)
            assert not caught.value.was_sent
            await (await proxy.accept()).wait_closed()


async def test_a_client_that_leaves_takes_its_tunnel_along() -> None:
    async with upstream_server() as proxy:
        with client_through(proxy.port, UpstreamUrl(False, "upstream.example", 80, b"")) as client:
            task = asyncio.create_task(ask(client))
            connection = await proxy.accept()
            await connection.request()
            task.cancel()
            await connection.wait_closed()
            with suppress(ConnectionError):
                await connection.send(OPEN)
            assert client.open_connections == 0


async def test_a_proxy_out_of_reach_is_named_as_such() -> None:
    with client_through(1, UpstreamUrl(True, "upstream.example", 443, b"")) as client:
        with pytest.raises(
            UpstreamUnreachable, match="proxy on the way to the upstream could not be connected"
        ) as caught:
            await ask(client)
        assert not caught.value.was_sent


async def test_the_setting_leads_through_the_proxy(upstream: UpstreamServer, start: Start, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    upstream.answer_all(json_answer(b"through"))
    async with http_proxy(upstream) as way:
        proxy = start(
            upstream_url="http://upstream.example:8000",
            upstream_proxy=f"http://user@127.0.0.1:{way.port}",
            upstream_proxy_password_file=str(password),
        )
        assert (await proxy.request()).body == b"through"
        assert way.requests[0].line == b"CONNECT upstream.example:8000 HTTP/1.1"
        assert way.requests[0].values(b"proxy-authorization") == [b"Basic " + base64.b64encode(b"user:secret")]
        proxy.stop()
        await until(lambda: way.connections[0].reader.at_eof(), "the tunnel to end")
