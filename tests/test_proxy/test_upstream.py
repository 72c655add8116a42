"""The upstream client against a real socket, with time passed by hand."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from oauth_pool_proxy.config import UpstreamUrl
from oauth_pool_proxy.errors import StreamBroken, UpstreamTimeout, UpstreamUnreachable
from oauth_pool_proxy.upstream import Answer, Upstream
from oauth_pool_proxy.upstream_connection import HIGH_WATER, IDLE_SECONDS
from tests.support.proxy_server import Clock, until
from tests.support.upstream_server import UpstreamServer, json_answer, upstream_server


@asynccontextmanager
async def client_of(server: UpstreamServer, clock: Clock | None = None, timeout: float = 60) -> AsyncIterator[Upstream]:
    client = Upstream(UpstreamUrl(False, "127.0.0.1", server.port, b""), timeout=timeout, clock=clock)
    try:
        yield client
    finally:
        client.close()


async def ask(client: Upstream, method: bytes = b"GET", body: bytes = b"") -> Answer:
    return await client.send(method, b"/", [(b"x-a", b"b")], body)


async def read_all(answer: Answer) -> bytes:
    parts = []
    try:
        while part := await answer.read():
            parts.append(part)
    finally:
        answer.release()
    return b"".join(parts)


async def test_connections_are_kept_and_the_last_one_is_used_first(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream) as client:
        answers = [await ask(client) for _ in range(3)]
        for answer in answers:
            await read_all(answer)
        assert (client.idle_connections, client.open_connections) == (3, 3)
        for _ in range(5):
            await read_all(await ask(client))
        assert client.open_connections == 3
    counts = [len(upstream.requests)]
    assert counts == [8]


async def test_a_connection_that_was_closed_while_idle_is_not_used(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        upstream.answer_all(json_answer())
        await read_all(await ask(client))
        upstream.connections[0].close()
        await until(lambda: client.open_connections == 0, "the close to be noticed")
        await read_all(await ask(client))
    assert len(upstream.requests) == 2


async def test_a_request_that_met_a_connection_s_end_is_sent_again_once(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task = asyncio.create_task(ask(client))
        first = await upstream.accept()
        await first.request()
        await first.send(json_answer())
        await read_all(await task)

        task = asyncio.create_task(ask(client, b"POST", b"body"))
        await first.request()
        first.close()  # without one byte of an answer
        second = await upstream.accept()
        assert (await second.request()).body == b"body"
        second.close()  # a new connection: this may be the upstream's answer to the request
        with pytest.raises(UpstreamUnreachable) as caught:
            await task
        assert caught.value.was_sent


async def test_what_began_on_a_kept_connection_is_not_sent_again(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        await connection.send(json_answer())
        await read_all(await task)
        task = asyncio.create_task(ask(client))
        await connection.request()
        await connection.send(b"HTTP/1.1 200")
        connection.close()
        with pytest.raises(UpstreamUnreachable):
            await task
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("method", "answer", "is_kept"),
    [
        (b"GET", json_answer(b"abc"), True),
        (b"GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
        (b"GET", b"HTTP/1.1 204 No\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", False),
        (b"GET", json_answer(b"", 200, ("connection", "Close")), False),
        (b"GET", b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
        (b"GET", json_answer() + json_answer(), False),
        (b"GET", json_answer() + b"garbage", False),
    ],
    ids=["length", "chunked", "204", "HEAD", "HEAD bare", "HEAD body", "close", "1.0", "two answers", "garbage after"],
)
async def test_a_connection_is_kept_only_if_nothing_can_be_left_on_it(
    upstream: UpstreamServer, method: bytes, answer: bytes, is_kept: bool
) -> None:
    upstream.answer_all(answer)
    async with client_of(upstream) as client:
        await read_all(await ask(client, method))
        await until(lambda: client.idle_connections == client.open_connections == int(is_kept), "the connection's end")


async def test_an_answer_that_is_not_read_to_its_end_takes_its_connection_along(upstream: UpstreamServer) -> None:
    upstream.answer_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart")
    async with client_of(upstream) as client:
        answer = await ask(client)
        assert await answer.read() == b"part"
        answer.release()
        answer.release()  # does nothing
        await until(lambda: client.open_connections == 0, "the connection to be aborted")


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(upstream: UpstreamServer) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream) as client:
        await read_all(await ask(client))
        await upstream.connections[0].send(json_answer())
        await until(lambda: client.open_connections == 0, "the connection to be aborted")


async def test_an_idle_connection_is_not_kept_for_ever(upstream: UpstreamServer, clock: Clock) -> None:
    upstream.answer_all(json_answer())
    async with client_of(upstream, clock) as client:
        await read_all(await ask(client))
        clock.advance(IDLE_SECONDS + 1)
        client.look()
        await until(lambda: client.open_connections == 0, "the connection to be dropped")


async def test_an_answer_whose_head_does_not_come_in_time_is_a_timeout(upstream: UpstreamServer, clock: Clock) -> None:
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n")  # neither is a head
        clock.advance(61)
        client.look()
        with pytest.raises(UpstreamTimeout):
            await task
        await connection.wait_closed()


async def test_silence_in_mid_answer_is_a_break_and_bytes_start_the_time_anew(
    upstream: UpstreamServer, clock: Clock
) -> None:
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
        answer = await task
        for part in (b"a", b"b"):
            clock.advance(50)
            client.look()
            await connection.send(part)
            assert await answer.read() == part
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        clock.advance(61)
        client.look()
        with pytest.raises(StreamBroken) as caught:
            await reading
        assert caught.value.error_type == "timeout"
        answer.release()


async def test_silence_that_nobody_waits_through_does_not_count(upstream: UpstreamServer, clock: Clock) -> None:
    """A client that reads slowly is not the upstream's silence, and while we do not read it cannot send."""
    async with client_of(upstream, clock) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        size = 40 * HIGH_WATER
        sending = asyncio.create_task(
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        )
        answer = await task
        clock.advance(1000)
        client.look()
        assert not sending.done()
        assert len(await read_all(answer)) == size
        await sending


