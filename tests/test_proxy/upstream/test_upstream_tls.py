"""The upstream over TLS: who it has to be, what is spoken inside, and how many handshakes there are at once."""

import asyncio
import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream.connect import MOST_HANDSHAKES
from oauth_pool_proxy.upstream.upstream import Upstream
from tests.support.upstream_server import DEADLINE, UpstreamServer, json_answer, upstream_server
from tests.test_proxy.upstream.test_upstream import ask, read_all


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name[0].isdigit():
        names = [x509.IPAddress(ipaddress.ip_address(name))]
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def server_context(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_tls_with_a_ca_file_names_the_server_and_speaks_http_1(tmp_path: Path) -> None:
    ca_file, key_file = certificate(tmp_path, "localhost")
    context = server_context(ca_file, key_file)
    named: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    async with upstream_server(context) as server:
        server.answer_all(json_answer(b"over tls"))
        client = Upstream(UpstreamUrl(True, "localhost", server.port, b""), timeout=60, ca_file=ca_file)
        assert await read_all(await ask(client)) == b"over tls"
        assert await read_all(await ask(client)) == b"over tls"
        client.close()
        assert named == ["localhost"]
        tls = server.connections[0].writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("trusts", [True, False], ids=["other name", "not trusted"])
async def test_a_certificate_that_does_not_fit_is_refused(tmp_path: Path, trusts: bool) -> None:
    ca_file, key_file = certificate(tmp_path, "elsewhere.example" if trusts else "127.0.0.1")
    async with upstream_server(server_context(ca_file, key_file)) as server:
        url = UpstreamUrl(True, "127.0.0.1", server.port, b"")
        client = Upstream(url, timeout=60, ca_file=ca_file if trusts else None)
        with pytest.raises(UpstreamUnreachable, match="certificate"):
            await ask(client)


async def test_a_handshake_that_is_not_done_in_time_is_a_timeout() -> None:
    async with upstream_server() as server:  # says nothing
        url = UpstreamUrl(True, "127.0.0.1", server.port, b"")
        client = Upstream(url, timeout=60, connect_timeout=0.05)
        with pytest.raises(UpstreamTimeout, match="handshake") as caught:
            await ask(client)
        assert not caught.value.was_sent
        assert client.open_connections == 0


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Bytes, both ways, between this connection and one to the port, to their ends."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))
    finally:
        other_writer.transport.abort()


async def test_a_handshake_has_a_time_of_its_own_however_many_addresses_there_are(tmp_path: Path) -> None:
    """Eight of them, and a handshake that takes longer than an eighth of the time."""
    pair = certificate(tmp_path, "upstream.example")
    seconds = 2.0

    async def lookup(host: str, port: int) -> list[str]:
        return [f"127.0.0.{number}" for number in range(1, 9)]

    async with upstream_server(server_context(*pair)) as server, upstream_server() as slow:
        server.answer_all(json_answer(b"at last"))
        url = UpstreamUrl(True, "upstream.example", slow.port, b"")
        client = Upstream(url, timeout=60, connect_timeout=seconds, ca_file=pair[0], lookup=lookup)
        task = asyncio.create_task(ask(client))
        connection = await slow.accept()
        await asyncio.sleep(seconds / 8 + 0.1)
        passing = asyncio.create_task(pass_on(connection.reader, connection.writer, server.port))
        assert await read_all(await task) == b"at last"
        client.close()
        await passing


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return certificate(tmp_path, "127.0.0.1")


@contextmanager
def tls_client(
    server: UpstreamServer, ca_file: Path, *, timeout: float = 60, connect_timeout: float = 5
) -> Iterator[Upstream]:
    url = UpstreamUrl(True, "127.0.0.1", server.port, b"")
    client = Upstream(url, timeout=timeout, ca_file=ca_file, connect_timeout=connect_timeout)
    try:
        yield client
    finally:
        client.close()


async def test_large_bodies_pass_both_ways(pair: tuple[Path, Path]) -> None:
    body = bytes(range(256)) * 8000
    async with upstream_server(server_context(*pair)) as server:
        server.answer_all(lambda request: json_answer(request.body))
        with tls_client(server, pair[0]) as client:
            for _ in range(2):
                assert await read_all(await ask(client, b"POST", body)) == body


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "cut"])
async def test_a_body_that_ends_with_the_connection_is_whole_only_if_tls_says_so(
    pair: tuple[Path, Path], is_closed: bool
) -> None:
    """Anybody on the way can end a TCP connection."""
    async with upstream_server(server_context(*pair)) as server:
        with tls_client(server, pair[0]) as client:
            task = asyncio.create_task(ask(client))
            connection = await server.accept()
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\nto the end")
            answer = await task
            if is_closed:
                connection.close()
                assert await read_all(answer) == b"to the end"
            else:
                assert await answer.read() == b"to the end"
                connection.abort()
                with pytest.raises(StreamBroken):
                    await answer.read()
                answer.release()


