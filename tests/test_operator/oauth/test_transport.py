"""A request to a provider: how long it may take, how much may come back, and which way it goes."""

import asyncio
import base64
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from oauth_pool_operator.account.documents import LoginSession
from oauth_pool_operator.errors import TokenEndpointUnavailable
from oauth_pool_operator.oauth.endpoint import TokenEndpoint
from tests.simulator.server import SimulatorServer
from tests.simulator.settings import Settings
from tests.support.builders import NOW
from tests.support.control_plane.certificates import write_certificates
from tests.support.upstream_server import json_answer, upstream_server
from tests.test_operator.oauth.asking import CLIENT, asked, profile_at

SESSION = LoginSession("id", NOW, NOW, state="a-state", verifier="a-verifier")
Asking = Callable[[TokenEndpoint], Awaitable[object]]
EVERY_REQUEST = [
    pytest.param(lambda endpoint: endpoint.refresh("r"), id="refresh"),
    pytest.param(lambda endpoint: endpoint.exchange_code("c", SESSION), id="code"),
    pytest.param(lambda endpoint: endpoint.exchange_device_code("d"), id="device code"),
    pytest.param(lambda endpoint: endpoint.authorize_device(), id="device authorization"),
    pytest.param(lambda endpoint: endpoint.revoke("r"), id="revocation"),
]


@asynccontextmanager
async def dripping_server() -> AsyncIterator[str]:
    """Begins an answer, and goes on with it, byte by byte, for as long as somebody reads."""

    ended: list[asyncio.Task[None] | None] = []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{")
            for _ in itertools.count():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in filter(None, ended):
            await task  # when the client has gone


@pytest.mark.parametrize("ask", EVERY_REQUEST)
async def test_a_dripping_answer_ends_with_the_time_for_the_whole_request(ask: Asking) -> None:
    async with dripping_server() as url, asked(profile_at(url, profile={"timeout_secs": 0.3})) as endpoint:
        with pytest.raises(TokenEndpointUnavailable, match="did not answer in time") as caught:
            async with asyncio.timeout(20):
                await ask(endpoint)
        assert caught.value.may_be_done


async def test_a_simulated_provider_that_drips_is_not_waited_for_either() -> None:
    settings = Settings(client_id=CLIENT, token_bodies=("form",))
    with SimulatorServer(settings) as provider:
        provider.simulator.switches.set(token_drip=1)
        issued = provider.simulator.issue_tokens("alice@example.com")
        profile = profile_at(f"{provider.url}/v1/oauth/token", profile={"timeout_secs": 0.5}, client_id=CLIENT)
        async with asked(profile) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="did not answer in time"):
                await endpoint.refresh(issued.refresh_token or "")


@pytest.mark.parametrize("ask", EVERY_REQUEST)
async def test_an_answer_has_a_mebibyte_at_most(ask: Asking) -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t", "x": "%s"}' % (b"x" * 1024 * 1024)))
        with pytest.raises(TokenEndpointUnavailable, match="more than 1 MiB") as caught:
            await ask(endpoint)
        assert caught.value.may_be_done


async def test_a_request_that_was_not_sent_in_time_cannot_have_been_carried_out() -> None:
    """The server accepts, and never ends the TLS handshake."""
    async with upstream_server() as upstream:
        url = upstream.url.replace("http:", "https:")
        async with asked(profile_at(url, profile={"timeout_secs": 0.3})) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="cannot be reached") as caught:
                await endpoint.refresh("r")
            assert not caught.value.may_be_done


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "xn--.example", "127.0.0.1:1", "provider.invalid"])
async def test_an_address_that_leads_nowhere_is_the_network(host: str) -> None:
    async with asked(profile_at(f"https://{host}/token")) as endpoint:
        with pytest.raises(TokenEndpointUnavailable, match="cannot be reached") as caught:
            await endpoint.refresh("r")
        assert not caught.value.may_be_done


async def test_no_cookie_of_one_account_goes_along_with_the_request_of_another() -> None:
    async with upstream_server() as upstream, asked(profile_at(upstream.url)) as endpoint:
        upstream.answer_all(json_answer(b'{"access_token": "t"}', 200, ("set-cookie", "who=alice")))
        await endpoint.refresh("of-alice")
        await endpoint.refresh("of-bob")
        assert [request.values(b"cookie") for request in upstream.requests] == [[], []]