async def test_what_waits_unread_is_bounded(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        task = asyncio.create_task(ask(client))
        connection = await upstream.accept()
        await connection.request()
        sending = asyncio.create_task(connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 40 * HIGH_WATER))
        answer = await task
        await asyncio.sleep(0.05)
        assert HIGH_WATER < len(await answer.read()) <= 2 * HIGH_WATER
        answer.release()
        sending.cancel()


async def test_bytes_that_came_before_a_failure_are_read_first(upstream: UpstreamServer) -> None:
    upstream.answer_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n")
    async with client_of(upstream) as client:
        answer = await ask(client)
        assert await answer.read() == b"a"
        with pytest.raises(StreamBroken):
            await answer.read()
        answer.release()


async def test_cancelling_leaves_no_connection_behind(upstream: UpstreamServer) -> None:
    async with client_of(upstream) as client:
        for pause in (0.0, 0.0, 0.001, 0.002, 0.005, 0.01):
            tasks = [asyncio.create_task(ask(client)) for _ in range(10)]
            await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: client.open_connections == 0, "all connections to be gone")


async def test_nobody_listening_is_a_failure_that_was_not_sent() -> None:
    client = Upstream(UpstreamUrl(False, "127.0.0.1", 1, b""), timeout=60)
    with pytest.raises(UpstreamUnreachable) as caught:
        await ask(client)
    assert not caught.value.was_sent


async def test_a_connection_that_is_not_made_in_time_is_a_timeout(tmp_path: Path) -> None:
    """A TLS handshake with a server that says nothing."""
    async with upstream_server() as server:
        url = UpstreamUrl(True, "127.0.0.1", server.port, b"")
        client = Upstream(url, timeout=60, connect_timeout=0.05)
        with pytest.raises(UpstreamTimeout):
            await ask(client)
        assert client.open_connections == 0


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