async def test_what_is_no_tls_in_mid_answer_is_a_break(pair: tuple[Path, Path]) -> None:
    async with upstream_server(server_context(*pair)) as server:
        with tls_client(server, pair[0]) as client:
            task = asyncio.create_task(ask(client))
            connection = await server.accept()
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
            answer = await task
            assert await answer.read() == b"half"
            # It does not hear that we end the connection.
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # typeshed knows half of it
            raw = connection.writer.get_extra_info("socket")
            os.write(raw.fileno(), b"this is not a record at all")
            with pytest.raises(StreamBroken):
                await answer.read()
            answer.release()
        assert client.open_connections == 0


async def test_a_server_that_speaks_plain_http_is_unreachable(pair: tuple[Path, Path]) -> None:
    async with upstream_server() as server:
        with tls_client(server, pair[0]) as client:
            task = asyncio.create_task(ask(client))
            await (await server.accept()).send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(UpstreamUnreachable) as caught:
                await task
            assert not caught.value.was_sent
            assert client.open_connections == 0


async def test_only_so_many_shake_hands_at_once(pair: tuple[Path, Path]) -> None:
    async with upstream_server() as server:
        with tls_client(server, pair[0]) as client:
            tasks = [asyncio.create_task(ask(client)) for _ in range(MOST_HANDSHAKES + 5)]
            connections = [await server.accept() for _ in range(MOST_HANDSHAKES)]
            for connection in connections:
                assert await connection.reader.read(1) == b"\x16"
            assert len(server.connections) == MOST_HANDSHAKES
            connections[0].abort()
            await server.accept()  # one that ended lets the next one begin
            tasks[1].cancel()
            await server.accept()  # so does one whose client left
            assert len(server.connections) == MOST_HANDSHAKES + 2
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert client.open_connections == 0


async def test_a_turn_to_shake_hands_is_not_waited_for_without_end(pair: tuple[Path, Path]) -> None:
    async with upstream_server() as server:
        with tls_client(server, pair[0], timeout=0.1, connect_timeout=DEADLINE) as client:
            stuck = [asyncio.create_task(ask(client)) for _ in range(MOST_HANDSHAKES)]
            for _ in stuck:
                await server.accept()
            with pytest.raises(UpstreamTimeout):
                await ask(client)
            assert not any(task.done() for task in stuck)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)


@pytest.mark.parametrize(("groups", "is_fine"), [((), True), (("prime256v1",), False), (("secp384r1",), True)])
async def test_keys_are_exchanged_in_the_configured_groups_only(
    pair: tuple[Path, Path], groups: tuple[str, ...], is_fine: bool
) -> None:
    context = server_context(*pair)
    context.set_ecdh_curve("secp384r1")  # all that this server knows
    async with upstream_server(context) as server:
        server.answer_all(json_answer())
        url = UpstreamUrl(True, "127.0.0.1", server.port, b"")
        client = Upstream(url, timeout=60, ca_file=pair[0], tls_groups=groups)
        try:
            if is_fine:
                assert await read_all(await ask(client)) == b"{}"
            else:
                with pytest.raises(UpstreamUnreachable, match="could not be connected to"):
                    await ask(client)
        finally:
            client.close()