# --- proxies ---------------------------------------------------------------------------------------------------------


class ConnectProxy:
    """An HTTP proxy that tunnels to one server, whatever name it is asked for; it keeps the heads of its requests."""

    def __init__(self, target: int, *, status: bytes = b"200 OK") -> None:
        self.target, self.status = target, status
        self.heads: list[bytes] = []
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._ended: list[asyncio.Future[object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %s\r\n\r\n" % self.status)
        if self.status.startswith(b"200"):
            there, onwards = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.append(onwards)
            pumps = (_pump(reader, onwards), _pump(there, writer))
            self._ended += [asyncio.ensure_future(pump) for pump in pumps]
        else:
            writer.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._ended)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def connect_proxy(target: int, *, status: bytes = b"200 OK") -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy(target, status=status)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """Of a provider at a name that resolves nowhere, with a certificate of its own CA, `ca.crt`."""
    write_certificates(tmp_path, names=("provider.invalid",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    return context


TOKEN = json_answer(b'{"access_token": "t"}')


async def test_a_token_endpoint_is_reached_through_the_proxy_of_the_profile(
    tls: ssl.SSLContext, tmp_path: Path
) -> None:
    """The name resolves nowhere, so there is no other way than the proxy's; what travels through it is TLS."""
    password = tmp_path / "password"
    password.write_text("first-password\n")
    async with upstream_server(tls) as provider, connect_proxy(provider.port) as proxy:
        provider.answer_all(lambda _: json_answer(b'{"access_token": "t"}', 200, ("connection", "close")))
        profile = profile_at(
            "https://provider.invalid/token",
            profile={
                "ca_file": tmp_path / "ca.crt",
                "proxy_url": f"http://somebody@127.0.0.1:{proxy.port}",
                "proxy_password_file": password,
            },
        )
        async with asked(profile) as endpoint:
            assert (await endpoint.refresh("r")).access_token == "t"
            password.write_text("second-password")  # counts from the next connection on
            assert (await endpoint.refresh("r")).access_token == "t"
        assert [head.split(b"\r\n")[0] for head in proxy.heads] == [b"CONNECT provider.invalid:443 HTTP/1.1"] * 2
        for head, secret in zip(proxy.heads, ("first-password", "second-password"), strict=True):
            encoded = base64.b64encode(f"somebody:{secret}".encode())
            assert b"\r\nproxy-authorization: basic " + encoded.lower() in head.lower()


async def test_what_goes_to_the_machine_itself_takes_no_proxy() -> None:
    async with upstream_server() as provider, connect_proxy(provider.port) as proxy:
        provider.answer_all(TOKEN)
        proxied = profile_at(provider.url, profile={"proxy_url": f"http://127.0.0.1:{proxy.port}"})
        async with asked(proxied) as endpoint:
            await endpoint.refresh("r")
        assert proxy.heads == []


async def test_a_proxy_that_refuses_has_not_sent_anything() -> None:
    async with connect_proxy(9, status=b"407 Proxy Authentication Required") as proxy:
        proxied = {"proxy_url": f"http://127.0.0.1:{proxy.port}"}
        async with asked(profile_at("https://provider.invalid/token", profile=proxied)) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="the proxy on the way to the token endpoint") as caught:
                await endpoint.refresh("r")
            assert not caught.value.may_be_done


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream_server() as provider, connect_proxy(provider.port) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with asked(profile_at("https://provider.invalid/token")) as endpoint:
            with pytest.raises(TokenEndpointUnavailable, match="cannot be reached"):
                await endpoint.refresh("r")
        assert proxy.heads == []


async def test_a_proxy_password_that_cannot_be_read_is_said_by_its_file(tmp_path: Path) -> None:
    proxied = {"proxy_url": "http://somebody@127.0.0.1:9", "proxy_password_file": tmp_path / "nowhere"}
    async with asked(profile_at("https://provider.invalid/token", profile=proxied)) as endpoint:
        with pytest.raises(TokenEndpointUnavailable, match="nowhere cannot be read: No such file") as caught:
            await endpoint.refresh("r")
        assert not caught.value.may_be_done
